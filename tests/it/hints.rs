//! Whether hints name things that exist: verbs, flags, variables and files.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::root;

/// Read by libraries and tools rather than by kshot's own code.
const OUTSIDE: &[&str] = &["HTTPS_PROXY", "HTTP_PROXY"];

/// What the command line knows.
struct Known {
    /// "data fetch", "sweep", …
    verbs: BTreeSet<String>,
    /// "--results", …
    flags: BTreeSet<String>,
    /// Sources without the table of causes.
    sources: String,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = Known {
            verbs: BTreeSet::new(),
            flags: BTreeSet::new(),
            sources: String::new(),
        };
        look(&mut known, &mut Vec::new());
        read(&mut known.sources, &root().join("src"));
        known
    })
}

fn look(known: &mut Known, path: &mut Vec<String>) {
    let help = Command::new(env!("CARGO_BIN_EXE_kshot"))
        .args(&*path)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    known
        .flags
        .extend(words.filter(|word| word.starts_with("--")).map(str::to_owned));
    let Some((_, verbs)) = help.split_once("\nCommands:\n") else {
        return;
    };
    for line in verbs.lines().take_while(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap_or("");
        // The second line of a long description is indented further.
        if !line.starts_with("   ") && name != "help" && !name.is_empty() {
            path.push(name.to_owned());
            known.verbs.insert(path.join(" "));
            look(known, path);
            path.pop();
        }
    }
}

fn read(into: &mut String, folder: &std::path::Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(into, &path);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("error/cause.rs") {
            *into += &fs::read_to_string(path).unwrap();
        }
    }
}

/// The first thing in backticks that does not exist, if there is one.
pub fn faulty(hint: &str) -> Option<String> {
    hint.split('`').skip(1).step_by(2).find_map(wrong)
}

fn wrong(named: &str) -> Option<String> {
    let known = known();
    let words: Vec<&str> = named.split_whitespace().collect();
    let is_variable = |word: &str| {
        word.contains('_')
            && word.contains(|c: char| c.is_ascii_uppercase())
            && word
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    if let Some(("kshot", rest)) = words.split_first().map(|(first, rest)| (*first, rest)) {
        let two = rest.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let one = rest.first().copied().unwrap_or("");
        let takes_verb = known.verbs.iter().any(|verb| verb.starts_with(&format!("{one} ")));
        if !known.verbs.contains(if takes_verb { two.as_str() } else { one }) || takes_verb && two == one {
            return Some(format!("there is no `{named}`"));
        }
    }
    for word in &words {
        let flag: String = word
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        if flag.starts_with("--") && !known.flags.contains(&flag) {
            return Some(format!("there is no flag `{flag}`"));
        }
        let variable = word.split('=').next().unwrap_or("");
        if is_variable(variable) && !known.sources.contains(&format!("\"{variable}\"")) && !OUTSIDE.contains(&variable)
        {
            return Some(format!("nothing reads the variable `{variable}`"));
        }
    }
    let ours = ["configs/", "datasets/", "scripts/", "docs/", "results/reference/"];
    if ours.iter().any(|folder| named.starts_with(folder)) && !named.contains('<') && !named.ends_with("/noise.json") // made by the gate
        && !root().join(named).exists()
    {
        return Some(format!("there is no `{named}`"));
    }
    None
}

/// Panics when what kshot said has an error without a hint, or a hint that names what does not exist.
pub fn check(said: &str) {
    if !said.lines().any(|line| line.starts_with("error: ")) || said.contains("For more information, try '--help'") {
        return;
    }
    let Some((_, hint)) = said.split_once("\nhint: ") else {
        return;
    };
    if let Some(fault) = faulty(hint) {
        panic!("{fault}, which is hinted at: {said}");
    }
}

#[test]
fn what_does_not_exist_is_found() {
    for there in [
        "`kshot data fetch x` and `kshot sweep --dry-run`, `--results`, `KSHOT_CACHE`, `HTTPS_PROXY`, `configs/`",
        "`kshot sweep` with `scripts/cuda-build.sh`",
    ] {
        assert_eq!(faulty(there), None);
    }
    for absent in [
        "`kshot clean`",
        "`kshot data`",
        "`--no-such`",
        "`KSHOT_NOTHING`",
        "`configs/none.toml`",
    ] {
        assert!(faulty(absent).is_some(), "{absent}");
    }
}

/// Every text of the table of causes, and every remedy that is written where an error is made.
#[test]
fn every_remedy_in_the_sources_names_what_exists() {
    let table = fs::read_to_string(root().join("src/error/cause.rs")).unwrap();
    let mut seen = 0;
    for text in literals(&table).into_iter().chain(literals(&known().sources)) {
        if text.contains('`') && !text.contains("{}") && !text.contains('{') {
            seen += 1;
            if let Some(fault) = faulty(&text) {
                panic!("{fault}: {text}");
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// The string literals of Rust sources, comments left out; continued lines are joined.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut rest = &code.join("\n")[..];
    while let Some(at) = rest.find('"') {
        let before = &rest[..at];
        rest = &rest[at + 1..];
        if before.ends_with('\'') {
            continue;
        }
        let mut literal = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => drop(chars.next()),
                _ => literal.push(c),
            }
        }
        rest = &rest[end..];
        found.push(literal);
    }
    found
}
