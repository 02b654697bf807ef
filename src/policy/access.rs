//! What the rules of users ask of a command: its name, its categories, its keys and channels.

use super::categories::Categories;
use super::key_specs::{KeySpec, KeyUse, Listed, Needs};
use super::table::Name;
use super::verdict::{LocalCommand, Subscription, c_string};
use crate::resp::Command;

/// Commands whose keys can't be seen in their arguments: those of scripts are in their sources, and the others
/// show any key. With them begin the names of the commands that search indexes, whose keys are in none of their
/// arguments.
const SHOW_ANY_KEY: &[&str] =
    &["cluster|getkeysinslot", "eval_ro", "evalsha_ro", "fcall_ro", "keys", "randomkey"];

/// Commands that run scripts. They may read keys that are in their sources only, and need the permission to write
/// those that are in their arguments.
const SCRIPTS: &[&str] = &["eval", "evalsha", "fcall"];

/// Beginning of the names of commands that search indexes. Some versions list the index as their key.
const SEARCH_PREFIX: &str = "ft.";

/// Commands with the flag `readonly` that show no key. The replies of SCAN are filtered.
const SHOW_NO_KEY: &[&str] = &["dbsize", "lastsave", "lolwut", "role", "scan"];

/// What the rules of users ask of one command, as one backend has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// The name that the server gives it, in lower case: `get`, `config|get`.
    pub name: Name,
    /// Whether it has subcommands.
    pub is_container: bool,
    /// Its categories and its container's; `None` if the server knows no categories.
    pub categories: Option<Categories>,
    pub keys: Keys,
    pub channels: Channels,
    /// Whether every client may send it, even one that has not authenticated.
    pub is_always_allowed: bool,
}

/// Where a command has its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Keys {
    #[default]
    None,
    At(Box<[KeySpec]>),
    /// SORT_RO: one key, and those that BY and GET make of what it finds there.
    Sort,
    /// It may read any key.
    Any,
    /// It may read any key beside those at these places.
    AnyAnd(Box<[KeySpec]>),
}

/// Which channels a command subscribes to with all its arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Channels {
    #[default]
    None,
    Names,
    Patterns,
}

/// What `COMMAND` says about the keys of a command.
#[derive(Debug, Default)]
pub(super) struct ListedKeys {
    /// The key specifications; `None` before Redis 7.
    pub specs: Option<Vec<Listed>>,
    /// First key, last key, step: before Redis 7.
    pub range: (usize, i64, usize),
    pub is_readonly: bool,
    pub is_movable: bool,
    pub is_module: bool,
}

impl ListedKeys {
    /// Decides where the command has its keys, whose name the server gives as `name`.
    pub fn keys(self, name: &str) -> Keys {
        if SHOW_ANY_KEY.contains(&name) || name.starts_with(SEARCH_PREFIX) {
            return Keys::Any;
        }
        if name == "sort_ro" {
            return Keys::Sort;
        }
        // A module says by a function of its own which its keys are, and nothing tells us.
        let is_untold = self.is_movable && (self.is_module || self.specs.is_none());
        if is_untold {
            return Keys::Any;
        }
        let specs: Option<Vec<KeySpec>> = match self.specs {
            None => Some(of_range(self.range, self.is_readonly)),
            Some(listed) => known(listed),
        };
        match specs {
            None => Keys::Any,
            Some(specs) if SCRIPTS.contains(&name) => Keys::AnyAnd(specs.into()),
            Some(specs) if !specs.is_empty() => Keys::At(specs.into()),
            Some(_) if self.is_readonly && !SHOW_NO_KEY.contains(&name) => Keys::Any,
            Some(_) => Keys::None,
        }
    }
}

/// The specifications without those that are about no key; `None` if one does not say where its keys are.
fn known(listed: Vec<Listed>) -> Option<Vec<KeySpec>> {
    let specs = listed.into_iter().filter_map(|spec| match spec {
        Listed::Known(spec) => Some(Some(spec)),
        Listed::NoKey => None,
        Listed::Unknown => Some(None),
    });
    specs.collect()
}

