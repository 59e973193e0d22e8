//! The manifest that an import writes.

use std::fmt::Write as _;

use crate::manifest::TableForm;
use crate::manifest::{Hub, Layout, OwnParquet};

/// A file of the manifest: a table.
pub(super) struct TableFile {
    pub role: &'static str,
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
    pub tables: &'a [TableFile],
    /// Columns of the tables, and how paths become files.
    pub form: &'a TableForm,
    pub parquet: Option<&'a OwnParquet>,
    pub holdout: Option<f64>,
    /// Ids of unreadable images, each with what the decoder said.
    pub skip: &'a [(String, String)],
    /// Classes with too few images, each with the reason.
    pub skip_classes: &'a [(String, String)],
    pub clean_names: bool,
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
        let layout = match self.layout {
            Layout::Table => "table",
            Layout::Parquet => "parquet",
            _ => "folders",
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
        for (key, what, skipped) in [
            ("skip", "Images that cannot be read.", self.skip),
            ("skip_classes", "Classes that have too few images.", self.skip_classes),
        ] {
            if skipped.is_empty() {
                continue;
            }
            let _ = writeln!(text, "# {what}\n{key} = [");
            for (name, reason) in skipped {
                let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let _ = writeln!(text, "    {}, # {reason}", quoted(name));
            }
            text += "]\n";
        }
        if self.clean_names {
            text += "# Class names are spelled as `[rename]` spells those of folders.\nclean_names = true\n";
        }
        if !self.rename.is_empty() {
            text += "\n# Class names by the name of their folder or label.\n[rename]\n";
            for (from, to) in &self.rename {
                let _ = writeln!(text, "{} = {}", quoted(from), quoted(to));
            }
        }
        if *self.form != TableForm::default() {
            text += &form_table(self.form);
        }
        for table in self.tables {
            let _ = write!(
                text,
                "\n[[file]]\nrole = {}\nname = {}\npath = {}\nsize = {}\nsha256 = {}\n",
                quoted(table.role),
                quoted(&table.name),
                quoted(&table.path),
                table.size,
                quoted(&table.sha256)
            );
        }
        if let Some(parquet) = self.parquet {
            text += &parquet_table(parquet);
        }
        if let Some(hub) = self.hub {
            text += &hub_table(hub);
        }
        text
    }
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")
}

fn form_table(form: &TableForm) -> String {
    let mut text = "\n# Columns, and what stands around each path.\n[table]\n".to_owned();
    for (key, value) in [
        ("path_column", form.path_column.as_deref()),
        ("label_column", form.label_column.as_deref()),
        ("split_column", form.split_column.as_deref()),
        ("prefix", Some(form.prefix.as_str()).filter(|text| !text.is_empty())),
        ("suffix", Some(form.suffix.as_str()).filter(|text| !text.is_empty())),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
    }
    if form.split_by_folder {
        text += "split_by_folder = true\n";
    }
    text
}

fn parquet_table(parquet: &OwnParquet) -> String {
    let mut text = format!(
        "\n[parquet]\nimage = {}\nlabel = {}\ntrain = [{}]\nval = [{}]\ntest = [{}]\n",
        quoted(&parquet.image),
        quoted(&parquet.label),
        list(&parquet.train),
        list(&parquet.val),
        list(&parquet.test)
    );
    for shard in &parquet.shards {
        let _ = write!(
            text,
            "\n[[parquet.shard]]\npath = {}\nsplit = {}\nsize = {}\nsha256 = {}\n",
            quoted(&shard.path.to_string_lossy()),
            quoted(&shard.split),
            shard.size,
            quoted(&shard.sha256)
        );
    }
    text
}

fn hub_table(hub: &Hub) -> String {
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
