//! One user, and what it may read.

use sha2::{Digest, Sha256};

use super::error::UsersError;
use super::passwords::Passwords;

/// One user: its passwords, and what it may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    is_on: bool,
    pub(super) passwords: Passwords,
    is_unrestricted: bool,
}

impl User {
    /// Reads the rules that `ACL SETUSER` takes, between spaces.
    pub(super) fn parse(name: &str, rules: &str) -> Result<Self, UsersError> {
        let mut user = Self {
            name: name.to_owned(),
            is_on: false,
            passwords: Passwords::default(),
            is_unrestricted: true,
        };
        for rule in rules.split_ascii_whitespace() {
            match rule {
                "on" => user.is_on = true,
                "off" => user.is_on = false,
                "nopass" => user.passwords = Passwords { any: true, digests: Vec::new() },
                _ => {
                    if let Some(password) = rule.strip_prefix('>') {
                        user.passwords.any = false;
                        user.passwords.digests.push(Sha256::digest(password).into());
                    }
                }
            }
        }
        Ok(user)
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
        self.is_unrestricted
    }

    /// Whether some of its permissions let it read this key.
    pub fn may_read_key(&self, key: &[u8]) -> bool {
        let _ = key;
        true
    }

    /// Whether it may subscribe to this channel, or to this pattern of channels.
    pub fn may_receive(&self, channel: &[u8], is_pattern: bool) -> bool {
        let _ = (channel, is_pattern);
        true
    }
}
