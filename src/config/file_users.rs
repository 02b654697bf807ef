//! The users of the configuration file: tables, with rules in Redis' own words.

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{Reader, decimal};
use super::keys::nearest;
use super::users::{UserLimits, hex};
use crate::policy::users::Users;

/// The key of the tables.
pub(super) const USER: &str = "user";

const NAME: &str = "name";
const RULES: &str = "rules";
const MAX_CLIENTS: &str = "max-clients";
const MAX_REQUESTS: &str = "max-requests-per-second";
const MAX_BYTES: &str = "max-bytes-per-second";
const KEYS: [&str; 5] = [NAME, RULES, MAX_CLIENTS, MAX_REQUESTS, MAX_BYTES];

/// A user of the configuration file.
#[derive(Debug, Clone)]
pub(super) struct FileUser {
    pub line: usize,
    pub name: String,
    /// What `ACL SETUSER` takes, between spaces; of passwords only the SHA-256.
    pub rules: String,
    /// Whether the file itself holds a password of this user.
    pub has_password: bool,
    pub limits: UserLimits,
}

impl FileUser {
    /// Returns the rules without passwords.
    pub fn shown_rules(&self) -> String {
        let rule = |rule: &str| match rule.chars().next() {
            Some(first @ ('>' | '<' | '#' | '!')) => format!("{first}…"),
            _ => rule.to_owned(),
        };
        self.rules.split_ascii_whitespace().map(rule).collect::<Vec<_>>().join(" ")
    }
}

impl UserLimits {
    /// Returns the limits as they are written in a file.
    pub(super) fn shown(&self) -> Vec<(&'static str, u64)> {
        let clients = self.max_clients.map(|max| (MAX_CLIENTS, max as u64));
        let requests = self.max_requests_per_second.map(|max| (MAX_REQUESTS, max));
        let bytes = self.max_bytes_per_second.map(|max| (MAX_BYTES, max));
        [clients, requests, bytes].into_iter().flatten().collect()
    }
}

/// Takes the users of a file, which are an array of tables.
pub(super) fn take(reader: &mut Reader, line: usize, value: &Spanned<DeValue>) {
    let DeValue::Array(array) = value.get_ref() else {
        return reader.mistake(line, "write [[user]] for each user");
    };
    for value in array {
        let line = reader.line(value);
        let DeValue::Table(table) = value.get_ref() else {
            reader.mistake(line, "a user must be a table [[user]]");
            continue;
        };
        let Some(user) = of_table(reader, line, table) else { continue };
        match reader.file.users.iter().find(|other| other.name == user.name) {
            Some(other) => {
                let (name, first) = (&user.name, other.line);
                let text = format!("user {name} is on line {first} too; name each one once");
                reader.mistake(line, text);
            }
            None => reader.file.users.push(user),
        }
    }
}

fn of_table(reader: &mut Reader, line: usize, table: &DeTable) -> Option<FileUser> {
    let (name, rules) = (String::new(), String::new());
    let (has_password, limits) = (false, UserLimits::default());
    let mut user = FileUser { line, name, rules, has_password, limits };
    let mut rules_line = line;
    let before = reader.mistakes.len();
    for (key, value) in table {
        let line = reader.line(key);
        let key = key.get_ref().as_ref();
        if key == RULES {
            rules_line = line;
        }
        _ = reader.note(set(&mut user, key, value.get_ref()).map_err(|reason| (line, reason)));
    }
    for key in [NAME, RULES] {
        if !table.iter().any(|(found, _)| found.get_ref() == key) {
            reader.mistake(line, format!("this user has no {key}"));
        }
    }
    if reader.mistakes.len() > before {
        return None;
    }
    let entry = [(user.name.clone(), user.rules.clone())];
    let checked = Users::from_entries(&entry).map_err(|error| (rules_line, error.to_string()));
    reader.note(checked)?;
    user.has_password = user.rules.split_ascii_whitespace().any(|rule| rule.starts_with('>'));
    user.rules = with_digests(&user.rules);
    Some(user)
}

/// Returns rules with the SHA-256 of each password in its place.
pub(super) fn with_digests(rules: &str) -> String {
    let rule = |rule: &str| match rule.split_at_checked(1) {
        Some((">", password)) => format!("#{}", hex(password.as_bytes())),
        Some(("<", password)) => format!("!{}", hex(password.as_bytes())),
        _ => rule.to_owned(),
    };
    rules.split_ascii_whitespace().map(rule).collect::<Vec<_>>().join(" ")
}

/// Takes the value of a key.
fn set(user: &mut FileUser, key: &str, value: &DeValue) -> Result<(), String> {
    let limits = &mut user.limits;
    match (key, value) {
        (NAME, DeValue::String(name)) if !name.is_empty() => user.name = name.clone().into(),
        (NAME, _) => return Err("name must be a text in quotes".to_owned()),
        (RULES, DeValue::String(rules)) => user.rules = rules.clone().into(),
        (RULES, DeValue::Array(rules)) => {
            let words: Option<Vec<&str>> =
                rules.iter().map(|rule| rule.get_ref().as_str()).collect();
            let words =
                words.ok_or("rules must be texts in quotes, such as [\"on\", \"+@read\"]")?;
            user.rules = words.join(" ");
        }
        (RULES, _) => {
            return Err(
                "rules must be a text in quotes, such as \"on >password ~app:* +@read\", or a \
                list of such texts"
                    .to_owned(),
            );
        }
        (MAX_CLIENTS, value) => {
            limits.max_clients = Some(usize::try_from(number(key, value)?).unwrap_or(usize::MAX));
        }
        (MAX_REQUESTS, value) => limits.max_requests_per_second = Some(number(key, value)?),
        (MAX_BYTES, DeValue::String(size)) => {
            let size = size.parse::<ByteSize>().ok().filter(|size| size.as_u64() > 0);
            let size = size.ok_or_else(|| format!("{key} is a size, such as \"10MiB\""))?;
            limits.max_bytes_per_second = Some(size.as_u64());
        }
        (MAX_BYTES, value) => limits.max_bytes_per_second = Some(number(key, value)?),
        _ => {
            let suggested = nearest(key, KEYS.into_iter());
            let suggested = suggested.map(|name| format!("did you mean {name}?"));
            let all = || format!("there are {}", KEYS.join(", "));
            return Err(format!("a user has no key {key}; {}", suggested.unwrap_or_else(all)));
        }
    }
    Ok(())
}

fn number(key: &str, value: &DeValue) -> Result<u64, String> {
    let number = match value {
        DeValue::Integer(number) => decimal(number).parse().ok(),
        _ => None,
    };
    number.filter(|number| *number > 0).ok_or_else(|| format!("{key} must be a number from 1 on"))
}