fn of_range((first, last, step): (usize, i64, usize), is_readonly: bool) -> Vec<KeySpec> {
    let needs = Needs { read: true, write: !is_readonly };
    let range = (first > 0).then(|| KeySpec::range(needs, first, last, step));
    range.into_iter().collect()
}

impl Access {
    /// What a command asks that the session handles. Its categories are given as words.
    pub fn of_local(path: &str, local: LocalCommand, categories: &str) -> Self {
        use LocalCommand::{Auth, Hello, Quit, Reset, Scan, Subscribe, Watch};
        let one_key = |at: usize, needs| KeySpec::range(needs, at, at as i64, 1);
        let keys = match local {
            Scan { cursor_arg: 2 } => {
                Keys::At([one_key(1, Needs { read: true, write: false })].into())
            }
            Watch => Keys::At([KeySpec::range(Needs::default(), 1, -1, 1)].into()),
            _ => Keys::None,
        };
        let words = categories.split_ascii_whitespace().map(str::as_bytes);
        Self {
            name: path.replace(' ', "|").into_bytes().into(),
            is_container: false,
            categories: Some(Categories::of(words)),
            keys,
            channels: match local {
                Subscribe(Subscription::Pattern) => Channels::Patterns,
                Subscribe(Subscription::Channel | Subscription::Shard) => Channels::Names,
                _ => Channels::None,
            },
            is_always_allowed: matches!(local, Auth | Hello | Quit | Reset),
        }
    }

    /// What a subcommand asks of a server before Redis 7, which lists the container alone. `name` is that of the
    /// subcommand with its container's.
    pub fn of_subcommand(&self, name: &str) -> Self {
        let keys = match name {
            _ if SHOW_ANY_KEY.contains(&name) => Keys::Any,
            _ if name.ends_with("|help") => Keys::None,
            _ => self.keys.clone(),
        };
        Self { name: name.as_bytes().into(), keys, is_container: false, ..self.clone() }
    }

    /// The name of the command that this one is a subcommand of.
    pub fn container(&self) -> Option<&[u8]> {
        let bar = self.name.iter().position(|&byte| byte == b'|')?;
        self.name.get(..bar)
    }

    /// Whether the command has keys that a user may lack permission for.
    pub fn has_keys(&self) -> bool {
        self.keys != Keys::None
    }

    /// Whether the command may read keys that are in none of its arguments.
    pub fn may_read_any_key(&self) -> bool {
        matches!(self.keys, Keys::Any | Keys::AnyAnd(_))
    }

    /// The keys of a command; `None` if they can't be known.
    pub fn key_uses(&self, command: &Command) -> Option<Vec<KeyUse>> {
        let mut uses = Vec::new();
        match &self.keys {
            Keys::None => {}
            Keys::At(specs) | Keys::AnyAnd(specs) => {
                specs.iter().try_for_each(|spec| spec.add_uses(command, &mut uses))?;
            }
            Keys::Sort => uses.push(KeyUse { at: 1, needs: Needs { read: true, write: false } }),
            Keys::Any => return None,
        }
        Some(uses)
    }

    /// The option by which SORT_RO reads other keys, if it has one. Words that are no option are skipped: the
    /// backend refuses them.
    pub fn sort_option(&self, command: &Command) -> Option<&'static str> {
        if self.keys != Keys::Sort {
            return None;
        }
        let mut args = command.args().skip(2);
        while let Some(option) = args.next() {
            // Redis compares up to a NUL.
            let is = |word: &[u8]| c_string(option, word.len() + 1).eq_ignore_ascii_case(word);
            if is(b"GET") {
                return Some("GET");
            }
            // A pattern without a star names no key: `BY nosort`.
            if is(b"BY") && args.next().is_some_and(|pattern| pattern.contains(&b'*')) {
                return Some("BY");
            }
        }
        None
    }
}
