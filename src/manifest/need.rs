//! Which form of a dataset serves which protocol, and which files that takes.

use crate::config::Protocol;
use crate::manifest::{Form, Layout, Manifest, SourceFile};

impl Manifest {
    /// Forms that a protocol may be opened from, the preferred one first.
    ///
    /// `tinker` is defined on hub repositories, `coop` on CoOp's paths into the official archives; `clean` takes
    /// either, but where CoOp's list is the clean split (Caltech-101) only the archives have it.
    ///
    /// # Errors
    /// Why there is none, as the end of a sentence about the dataset.
    pub fn forms(&self, protocol: Protocol) -> Result<Vec<Form>, String> {
        let has_archive = !self.files.is_empty() || self.directory.is_some() || self.parquet.is_some();
        let split_by_coop = self.layout == Layout::Caltech101;
        let mut forms = Vec::new();
        for form in [Form::Archive, Form::Hub] {
            let fits = match (form, protocol) {
                (Form::Hub, Protocol::Clean) => self.hub.is_some() && !(split_by_coop && has_archive),
                (Form::Hub, Protocol::Tinker) => self.hub.is_some(),
                (Form::Hub, Protocol::Coop) | (Form::Archive, Protocol::Tinker) => false,
                (Form::Archive, Protocol::Clean) => has_archive,
                (Form::Archive, Protocol::Coop) => self.file("coop-split").is_some(),
            };
            if fits {
                forms.push(form);
            }
        }
        forms.sort_by_key(|form| *form != self.prefer);
        if forms.is_empty() {
            return Err(match protocol {
                Protocol::Tinker => {
                    "the protocol `tinker` needs a hub repository, and its manifest has no `[hub]`".into()
                }
                Protocol::Coop => {
                    "the protocol `coop` needs CoOp's split file, and its manifest has no file of role `coop-split`"
                        .into()
                }
                Protocol::Clean => "its manifest has neither files nor a folder nor a `[hub]`".into(),
            });
        }
        Ok(forms)
    }

    /// Archives and label files that a protocol cannot do without; where several may stand for one another
    /// (labels of Stanford Cars' test images), all of them, if `there` says that none is there.
    pub fn needed(&self, protocol: Protocol, there: impl Fn(&SourceFile) -> bool) -> Vec<&SourceFile> {
        let alternatives = self.layout.alternatives();
        let stands_in = |file: &SourceFile| alternatives.contains(&file.role.as_str()) && there(file);
        let one_is_there = self.files.iter().any(stands_in);
        let roles = self.layout.roles();
        let is_needed = |file: &&SourceFile| {
            roles
                .iter()
                .any(|role| role.name == file.role && (role.required || role.is_archive))
                || (protocol == Protocol::Coop && file.role == "coop-split")
                || (alternatives.contains(&file.role.as_str()) && !one_is_there)
        };
        self.files.iter().filter(is_needed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::{PETS, read};

    const HUB: &str = "\n[hub]\nrepo = \"a/b\"\nrevision = \"main\"\n";
    const COOP: &str = "\n[[file]]\nrole = \"coop-split\"\nname = \"split.json\"\nsize = 1\nmd5 = \"5c4f3ee8e5d25df40f4fd59a7f44e54c\"\n";

    fn forms(manifest: &Manifest, protocol: Protocol) -> Vec<Form> {
        manifest.forms(protocol).unwrap_or_default()
    }

    #[test]
    fn each_protocol_has_its_forms() {
        use Form::{Archive, Hub};
        let plain = read(PETS).unwrap();
        assert_eq!(forms(&plain, Protocol::Clean), [Archive]);
        assert!(plain.forms(Protocol::Tinker).unwrap_err().contains("no `[hub]`"));
        assert!(plain.forms(Protocol::Coop).unwrap_err().contains("coop-split"));
        let both = read(&format!("{PETS}{COOP}{HUB}")).unwrap();
        assert_eq!(forms(&both, Protocol::Clean), [Archive, Hub]);
        assert_eq!(forms(&both, Protocol::Tinker), [Hub]);
        assert_eq!(forms(&both, Protocol::Coop), [Archive]);
        let preferring = Manifest { prefer: Hub, ..both };
        assert_eq!(forms(&preferring, Protocol::Clean), [Hub, Archive]);
        let caltech = Manifest {
            layout: Layout::Caltech101,
            ..preferring
        };
        assert_eq!(forms(&caltech, Protocol::Clean), [Archive]);
    }

    #[test]
    fn one_of_the_files_that_stand_for_each_other_is_enough() {
        let mut manifest = read(&format!("{PETS}{COOP}")).unwrap();
        let roles = |manifest: &Manifest, protocol, there: &[&str]| -> Vec<String> {
            let needed = manifest.needed(protocol, |file| there.contains(&file.role.as_str()));
            needed.iter().map(|file| file.role.clone()).collect()
        };
        assert_eq!(roles(&manifest, Protocol::Clean, &[]), ["images", "annotations"]);
        assert_eq!(
            roles(&manifest, Protocol::Coop, &[]),
            ["images", "annotations", "coop-split"]
        );
        manifest.layout = Layout::StanfordCars;
        for (file, role) in manifest.files.iter_mut().zip(["devkit", "test-labels", "coop-split"]) {
            file.role = role.into();
        }
        assert_eq!(
            roles(&manifest, Protocol::Clean, &[]),
            ["devkit", "test-labels", "coop-split"]
        );
        assert_eq!(roles(&manifest, Protocol::Clean, &["coop-split"]), ["devkit"]);
        assert_eq!(
            roles(&manifest, Protocol::Coop, &["test-labels"]),
            ["devkit", "coop-split"]
        );
    }
}
