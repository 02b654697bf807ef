//! The rules of a user about commands.

use rustc_hash::FxHashMap;

use crate::policy::access::Access;
use crate::policy::categories::Categories;
use crate::policy::table::Name;
use crate::resp::Command;

/// What the rules of a user say about commands. They stay words until a command comes, because each server has
/// commands of its own. Of all rules about a command the last one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CommandRules {
    /// What counts for commands that no other rule is about: `+@all` or `-@all`.
    allows_all: bool,
    by_name: FxHashMap<Name, Rule>,
    by_category: Vec<(Categories, Rule)>,
    /// Rules such as `+select|1`, about a command without subcommands.
    by_first_arg: FxHashMap<Name, ArgRules>,
    /// Number of rules so far.
    count: usize,
}

/// Rules about the first argument of one command.
type ArgRules = Vec<(Box<[u8]>, Rule)>;

/// One rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rule {
    /// Its place among all, from 1 on: a later one overrules it.
    place: usize,
    is_allowed: bool,
}

impl CommandRules {
    /// Adds `+@all` or `-@all`, which overrules all before it.
    pub fn add_all(&mut self, is_allowed: bool) {
        *self = Self { allows_all: is_allowed, ..Self::default() };
    }

    pub fn add_category(&mut self, category: Categories, is_allowed: bool) {
        let rule = self.next(is_allowed);
        self.by_category.retain(|(other, _)| *other != category);
        self.by_category.push((category, rule));
    }

    /// Adds a rule about a command, a subcommand (`config|get`), or the first argument of a command that has no
    /// subcommands.
    pub fn add_name(&mut self, name: &str, is_allowed: bool) {
        let rule = self.next(is_allowed);
        let name = name.to_ascii_lowercase();
        if let Some((command, arg)) = name.split_once('|') {
            let args = self.by_first_arg.entry(command.as_bytes().into()).or_default();
            args.retain(|(other, _)| **other != *arg.as_bytes());
            args.push((arg.as_bytes().into(), rule));
        }
        self.by_name.insert(name.into_bytes().into(), rule);
    }

    fn next(&mut self, is_allowed: bool) -> Rule {
        self.count += 1;
        Rule { place: self.count, is_allowed }
    }

    /// The commands and subcommands that rules name, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.by_name.keys().map(|name| &**name)
    }

    /// Whether every command passes, whatever it is.
    pub fn allow_everything(&self) -> bool {
        let mut names = self.by_name.values();
        let mut categories = self.by_category.iter().map(|(_, rule)| rule);
        self.allows_all
            && names.all(|rule| rule.is_allowed)
            && categories.all(|rule| rule.is_allowed)
    }

    /// Whether there may be a command that passes.
    pub fn allow_something(&self) -> bool {
        let mut names = self.by_name.values();
        let mut categories = self.by_category.iter().map(|(_, rule)| rule);
        self.allows_all
            || names.any(|rule| rule.is_allowed)
            || categories.any(|rule| rule.is_allowed)
    }

    pub fn allow(&self, access: &Access, command: &Command) -> bool {
        let named = |name: &[u8]| self.by_name.get(name).copied();
        let rules = [
            named(&access.name),
            access.container().and_then(named),
            self.by_categories(access),
            Some(Rule { place: 0, is_allowed: self.allows_all }),
        ];
        let last = rules.into_iter().flatten().max_by_key(|rule| rule.place).unwrap_or_default();
        self.by_arg(access, command, last)
    }

    /// The last rule about one of the command's categories. As long as those are not known, a rule that takes a category
    /// away is about it, and none that grants one.
    fn by_categories(&self, access: &Access) -> Option<Rule> {
        let is_about = |(category, rule): &&(Categories, Rule)| match access.categories {
            Some(categories) => categories.overlaps(*category),
            None => !rule.is_allowed,
        };
        self.by_category.iter().rev().find(is_about).map(|(_, rule)| *rule)
    }

    /// Decides by the rules about the first argument that come after the last rule about the command. One that takes
    /// away takes the command: an argument can be written in many ways.
    fn by_arg(&self, access: &Access, command: &Command, last: Rule) -> bool {
        if access.is_container || self.by_first_arg.is_empty() {
            return last.is_allowed;
        }
        let Some(rules) = self.by_first_arg.get(&access.name) else { return last.is_allowed };
        let is_about = |(arg, rule): &&(Box<[u8]>, Rule)| {
            rule.place > last.place && (!rule.is_allowed || command.is(1, arg))
        };
        let rule = rules.iter().rev().find(is_about).map(|(_, rule)| *rule);
        rule.unwrap_or(last).is_allowed
    }
}
