//! The parameters of a request's query.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use percent_encoding::percent_decode;

/// Most parameters of a query, but for keys. No path takes more than eight; each is compared with those before it.
pub(super) const MAX_PARAMETERS: usize = 32;

/// Most keys that one request can name.
pub(super) const MAX_KEYS: usize = 1000;

/// The parameters of a query that have not been taken yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The keys that each `key` and the lists `keys` name, in their order.
    keys: Vec<Vec<u8>>,
    /// Whether there is a list of keys, which may have one.
    has_list: bool,
    /// Whether `format` was one of them.
    pub(super) is_format_named: bool,
    /// The `db`, once it is taken.
    pub(super) database: Option<i64>,
}

/// The keys that a query names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NamedKeys {
    /// None.
    No,
    /// One, whose value is the answer.
    One(Vec<u8>),
    /// A list, each key once.
    Several(Vec<Vec<u8>>),
}

impl Query {
    /// Parses the query of a target.
    ///
    /// # Errors
    /// Says what is wrong, for a status 400.
    pub(crate) fn of(target: &str) -> Result<Self, String> {
        let text = target.split_once('?').map_or("", |(_, query)| query);
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            // A plus is a space, as in an HTML form.
            let pair = pair.replace('+', " ");
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            query.add(decode(name)?, value)?;
        }
        Ok(query)
    }

    /// Adds a parameter, whose value is still percent-encoded.
    fn add(&mut self, name: Vec<u8>, value: &str) -> Result<(), String> {
        match &name[..] {
            b"key" => self.add_key(value),
            b"keys" if value.is_empty() => {
                Err("keys=A,B lists keys; the empty key is key=".to_owned())
            }
            b"keys" => {
                self.has_list = true;
                // A comma that is encoded belongs to a key.
                value.split(',').try_for_each(|key| self.add_key(key))
            }
            _ if self.pairs.len() >= MAX_PARAMETERS => {
                Err(format!("the query has more than {MAX_PARAMETERS} parameters"))
            }
            _ if self.pairs.iter().any(|(earlier, _)| *earlier == name) => {
                Err(format!("the parameter {} occurs twice", shown(&name)))
            }
            _ => {
                self.pairs.push((name, decode(value)?));
                Ok(())
            }
        }
    }

    fn add_key(&mut self, key: &str) -> Result<(), String> {
        if self.keys.len() >= MAX_KEYS {
            return Err(format!("a request has at most {MAX_KEYS} keys"));
        }
        self.keys.push(decode(key)?);
        Ok(())
    }

    /// Whether the format is HTML; `None` if the query names none.
    pub(crate) fn names_html(&self) -> Option<bool> {
        let format = self.pairs.iter().find(|(name, _)| name == b"format");
        format.map(|(_, value)| value == b"html")
    }

    /// The database that the query names, if it is a number.
    pub(crate) fn names_database(&self) -> Option<i64> {
        let (_, number) = self.pairs.iter().find(|(name, _)| name == b"db")?;
        std::str::from_utf8(number).ok()?.parse().ok().filter(|number| *number >= 0)
    }

    /// Takes a parameter's value.
    pub(crate) fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.pairs.iter().position(|(given, _)| given == name.as_bytes())?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// Takes the keys.
    pub(super) fn take_keys(&mut self) -> NamedKeys {
        let mut keys = std::mem::take(&mut self.keys);
        if !self.has_list && keys.len() <= 1 {
            return keys.pop().map_or(NamedKeys::No, NamedKeys::One);
        }
        let mut seen = HashSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        NamedKeys::Several(keys)
    }

    /// Takes a number within these bounds; `None` if there is no such parameter.
    pub(crate) fn number<T>(
        &mut self,
        name: &str,
        bounds: RangeInclusive<T>,
    ) -> Result<Option<T>, String>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(digits) = self.take(name) else { return Ok(None) };
        let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        let (least, most) = (bounds.start(), bounds.end());
        let why = || format!("{name} is a number from {least} to {most}");
        number.filter(|number| bounds.contains(number)).map(Some).ok_or_else(why)
    }

    /// Returns the name of a parameter that has not been taken, quoted for an error.
    pub(crate) fn left_over(&self) -> Option<String> {
        let first = self.pairs.first().map(|(name, _)| shown(name));
        let keys = if self.has_list { "\"keys\"" } else { "\"key\"" };
        first.or_else(|| (!self.keys.is_empty()).then(|| keys.to_owned()))
    }
}

/// Quotes a parameter's name for an error, cut to a reasonable length.
fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(40).collect();
    format!("{text:?}")
}

/// Decodes percent-encoding. Every byte may be encoded; each `%` must begin an escape.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    match (0..bytes.len()).find(|&at| bytes[at] == b'%' && !is_escape(at)) {
        Some(_) => Err("a % that two hexadecimal digits don't follow: write %25".to_owned()),
        None => Ok(percent_decode(bytes).collect()),
    }
}
