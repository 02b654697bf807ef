//! Users and what each may read, in Redis's own words.
//!
//! Everything here is a value: no socket, no clock. [`Users`] never changes; a reload makes another one.

mod error;
mod passwords;
mod user;

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

pub use self::error::UsersError;
pub use self::user::User;

/// Name of the user that a client is before it authenticates.
pub const DEFAULT_USER: &str = "default";

/// Rules of the user `default` as long as nobody has configured users.
const OPEN: &str = "on nopass ~* &* +@all";

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
        let open = User::parse(DEFAULT_USER, OPEN);
        Self::of(open.into_iter().collect())
    }

    /// Reads users from the text of a `users.acl` as Redis writes it: a line `user NAME RULE…` for each.
    /// Blank lines and lines that begin with `#` are skipped.
    ///
    /// Without a line for `default` that user is off.
    pub fn parse_acl_file(text: &str) -> Result<Self, UsersError> {
        let _ = text;
        Err(UsersError::new("users.acl is not read yet"))
    }

    /// Reads users from pairs of a name and the rules that `ACL SETUSER` takes, between spaces. Fails if there
    /// are none.
    ///
    /// Without an entry for `default` that user is off.
    pub fn from_entries(entries: &[(String, String)]) -> Result<Self, UsersError> {
        let users: Result<_, _> =
            entries.iter().map(|(name, rules)| User::parse(name, rules)).collect();
        Ok(Self::of(users?))
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
        self.default_user().is_none()
    }

    /// The user of this name if the password is one of its own, or if it takes any (`nopass`); `None` if not, or if
    /// the user is off, or if there is none of this name. The time that it takes depends on the length of the password
    /// alone.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        let digest: [u8; 32] = Sha256::digest(password).into();
        let user = self.by_name.get(name);
        let none = passwords::Passwords::default();
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
