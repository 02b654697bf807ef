//! Merges the command tables of all backends into one set of rules.

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::access::Access;
use super::cacheable::Cacheable;
use super::command_rule::{Action, CommandRule, Rules};
use super::rules;
use super::scripts::READ_ONLY_FORMS;
use super::shape::Shape;
use super::table::{CommandInfo, Flags, Name};
use super::verdict::{Refused, no_table, not_served};
use crate::metrics::{CommandId, Refusal};

/// Commands that pass only if the configuration says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// KEYS (`--allow-keys`).
    pub keys: bool,
    /// Scripts and functions, which are sent so that they only read (`--allow-scripts`).
    pub scripts: bool,
}

/// Merges command tables.
pub(super) struct Merge {
    /// How many tables there are.
    pub tables: usize,
    pub allowed: Allowed,
}

impl Merge {
    /// Makes one rule for each command that any backend knows. `prefix` is `"container "` or empty.
    pub fn rules(&self, prefix: &str, maps: &[&FxHashMap<Name, CommandInfo>]) -> Rules {
        let names: HashSet<&Name> = maps.iter().flat_map(|map| map.keys()).collect();
        let rule = |name: &Name| {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            let infos: Vec<&CommandInfo> = maps.iter().filter_map(|map| map.get(name)).collect();
            self.rule(&path, &infos)
        };
        names.into_iter().filter_map(|name| Some((name.clone(), rule(name)?))).collect()
    }

    /// `None` if there are no `infos`.
    fn rule(&self, path: &str, infos: &[&CommandInfo]) -> Option<CommandRule> {
        let maps: Vec<_> = infos.iter().map(|info| &info.subcommands).collect();
        let has_unlisted = infos.iter().any(|info| info.has_unlisted);
        let unlisted = || {
            self.refusal(&format!("this subcommand of {}", path.to_ascii_uppercase()), path, infos)
        };
        Some(CommandRule {
            full_name: infos.first()?.full_name.clone(),
            arity: infos.iter().map(|info| info.arity).reduce(loosest)?,
            shape: Shape {
                id: CommandId::default(),
                is_fast: infos.iter().all(|info| info.flags.fast),
                first_key: infos.first()?.first_key,
                cacheable: Cacheable::find(path, infos),
            },
            action: self.action(path, infos),
            subcommands: self.rules(&format!("{path} "), &maps),
            unlisted: has_unlisted.then(unlisted),
            access: different(infos),
            count: Arc::default(),
        })
    }

    fn action(&self, path: &str, infos: &[&CommandInfo]) -> Action {
        let is_readonly = infos.iter().all(|info| info.flags.readonly);
        let may_block = infos.iter().any(|info| info.flags.blocking);
        let may_write = infos.iter().any(|info| info.flags.write);
        let is_everywhere = infos.len() == self.tables;
        match path {
            _ if self.allowed.switched_off(path).is_some() => {}
            _ if may_write || !is_everywhere => {}
            // Before Redis 7 no flag said that it may block.
            _ if is_readonly && rules::is_blocking_read(path) => return Action::ForwardUnlessBlock,
            _ if is_readonly && !may_block && rules::SEARCHES.contains(&path) => {
                return Action::ForwardUnlessCursor;
            }
            _ if is_readonly && !may_block => return Action::Forward,
            _ if rules::is_read(path) => return Action::Forward,
            _ => {}
        }
        Action::Refuse(self.refusal(&path.to_ascii_uppercase(), path, infos))
    }

    /// Says why `shown` is not served, which is the command at `path` or belongs to it.
    fn refusal(&self, shown: &str, path: &str, infos: &[&CommandInfo]) -> Refused {
        let has = |flag: fn(&Flags) -> bool| infos.iter().any(|info| flag(&info.flags));
        if has(|flags| flags.write) {
            return Refused::new(Refusal::Write, rules::READONLY);
        }
        let why = match self.allowed.switched_off(path).or_else(|| rules::reason(path)) {
            Some(why) => why,
            None if infos.len() < self.tables => rules::NOT_EVERYWHERE,
            None if has(|flags| flags.admin) => rules::ADMIN,
            None if has(|flags| flags.blocking) => rules::BLOCKING,
            None => rules::NO_READ,
        };
        not_served(shown, why)
    }
}

impl Allowed {
    /// The reason to refuse a command that the configuration could allow and does not.
    fn switched_off(self, path: &str) -> Option<&'static str> {
        match path {
            "keys" if !self.keys => Some(rules::KEYS_OFF),
            "eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "script load" if !self.scripts => {
                Some(rules::SCRIPTS_OFF)
            }
            "fcall" | "fcall_ro" if !self.scripts => Some(rules::FUNCTIONS_OFF),
            _ => None,
        }
    }
}

/// Lets commands pass that run scripts which may write, where the forms pass in which they are sent.
pub(super) fn admit_scripts(commands: &mut Rules) {
    for (name, read_only) in READ_ONLY_FORMS {
        let passes = |rule: &CommandRule| matches!(rule.action, Action::Forward);
        if commands.get(read_only.as_bytes()).is_some_and(passes)
            && let Some(rule) = commands.get_mut(name.as_bytes())
        {
            rule.action = Action::Forward;
        }
    }
}

/// What the rules of users ask of a command, once for each way in which backends have it.
fn different(infos: &[&CommandInfo]) -> Vec<Access> {
    let mut different: Vec<Access> = Vec::new();
    for info in infos {
        if !different.contains(&info.access) {
            different.push(info.access.clone());
        }
    }
    different
}

/// The arity that allows all that either allows, and perhaps more: the backend checks again.
fn loosest(one: i64, other: i64) -> i64 {
    if one == other { one } else { -one.saturating_abs().min(other.saturating_abs()) }
}

/// Adds a command that the session handles, in place of the backends' own.
pub(super) fn add_local(commands: &mut Rules, row: &rules::LocalRow) {
    let &(path, arity, local, categories) = row;
    let rule = |path: &str, arity, action, access| CommandRule {
        full_name: path.replace(' ', "|").into_bytes().into(),
        arity,
        shape: Shape::default(),
        action,
        subcommands: Rules::default(),
        unlisted: None,
        access,
        count: Arc::default(),
    };
    let access = Access::of_local(path, local, categories);
    let local = rule(path, arity, Action::Local(local), vec![access]);
    match path.split_once(' ') {
        None => commands.insert(path.as_bytes().into(), local),
        Some((container, name)) => commands
            .entry(container.as_bytes().into())
            .or_insert_with(|| rule(container, -2, Action::Refuse(no_table()), Vec::new()))
            .subcommands
            .insert(name.as_bytes().into(), local),
    };
}
