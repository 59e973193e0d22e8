//! The manifest that an import writes.

use std::fmt::Write as _;

use crate::data::manifest::{Hub, Layout};

/// A file of the manifest: the table.
pub(super) struct TableFile {
    pub name: String,
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

/// What is known about a dataset once its images were looked at.
pub(super) struct Written<'a> {
    pub name: &'a str,
    pub title: &'a str,
    pub licence: &'a str,
    pub layout: Layout,
    pub directory: Option<&'a str>,
    pub table: Option<&'a TableFile>,
    pub holdout: Option<f64>,
    /// Ids of unreadable images, each with what the decoder said.
    pub skip: &'a [(String, String)],
    /// Class names by folder or label.
    pub rename: Vec<(&'a str, &'a str)>,
    pub hub: Option<&'a Hub>,
}

impl Written<'_> {
    pub(super) fn to_toml(&self) -> String {
        let mut text = String::from("# Written by `kshot data import`; yours to edit.\n");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        };
        line("name", self.name);
        line("title", self.title);
        let layout = if self.layout == Layout::Table {
            "table"
        } else {
            "folders"
        };
        line("layout", layout);
        line("licence", self.licence);
        line("citation", "none");
        if let Some(directory) = self.directory {
            line("directory", directory);
        }
        if let Some(share) = self.holdout {
            let _ = writeln!(
                text,
                "# Share of each class that is kept for the test.\nholdout = {share}"
            );
        }
        if self.hub.is_some() {
            text += "prefer = \"hub\"\n";
        }
        if !self.skip.is_empty() {
            text += "# Images that cannot be read.\nskip = [\n";
            for (id, reason) in self.skip {
                let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let _ = writeln!(text, "    {}, # {reason}", quoted(id));
            }
            text += "]\n";
        }
        if !self.rename.is_empty() {
            text += "\n# Class names by the name of their folder or label.\n[rename]\n";
            for (from, to) in &self.rename {
                let _ = writeln!(text, "{} = {}", quoted(from), quoted(to));
            }
        }
        if let Some(table) = self.table {
            let _ = write!(
                text,
                "\n[[file]]\nrole = \"table\"\nname = {}\npath = {}\nsize = {}\nsha256 = {}\n",
                quoted(&table.name),
                quoted(&table.path),
                table.size,
                quoted(&table.sha256)
            );
        }
        if let Some(hub) = self.hub {
            text += &hub_table(hub);
        }
        text
    }
}

fn hub_table(hub: &Hub) -> String {
    let list = |items: &[String]| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "\n[hub]\nrepo = {}\nrevision = {}\nimage = {}\nlabel = {}\ntrain = [{}]\nval = [{}]\ntest = [{}]\n",
        quoted(&hub.repo),
        quoted(&hub.revision),
        quoted(&hub.image),
        quoted(&hub.label),
        list(&hub.train),
        list(&hub.val),
        list(&hub.test)
    );
    for shard in &hub.shards {
        let _ = write!(text, "\n[[hub.shard]]\npath = {}\n", quoted(&shard.path));
        if let Some(size) = shard.size {
            let _ = writeln!(text, "size = {size}");
        }
        if let Some(hash) = &shard.sha256 {
            let _ = writeln!(text, "sha256 = {}", quoted(hash));
        }
    }
    text
}

/// A TOML basic string, which also serves as a quoted key.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_comes_back(key: String, value: String) {
            let table: toml::Table = toml::from_str(&format!("{} = {}", quoted(&key), quoted(&value))).unwrap();
            prop_assert_eq!(table.get(&key).and_then(toml::Value::as_str), Some(value.as_str()));
        }
    }
}
