//! Users and what each may read, in Redis's own words.
//!
//! Everything here is a value: no socket, no clock. [`Users`] never changes; a reload makes another one. Rules about
//! commands stay words until a command comes, because which commands there are, and in which categories, is known from
//! the backends' `COMMAND` alone.

mod commands;
mod error;
mod glob;
mod passwords;
mod rules;
mod selector;
#[cfg(test)]
mod tests;
mod user;

use std::collections::HashMap;
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};

pub use self::error::UsersError;
use self::error::shown;
pub use self::glob::{KeyGlob, KeyGlobError};
use self::passwords::Passwords;
pub(super) use self::selector::Missing;
use self::selector::Selector;
pub use self::user::User;

/// Name of the user that a client is before it authenticates.
pub const DEFAULT_USER: &str = "default";

/// Limit of users: ten for each of a thousand applications.
pub const MAX_USERS: usize = 10_000;

/// All users. It never changes: another configuration makes another one.
#[derive(Debug)]
pub struct Users {
    by_name: HashMap<Box<[u8]>, Arc<User>>,
    /// Number of password digests that each attempt to authenticate is compared with: that of the user who
    /// has most. So the time tells nothing.
    compared: usize,
}

impl Users {
    /// The users where none are configured: `default` may do everything without a password.
    pub fn open() -> Self {
        let mut own = Selector { all_keys: true, all_channels: true, ..Selector::default() };
        own.commands.add_all(true);
        Self::of(vec![User::new(DEFAULT_USER, true, Passwords::any(), [own].into())])
    }

    /// Reads users from the text of a `users.acl` as Redis writes it: a line `user NAME RULE…` for each.
    /// Blank lines and lines that begin with `#` are skipped.
    ///
    /// Without a line for `default` that user is off.
    pub fn parse_acl_file(text: &str) -> Result<Self, UsersError> {
        let mut users = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let user = read_line(line).map_err(|error| error.at_line(index + 1))?;
            users.push((format!("line {}: ", index + 1), user));
        }
        Self::checked(users)
    }

    /// Reads users from pairs of a name and the rules that `ACL SETUSER` takes, with white space between them.
    ///
    /// Without an entry for `default` that user is off.
    pub fn from_entries(entries: &[(String, String)]) -> Result<Self, UsersError> {
        let read =
            |(name, rules): &(String, String)| Ok((String::new(), rules::read_user(name, rules)?));
        Self::checked(entries.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// Takes users with the place of each, and refuses those of which there are none, two, or too many.
    fn checked(users: Vec<(String, User)>) -> Result<Self, UsersError> {
        if users.is_empty() {
            return Err(UsersError::new("there is no user, so nobody could read anything"));
        }
        if users.len() > MAX_USERS {
            let why = format!("there are {} users: at most {MAX_USERS} can be had", users.len());
            return Err(UsersError::new(why));
        }
        let mut names = std::collections::HashSet::new();
        for (place, user) in &users {
            if !names.insert(user.name()) {
                let name = shown(user.name());
                return Err(UsersError::new(format!("{place}user {name} is there already")));
            }
        }
        Ok(Self::of(users.into_iter().map(|(_, user)| user).collect()))
    }

    fn of(users: Vec<User>) -> Self {
        let compared = users.iter().map(|user| user.passwords.count()).max().unwrap_or(0).max(1);
        let by_name = users.into_iter().map(|user| (user.name().as_bytes().into(), Arc::new(user)));
        Self { by_name: by_name.collect(), compared }
    }

    /// The user that a client is before it authenticates; `None` if it must authenticate first.
    pub fn default_user(&self) -> Option<Arc<User>> {
        self.get(DEFAULT_USER.as_bytes()).filter(|user| user.is_open()).cloned()
    }

    /// Whether a client must authenticate before anything else is answered.
    pub fn require_auth(&self) -> bool {
        self.get(DEFAULT_USER.as_bytes()).is_none_or(|user| !user.is_open())
    }

    /// Whether any of them may be had: is on, and takes a password or none.
    pub fn has_any_in_use(&self) -> bool {
        self.iter().any(|user| user.is_open() || (user.is_on() && user.passwords.count() > 0))
    }

    /// The user of this name if the password is one of its own, or if it takes any (`nopass`); `None` if not, or if
    /// the user is off, or if there is none of this name. The time that it takes depends on the lengths of both
    /// alone.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        let digest = passwords::digest(password);
        let user = self.by_name.get(name);
        let none = Passwords::default();
        let passwords = user.map_or(&none, |user| &user.passwords);
        let matches = passwords.compare(&digest, self.compared);
        let is_on = Choice::from(u8::from(user.is_some_and(|user| user.is_on())));
        let is_right = (matches & is_on).ct_eq(&Choice::from(1));
        user.filter(|_| is_right.into()).cloned()
    }

    /// The user of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// All users, in no order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<User>> {
        self.by_name.values()
    }
}

/// Reads `user NAME RULE…`.
fn read_line(line: &str) -> Result<User, UsersError> {
    let rest = line.strip_prefix("user").filter(|rest| rest.starts_with([' ', '\t']));
    let rest = rest.ok_or_else(|| {
        UsersError::new("a line begins with `user` and the user's name, unless it is a comment")
    })?;
    let rest = rest.trim_start();
    let (name, rules) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    rules::read_user(name, rules)
}
