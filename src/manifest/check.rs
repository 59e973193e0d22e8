//! Checks of a manifest.

use std::path::Path;

use crate::manifest::{Layout, Manifest, check_name};

impl Manifest {
    pub(super) fn check(&self, path: &Path) -> Result<(), String> {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if self.name != stem {
            return Err(format!("name `{}` differs from the file's name `{stem}`", self.name));
        }
        check_name(&self.name)?;
        let roles = self.layout.roles();
        for (i, file) in self.files.iter().enumerate() {
            if !roles.iter().any(|role| role.name == file.role) {
                let known: Vec<_> = roles.iter().map(|role| role.name).collect();
                return Err(format!(
                    "unknown role `{}`, this layout has: {}",
                    file.role,
                    known.join(", ")
                ));
            }
            if self.files.iter().take(i).any(|other| other.role == file.role) {
                return Err(format!("role `{}` is given twice", file.role));
            }
            if file.name.is_empty() || file.name.starts_with('.') || file.name.contains(['/', '\\']) {
                return Err(format!("`{}` cannot be the name of a file", file.name));
            }
            let Some((kind, hash)) = file.digest() else {
                return Err(format!("file `{}` has neither sha256 nor md5", file.name));
            };
            let length = if kind == "sha256" { 64 } else { 32 };
            let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if hash.len() != length || !hash.bytes().all(is_hex) {
                return Err(format!(
                    "{kind} of `{}` is not {length} lower-case hex digits",
                    file.name
                ));
            }
        }
        // What has a repository may do without archives.
        let hub_only = self.hub.is_some() && self.files.is_empty() && self.directory.is_none();
        for role in roles {
            if role.required && !hub_only && self.file(role.name).is_none() {
                return Err(format!("no file has the role `{}`", role.name));
            }
        }
        if let Some(share) = self.holdout.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return Err(format!("`holdout` is a share between 0 and 1, not {share}"));
        }
        if (self.layout == Layout::Parquet) != self.parquet.is_some() {
            return Err("the layout `parquet` and `[parquet]` go together".into());
        }
        if self.table.is_some() && self.layout != Layout::Table {
            return Err("`[table]` is for the layout `table` only".into());
        }
        let is_table = ["table", "train-table"].iter().any(|role| self.file(role).is_some());
        if self.layout == Layout::Table && !is_table {
            return Err("no file has the role `table`".into());
        }
        if self.layout == Layout::Table && self.file("table").is_some() && self.files.len() > 1 {
            return Err(
                "give either a `table` or one for each side: `train-table`, `validation-table`, `test-table`".into(),
            );
        }
        match (self.layout, self.directory.is_some(), self.files.is_empty()) {
            (Layout::Folders, true, false) => Err("give either `directory` or a `[[file]]`, not both".into()),
            (Layout::Folders, false, true) if !hub_only => {
                Err("give a `directory`, a `[[file]]` of role `archive` or a `[hub]`".into())
            }
            (Layout::Folders, ..) | (Layout::Table, true, _) => Ok(()),
            (Layout::Table, false, _) => Err("give the `directory` that the table's paths are relative to".into()),
            (_, true, _) => Err("`directory` is for the layouts `folders` and `table` only".into()),
            (Layout::OxfordFlowers, ..) if self.class_names.is_empty() && !hub_only => {
                Err("the layout `oxford-flowers` needs `class_names` in label order".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::manifest::tests::{PETS, read};

    #[test]
    fn each_mistake_is_named() {
        let cases = [
            ("micro = true", "micros = true", "micros"),
            ("layout = \"oxford-pets\"", "layout = \"oxford\"", "oxford"),
            (
                "name = \"pets\"",
                "name = \"cats\"",
                "differs from the file's name `pets`",
            ),
            (
                "role = \"annotations\"",
                "role = \"labels\"",
                "unknown role `labels`, this layout has: images, annotations, coop-split",
            ),
            (
                "role = \"annotations\"",
                "role = \"images\"",
                "role `images` is given twice",
            ),
            (
                "md5 = \"5c4f3ee8e5d25df40f4fd59a7f44e54c\"",
                "",
                "file `images.tar.gz` has neither sha256 nor md5",
            ),
            (
                "5c4f3ee8",
                "5C4F3EE8",
                "md5 of `images.tar.gz` is not 32 lower-case hex digits",
            ),
            (
                "micro = true",
                "holdout = 1.0",
                "`holdout` is a share between 0 and 1, not 1",
            ),
            (
                "micro = true",
                "directory = \"x\"",
                "`directory` is for the layouts `folders` and `table` only",
            ),
        ];
        for (from, to, wanted) in cases {
            assert!(PETS.contains(from));
            let error = read(&PETS.replacen(from, to, 1)).unwrap_err();
            let Error::Manifest { reason, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(reason.contains(wanted), "{reason}");
            assert!(error.hint().is_some());
        }
    }
}
