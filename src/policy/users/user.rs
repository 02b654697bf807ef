//! One user, and what it may read.

use std::cell::OnceCell;

use super::passwords::Passwords;
use super::selector::{Asked, Missing, Selector};
use crate::policy::access::Access;
use crate::policy::key_specs::Needs;
use crate::resp::Command;

/// One user: its passwords, and what it may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    is_on: bool,
    pub(super) passwords: Passwords,
    /// Its own permissions, and those of its selectors.
    selectors: Box<[Selector]>,
    is_unrestricted: bool,
}

impl User {
    pub(super) fn new(
        name: &str,
        is_on: bool,
        passwords: Passwords,
        selectors: Box<[Selector]>,
    ) -> Self {
        let is_unrestricted = selectors.iter().any(Selector::is_unrestricted);
        Self { name: name.to_owned(), is_on, passwords, selectors, is_unrestricted }
    }

    /// The name as it is configured.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it can authenticate at all.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it takes any password (`nopass`). Redis answers `AUTH` with one argument with an error of its own
    /// if the user `default` does.
    pub fn takes_any_password(&self) -> bool {
        self.passwords.any
    }

    /// Whether a client may be this user without a password.
    pub(super) fn is_open(&self) -> bool {
        self.is_on && self.passwords.any
    }

    /// Whether it may run every command on every key and channel. The path of each read asks nothing else if so.
    pub fn is_unrestricted(&self) -> bool {
        self.is_unrestricted
    }

    /// Whether no key pattern keeps it from a key, so that listings need no filter.
    pub fn sees_all_keys(&self) -> bool {
        self.useful_selectors().any(Selector::reads_all_keys)
    }

    /// Whether some of its permissions let it read this key.
    pub fn may_read_key(&self, key: &[u8]) -> bool {
        let needs = Needs { read: true, write: false };
        self.useful_selectors().any(|selector| selector.grants(key, needs))
    }

    /// Whether it may subscribe to this channel, or to this pattern of channels.
    pub fn may_receive(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.useful_selectors().any(|selector| selector.receives(channel, is_pattern))
    }

    /// Keys and channels of a selector without commands are of no use.
    fn useful_selectors(&self) -> impl Iterator<Item = &Selector> {
        self.selectors.iter().filter(|selector| selector.commands.allow_something())
    }

    /// The commands and subcommands that its rules name, in lower case.
    pub(in crate::policy) fn named_commands(&self) -> impl Iterator<Item = &[u8]> {
        self.selectors.iter().flat_map(|selector| selector.commands.names())
    }

    /// Checks a command as one backend has it. The error is what is missing in the selector that permits most, as in
    /// Redis.
    pub(in crate::policy) fn check(
        &self,
        access: &Access,
        command: &Command,
    ) -> Result<(), Missing> {
        let asked = Asked { access, command, uses: OnceCell::new() };
        let mut most = Missing::Command;
        for selector in &self.selectors {
            match selector.check(&asked) {
                Ok(()) => return Ok(()),
                Err(missing) => most = most.max(missing),
            }
        }
        Err(most)
    }
}
