//! The rules of a user, as `ACL SETUSER` takes them and `ACL LIST` prints them.

use super::error::{UsersError, Wrong, shown};
use super::passwords::{Passwords, digest, read_digest};
use super::selector::{KeyPattern, Selector};
use super::user::User;
use crate::policy::categories::Categories;
use crate::policy::key_specs::Needs;
use crate::text::nearest;

/// Limit of a user's rules in bytes: `MAX_PATTERNS` of 64 bytes each.
pub(super) const MAX_RULES_BYTES: usize = 64 * 1024;

/// Limit of a user's name, which stands in replies and in the log.
const MAX_NAME_BYTES: usize = 256;

/// Limit of a user's selectors. Each is tried for a command that those before it refuse.
const MAX_SELECTORS: usize = 100;

/// Limit of a user's patterns, of keys and channels in all selectors. Each is tried for a key that those before it do
/// not match.
const MAX_PATTERNS: usize = 1000;

/// Words that are rules, for the suggestion of one that is nearly right.
const WORDS: [&str; 14] = [
    "on",
    "off",
    "nopass",
    "resetpass",
    "reset",
    "clearselectors",
    "sanitize-payload",
    "skip-sanitize-payload",
    "allkeys",
    "resetkeys",
    "allchannels",
    "resetchannels",
    "allcommands",
    "nocommands",
];

const UNCLOSED: &str = "this selector has no closing parenthesis";

/// A user while its rules are read, one after the other.
#[derive(Debug, Default)]
struct Draft {
    is_on: bool,
    passwords: Passwords,
    own: Selector,
    selectors: Vec<Selector>,
}

/// Reads a user from its name and its rules, which have white space between them. It begins as a new user of Redis
/// does: off, without passwords and permissions.
pub(super) fn read_user(name: &str, rules: &str) -> Result<User, UsersError> {
    check_name(name)?;
    let of_user = |why: &str| UsersError::new(format!("user {}: {why}", shown(name)));
    if rules.len() > MAX_RULES_BYTES {
        return Err(of_user(&format!("its rules have more than {MAX_RULES_BYTES} bytes")));
    }
    let mut draft = Draft::default();
    let mut number = 0;
    let mut words = rules.split_ascii_whitespace();
    while let Some(word) = words.next() {
        number += 1;
        let rule = match word.starts_with('(') {
            true => whole_selector(word, &mut words),
            false => Ok(word.to_owned()),
        };
        let rule = rule.map_err(|wrong| wrong.of(name, number, word))?;
        draft.add(&rule).map_err(|wrong| wrong.of(name, number, &rule))?;
    }
    draft.check().map_err(of_user)?;
    let selectors = std::iter::once(draft.own).chain(draft.selectors).collect();
    Ok(User::new(name, draft.is_on, draft.passwords, selectors))
}

fn check_name(name: &str) -> Result<(), UsersError> {
    let is_wrong = |c: char| c.is_whitespace() || c.is_control();
    let why = match name {
        "" => "it is empty".to_owned(),
        _ if name.contains(is_wrong) => "it has white space or control characters".to_owned(),
        _ if name.len() > MAX_NAME_BYTES => format!("it has more than {MAX_NAME_BYTES} bytes"),
        _ => return Ok(()),
    };
    Err(UsersError::new(format!("user `{}`: this can't be the name of a user: {why}", shown(name))))
}

/// Joins the words of a selector, which ends at the first word that ends with a closing parenthesis.
fn whole_selector<'a>(
    first: &str,
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<String, Wrong> {
    let mut selector = first.to_owned();
    while !selector.ends_with(')') {
        let word = words.next().ok_or_else(|| Wrong::secret(UNCLOSED))?;
        selector.push(' ');
        selector.push_str(word);
    }
    Ok(selector)
}

