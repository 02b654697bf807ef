//! Users as they are configured: from a file of Redis' own form, from the configuration file, or one password for all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::file_users::FileUser;
use super::text_file;
use crate::policy::users::{DEFAULT_USER, Users};

/// Largest file of users, in bytes: some 10,000 users. A larger file is the wrong one.
const MAX_USERS_BYTES: u64 = 4 * 1024 * 1024;

/// Rules of the user `default` where all that is wanted is a password.
const ALL: &str = "on ~* &* +@all";

/// Refuses users of whom none could read anything.
const NOBODY: &str = "users: nobody could log in, because each is off or has no password: the rules of one who may are \
    such as: on >PASSWORD ~* +@read";

/// Limits of one user, for all of its clients together; `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// Most clients at a time.
    pub max_clients: Option<usize>,
    /// Most requests a second.
    pub max_requests_per_second: Option<u64>,
    /// Most bytes of replies a second.
    pub max_bytes_per_second: Option<u64>,
}

/// The users, checked.
#[derive(Debug)]
pub struct UsersConfig {
    /// The users.
    pub users: Arc<Users>,
    /// The limits of those that have any, by name.
    pub limits: BTreeMap<String, UserLimits>,
    /// Whether any are configured; if not, `default` may read everything without a password.
    pub is_configured: bool,
    /// A text that equal configurations have in common. It holds no password.
    pub(super) meaning: String,
}

impl Default for UsersConfig {
    fn default() -> Self {
        let users = Arc::new(Users::open());
        Self { users, limits: BTreeMap::new(), is_configured: false, meaning: String::new() }
    }
}

impl UsersConfig {
    /// Returns whether every client has to log in.
    pub fn require_login(&self) -> bool {
        self.users.require_auth()
    }
}

/// A password, of which only the SHA-256 is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordDigest(String);

impl fmt::Debug for PasswordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordDigest(…)")
    }
}

impl PasswordDigest {
    pub(super) fn of(password: &str) -> Result<Self, String> {
        match password.is_empty() {
            true => Err("the password is empty".to_owned()),
            false => Ok(Self(hex(password.as_bytes()))),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// Returns a SHA-256 in Redis' form.
pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where users are configured.
pub(super) struct UserSources<'a> {
    pub users_file: Option<PathBuf>,
    pub password: Option<&'a PasswordDigest>,
    pub password_file: Option<PathBuf>,
    /// The tables of the configuration file.
    pub tables: &'a [FileUser],
}

impl UserSources<'_> {
    /// Reads the files, and puts all users together. Warnings about files that every user of the machine can read are
    /// added to `warnings`.
    ///
    /// # Errors
    /// A file can't be read, a user is wrong, or two places say who a user is.
    pub fn read(self, warnings: &mut Vec<String>) -> Result<UsersConfig, String> {
        let mut entries: Vec<(String, String)> = Vec::new();
        if let Some(path) = &self.users_file {
            let text = read_users(path, warnings)
                .map_err(|why| format!("--users-file {}: {why}", path.display()))?;
            entries = users_of(&text);
        }
        for table in self.tables {
            if entries.iter().any(|(name, _)| *name == table.name) {
                let name = &table.name;
                return Err(format!("--users-file has the user {name}, and so has [[user]]"));
            }
            entries.push((table.name.clone(), table.rules.clone()));
        }
        if let Some(digest) = self.required_password(warnings)? {
            if entries.iter().any(|(name, _)| name == DEFAULT_USER) {
                return Err("--require-password sets the password of the user default, which is \
                    configured as a user as well: name one of both"
                    .to_owned());
            }
            entries.push((DEFAULT_USER.to_owned(), format!("{ALL} #{}", digest.text())));
        }
        if entries.is_empty() {
            return match self.users_file {
                Some(path) => Err(format!("--users-file {}: there is no user", path.display())),
                None => Ok(UsersConfig::default()),
            };
        }
        let users = Users::from_entries(&entries).map_err(|error| format!("users: {error}"))?;
        if !users.has_any_in_use() {
            return Err(NOBODY.to_owned());
        }
        let limits = self.tables.iter().map(|table| (table.name.clone(), table.limits)).collect();
        let meaning = hex(format!("{entries:?} {limits:?}").as_bytes());
        Ok(UsersConfig { users: Arc::new(users), limits, is_configured: true, meaning })
    }

    fn required_password(
        &self,
        warnings: &mut Vec<String>,
    ) -> Result<Option<PasswordDigest>, String> {
        let Some(path) = &self.password_file else { return Ok(self.password.cloned()) };
        if self.password.is_some() {
            return Err(
                "--require-password and --require-password-file are two passwords for the \
                user default: name one of both"
                    .to_owned(),
            );
        }
        let wrong = |why| format!("--require-password-file {}: {why}", path.display());
        let (password, is_open_to_all) = text_file::read_password(path).map_err(wrong)?;
        if is_open_to_all {
            warnings.push(text_file::warning(path));
        }
        PasswordDigest::of(&password).map_err(wrong).map(Some)
    }
}

/// Reads a file of users, whose form is checked.
fn read_users(path: &Path, warnings: &mut Vec<String>) -> Result<String, String> {
    let file = text_file::read(path, MAX_USERS_BYTES)?;
    let text = String::from_utf8(file.bytes).map_err(|_| "is not text in UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
    Users::parse_acl_file(&text).map_err(|error| error.to_string())?;
    if file.is_open_to_all {
        warnings.push(text_file::warning(path));
    }
    Ok(text)
}

/// Returns the names and rules in a file of users whose form is right.
fn users_of(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim);
    let users = lines.filter_map(|line| line.strip_prefix("user"));
    let entry = |user: &str| {
        let (name, rules) = user.trim_start().split_once([' ', '\t']).unwrap_or((user.trim(), ""));
        (name.to_owned(), rules.trim().to_owned())
    };
    users.map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_users_file_is_a_user() {
        let text = "# a comment\n\nuser default on nopass ~* +@all\r\n  user  app  on >secret ~app:*\nuser x";
        let users = users_of(text);
        let users: Vec<_> = users.iter().map(|(name, rules)| (&**name, &**rules)).collect();
        assert_eq!(
            users,
            [("default", "on nopass ~* +@all"), ("app", "on >secret ~app:*"), ("x", "")]
        );
    }

    #[test]
    fn users_of_whom_none_can_log_in_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("users.acl");
        for (text, is_right) in [
            ("user alice", false),
            ("user alice off >secret ~* +@all\nuser bob on ~* +@all", false),
            ("user alice on nopass ~* +@all", true),
            ("user alice on >secret ~* +@all\nuser bob", true),
        ] {
            std::fs::write(&path, text).expect("a file");
            let sources = UserSources {
                users_file: Some(path.clone()),
                password: None,
                password_file: None,
                tables: &[],
            };
            let read = sources.read(&mut Vec::new());
            assert_eq!(read.is_ok(), is_right, "{text}: {read:?}");
            assert!(read.err().is_none_or(|why| why.contains("on >PASSWORD")), "{text}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let digest = PasswordDigest::of("hunter2").expect("a password");
        assert!(!format!("{digest:?}{}", digest.text()).contains("hunter2"));
        assert!(PasswordDigest::of("").is_err());
    }
}
