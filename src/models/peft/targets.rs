//! The modules that PEFT gives an adapter, by their names.

use fancy_regex::Regex;

/// The modules that get adapters: `target_modules` and the fields that narrow it.
#[derive(Debug)]
pub(super) struct Targets {
    pub(super) modules: Modules,
    pub(super) excluded: Modules,
    /// `modules_to_save`, which get no adapter.
    pub(super) saved: Vec<Regex>,
    /// `layers_to_transform`; none: all.
    pub(super) layers: Vec<u64>,
    /// `layers_pattern`, each with the number of the layer as `idx`.
    pub(super) lists: Vec<Regex>,
}

/// A choice of modules.
#[derive(Debug)]
pub(super) enum Modules {
    /// By whole names, or by ends of names after a dot.
    Named(Vec<String>),
    /// Names that match as a whole.
    Pattern(Regex),
    /// All linear layers but the head.
    AllLinear,
    /// Nobody says.
    Any,
}

impl Modules {
    fn contain(&self, name: &str) -> bool {
        match self {
            Self::Named(names) => names.iter().any(|end| is_or_ends(name, end)),
            Self::Pattern(pattern) => whole(pattern, name),
            Self::AllLinear => name != "lm_head" && name != "classifier",
            Self::Any => true,
        }
    }
}

impl Targets {
    /// True if the module of this name gets an adapter (`check_target_module_exists` of PEFT).
    pub(super) fn contain(&self, name: &str) -> bool {
        if self.excluded.contain(name)
            || self.saved.iter().any(|saved| whole(saved, name))
            || !self.modules.contain(name)
        {
            return false;
        }
        // A pattern speaks for itself.
        if self.layers.is_empty() || matches!(self.modules, Modules::Pattern(_)) {
            return true;
        }
        let found = self.lists.iter().find_map(|list| list.captures(name).ok().flatten());
        let layer = found.and_then(|found| found.name("idx")?.as_str().parse().ok());
        layer.is_some_and(|layer| self.layers.contains(&layer))
    }

    /// True if nobody says which modules they are.
    pub(super) fn unknown(&self) -> bool {
        matches!(self.modules, Modules::Any)
    }
}

/// True if the name is `end`, or ends with it after a dot.
pub(super) fn is_or_ends(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// True if an expression, which has its own anchors, matches. One that takes too long matches nothing.
pub(super) fn whole(pattern: &Regex, name: &str) -> bool {
    pattern.is_match(name).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.language_model.layers.11.self_attn.q_proj";

    fn targets(modules: Modules, layers: &[u64]) -> Targets {
        Targets {
            modules,
            excluded: Modules::Named(Vec::new()),
            saved: Vec::new(),
            layers: layers.to_vec(),
            lists: vec![Regex::new(r"^.*?\.[^.]*\.(?P<idx>\d+)\.").unwrap()],
        }
    }

    fn named(names: &[&str]) -> Modules {
        Modules::Named(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn names_count_as_a_whole_or_from_a_dot() {
        assert!(targets(named(&["q_proj"]), &[]).contain(Q));
        assert!(targets(named(&[Q]), &[]).contain(Q));
        assert!(!targets(named(&["proj"]), &[]).contain(Q));
        assert!(targets(named(&["q_proj"]), &[11]).contain(Q));
        assert!(!targets(named(&["q_proj"]), &[1]).contain(Q));
        let excluding = Targets {
            excluded: named(&["self_attn.q_proj"]),
            ..targets(named(&["q_proj"]), &[])
        };
        assert!(!excluding.contain(Q));
    }

    #[test]
    fn expressions_look_ahead() {
        let pattern = |text: &str| Modules::Pattern(Regex::new(&format!("^(?:{text})$")).unwrap());
        assert!(targets(pattern(r"^(?!.*visual).*(?:q|v)_proj"), &[]).contain(Q));
        assert!(!targets(pattern(r"^(?!.*language_model).*(?:q|v)_proj"), &[]).contain(Q));
        assert!(!targets(pattern("q_proj"), &[]).contain(Q));
    }
}