impl Draft {
    /// Adds a rule. Words are understood in upper and lower case, as in Redis.
    fn add(&mut self, rule: &str) -> Result<(), Wrong> {
        let word = rule.to_ascii_lowercase();
        match word.as_str() {
            "on" => self.is_on = true,
            "off" => self.is_on = false,
            "nopass" => self.passwords = Passwords::any(),
            "resetpass" => self.passwords = Passwords::default(),
            "reset" => *self = Self::default(),
            "clearselectors" => self.selectors.clear(),
            // They are about RESTORE, which writes.
            "sanitize-payload" | "skip-sanitize-payload" => {}
            _ => return self.add_with_sign(rule, &word),
        }
        Ok(())
    }

    fn add_with_sign(&mut self, rule: &str, word: &str) -> Result<(), Wrong> {
        if let Some(password) = rule.strip_prefix('>') {
            return self.passwords.add(digest(password.as_bytes()));
        }
        if let Some(password) = rule.strip_prefix('<') {
            return self.passwords.remove(digest(password.as_bytes()));
        }
        if let Some(hash) = rule.strip_prefix('#') {
            return self.passwords.add(read_digest(hash)?);
        }
        if let Some(hash) = rule.strip_prefix('!') {
            return self.passwords.remove(read_digest(hash)?);
        }
        if rule.starts_with('(') {
            return self.add_selector(rule);
        }
        let is_known = self.own.add(rule, word)?;
        if is_known { self.check_patterns() } else { Err(unknown(word)) }
    }

    fn add_selector(&mut self, rule: &str) -> Result<(), Wrong> {
        let rules = rule.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let rules = rules.ok_or_else(|| Wrong::secret(UNCLOSED))?;
        // Redis would take them for the bounds of a word, or for the beginning of an escape.
        if rules.contains(['"', '\'']) {
            return Err(Wrong::secret("quotes within selectors are not understood"));
        }
        let mut selector = Selector::default();
        for rule in rules.split_ascii_whitespace() {
            // The selector is not shown: a password may have found its way into it.
            let is_known = selector.add(rule, &rule.to_ascii_lowercase()).map_err(|wrong| {
                Wrong::secret(format!("within this selector, `{}`: {}", shown(rule), wrong.why))
            })?;
            if !is_known {
                let why = "a selector has rules about commands, keys and channels only";
                return Err(Wrong::secret(why));
            }
        }
        self.selectors.push(selector);
        if self.selectors.len() > MAX_SELECTORS {
            return Err(Wrong::new(format!("a user has at most {MAX_SELECTORS} selectors")));
        }
        self.check_patterns()
    }

    fn check_patterns(&self) -> Result<(), Wrong> {
        let selectors = std::iter::once(&self.own).chain(&self.selectors);
        let count: usize = selectors.map(|own| own.keys.len() + own.channels.len()).sum();
        match count > MAX_PATTERNS {
            true => Err(Wrong::new(format!("a user has at most {MAX_PATTERNS} patterns"))),
            false => Ok(()),
        }
    }

    /// Refuses what makes no sense for reads.
    fn check(&self) -> Result<(), &'static str> {
        let mut selectors = std::iter::once(&self.own).chain(&self.selectors);
        let mut keys = selectors.clone().flat_map(|own| &own.keys).peekable();
        let reads_some_key = selectors.any(|own| own.all_keys) || keys.peek().is_none();
        match reads_some_key || keys.any(|own| own.grants.read) {
            true => Ok(()),
            false => {
                Err("all its key patterns are for writing only (%W~), and nothing is written \
                 through redis-lb: give it one for reading (~ or %R~), or leave it out")
            }
        }
    }
}

/// The error for a word that is no rule.
fn unknown(word: &str) -> Wrong {
    let near = nearest(word, WORDS.into_iter());
    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    Wrong::secret(format!("no rule of ACL SETUSER begins like this{hint}"))
}

