//! One set of permissions: commands, keys and channels that go together.

use std::cell::OnceCell;

use super::commands::CommandRules;
use super::glob;
use crate::policy::access::{Access, Channels};
use crate::policy::key_specs::{KeyUse, Needs};
use crate::resp::Command;

/// One set of permissions. A user has one of its own and one for each selector; a command must be permitted as a whole
/// by one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    pub commands: CommandRules,
    /// Every key, for reading and writing: `~*`.
    pub all_keys: bool,
    pub keys: Vec<KeyPattern>,
    pub all_channels: bool,
    pub channels: Vec<Box<[u8]>>,
}

/// A pattern of keys, and what may be done with those that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub pattern: Box<[u8]>,
    pub grants: Needs,
}

/// The permission that a command lacks, in the order in which permissions are asked for. Of what several selectors lack
/// the last counts, and of several keys or channels the last argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) enum Missing {
    Command,
    /// Its keys can't be known, so it needs the permission for all of them.
    AllKeys,
    /// The number of the argument.
    Key(usize),
    /// This option of SORT_RO reads other keys, so it needs the permission for all of them.
    SortOption(&'static str),
    /// The number of the argument.
    Channel(usize),
}

/// A command with its keys, which are looked for at most once.
pub(in crate::policy) struct Asked<'a> {
    pub access: &'a Access,
    pub command: &'a Command<'a>,
    /// `None` within if they can't be known.
    pub uses: OnceCell<Option<Vec<KeyUse>>>,
}

impl Selector {
    /// Whether it permits everything.
    pub fn is_unrestricted(&self) -> bool {
        self.commands.allow_everything() && self.all_keys && self.all_channels
    }

    /// Whether it lets every key be read. A pattern that matches all is enough, as in Redis.
    pub fn reads_all_keys(&self) -> bool {
        let is_all = |key: &KeyPattern| key.grants.read && *key.pattern == *b"*";
        self.all_keys || self.keys.iter().any(is_all)
    }

    pub fn grants(&self, key: &[u8], needs: Needs) -> bool {
        let is_enough =
            |grants: Needs| (grants.read || !needs.read) && (grants.write || !needs.write);
        let grants = |own: &KeyPattern| is_enough(own.grants) && glob::matches(&own.pattern, key);
        self.all_keys || self.keys.iter().any(grants)
    }

    /// Whether it lets a channel be subscribed to. A pattern must be one of its own, word for word.
    pub fn receives(&self, channel: &[u8], is_pattern: bool) -> bool {
        let is_granted = |own: &[u8]| match is_pattern {
            true => own == channel,
            false => glob::matches(own, channel),
        };
        self.all_channels || self.channels.iter().any(|own| is_granted(own))
    }

    pub fn check(&self, asked: &Asked) -> Result<(), Missing> {
        let Asked { access, command, .. } = *asked;
        if !access.is_always_allowed && !self.commands.allow(access, command) {
            return Err(Missing::Command);
        }
        self.check_keys(asked)?;
        self.check_channels(access.channels, command)
    }

    fn check_keys(&self, asked: &Asked) -> Result<(), Missing> {
        if self.all_keys || !asked.access.has_keys() {
            return Ok(());
        }
        let reads_all = self.reads_all_keys();
        if asked.access.may_read_any_key() && !reads_all {
            return Err(Missing::AllKeys);
        }
        match asked.uses.get_or_init(|| asked.access.key_uses(asked.command)) {
            Some(uses) => self.check_uses(uses, asked.command)?,
            None if reads_all => {}
            None => return Err(Missing::AllKeys),
        }
        match asked.access.sort_option(asked.command) {
            Some(option) if !reads_all => Err(Missing::SortOption(option)),
            _ => Ok(()),
        }
    }

    fn check_uses(&self, uses: &[KeyUse], command: &Command) -> Result<(), Missing> {
        let is_granted =
            |key: &&KeyUse| self.grants(command.arg(key.at).unwrap_or_default(), key.needs);
        let refused = uses.iter().find(|key| !is_granted(key));
        refused.map_or(Ok(()), |key| Err(Missing::Key(key.at)))
    }

    fn check_channels(&self, channels: Channels, command: &Command) -> Result<(), Missing> {
        let is_pattern = channels == Channels::Patterns;
        if self.all_channels || channels == Channels::None {
            return Ok(());
        }
        let mut args = command.args().enumerate().skip(1);
        let refused = args.find(|(_, channel)| !self.receives(channel, is_pattern));
        refused.map_or(Ok(()), |(at, _)| Err(Missing::Channel(at)))
    }
}