impl Selector {
    /// Adds a rule about commands, keys or channels, which is also given in lower case. Returns whether it is one.
    fn add(&mut self, rule: &str, word: &str) -> Result<bool, Wrong> {
        match word {
            "allkeys" | "~*" => (self.all_keys, self.keys) = (true, Vec::new()),
            "resetkeys" => (self.all_keys, self.keys) = (false, Vec::new()),
            "allchannels" | "&*" => (self.all_channels, self.channels) = (true, Vec::new()),
            "resetchannels" => (self.all_channels, self.channels) = (false, Vec::new()),
            "allcommands" | "+@all" => self.commands.add_all(true),
            "nocommands" | "-@all" => self.commands.add_all(false),
            _ => match word.split_at_checked(1) {
                Some(("~", _)) => {
                    self.add_key(&rule[1..], Needs { read: true, write: true })?;
                }
                Some(("%", _)) => self.add_granted_key(&rule[1..])?,
                Some(("&", _)) => self.add_channel(&rule[1..])?,
                Some(("+", name)) => self.add_command(name, true)?,
                Some(("-", name)) => self.add_command(name, false)?,
                _ => return Ok(false),
            },
        }
        Ok(true)
    }

    /// Adds `R~pattern`, `W~pattern` or `RW~pattern`.
    fn add_granted_key(&mut self, rule: &str) -> Result<(), Wrong> {
        let (letters, pattern) = rule.split_once('~').ok_or("it has no ~ before the pattern")?;
        let (read, write) = match letters.to_ascii_lowercase().as_str() {
            "r" => (true, false),
            "w" => (false, true),
            "rw" | "wr" => (true, true),
            _ => return Err("before the ~ stands R, W or RW".into()),
        };
        self.add_key(pattern, Needs { read, write })
    }

    fn add_key(&mut self, pattern: &str, grants: Needs) -> Result<(), Wrong> {
        if self.all_keys {
            return Err("it comes after ~* or `allkeys`, so it would have no effect: put \
                `resetkeys` before it"
                .into());
        }
        check_pattern(pattern)?;
        let pattern: Box<[u8]> = pattern.as_bytes().into();
        match self.keys.iter_mut().find(|own| own.pattern == pattern) {
            Some(own) => {
                own.grants.read |= grants.read;
                own.grants.write |= grants.write;
            }
            None => self.keys.push(KeyPattern { pattern, grants }),
        }
        Ok(())
    }

    fn add_channel(&mut self, pattern: &str) -> Result<(), Wrong> {
        if self.all_channels {
            return Err("it comes after &* or `allchannels`, so it would have no effect: put \
                `resetchannels` before it"
                .into());
        }
        check_pattern(pattern)?;
        let pattern: Box<[u8]> = pattern.as_bytes().into();
        if !self.channels.contains(&pattern) {
            self.channels.push(pattern);
        }
        Ok(())
    }

    /// Adds a rule about a command or, after an `@`, about a category. The name is in lower case.
    fn add_command(&mut self, name: &str, is_allowed: bool) -> Result<(), Wrong> {
        if let Some(name) = name.strip_prefix('@') {
            let category = Categories::named(name.as_bytes()).ok_or_else(|| no_category(name))?;
            self.commands.add_category(category, is_allowed);
            return Ok(());
        }
        let parts: Vec<&str> = name.split('|').collect();
        match parts.as_slice() {
            [_, _, _, ..] => Err("a subcommand can't be restricted by its arguments".into()),
            [""] | ["", _] => Err("it names no command".into()),
            [_, ""] => Err("it names no subcommand".into()),
            _ if name.contains(['(', ')']) => Err("there is a parenthesis too many in it".into()),
            _ => {
                self.commands.add_name(name, is_allowed);
                Ok(())
            }
        }
    }
}

fn check_pattern(pattern: &str) -> Result<(), Wrong> {
    // Spaces are between rules; other characters that Redis calls space can't be in a pattern either.
    match pattern.contains([' ', '\t', '\r', '\n', '\u{b}', '\u{c}', '\0']) {
        true => Err("a pattern can't have white space or NUL in it".into()),
        false => Ok(()),
    }
}

fn no_category(name: &str) -> Wrong {
    let near = nearest(name, Categories::names().chain(["all"]));
    let hint = near.map_or(String::new(), |near| format!("; did you mean `@{near}`?"));
    Wrong::new(format!("Redis has no such category{hint}"))
}
