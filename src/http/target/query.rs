//! The parameters of a request.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use percent_encoding::percent_decode;

use super::glob::{escape_glob, search_glob};
use super::{Cursor, Format, KeyQuery, PageQuery};

/// Keys on one page of a listing unless `limit` says otherwise.
pub(super) const DEFAULT_PAGE_KEYS: usize = 10_000;

/// Highest `limit` of a listing.
const MAX_PAGE_KEYS: usize = 100_000;

/// Keys on one page of the data browser unless `limit` says otherwise, so that a small data set fits
/// on one page, in natural order.
const DEFAULT_HTML_KEYS: usize = 2000;

/// Highest `limit` of such a page: browsers are slow with longer tables.
const MAX_HTML_KEYS: usize = 10_000;

/// Returns the default and the highest `limit` of a page.
pub(super) fn limits(format: Format) -> (usize, usize) {
    match format {
        Format::Html => (DEFAULT_HTML_KEYS, MAX_HTML_KEYS),
        _ => (DEFAULT_PAGE_KEYS, MAX_PAGE_KEYS),
    }
}

/// The parameters that have not been taken yet.
pub(super) struct Query {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether `format` was one of them.
    is_format_named: bool,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            // A plus is a space, as in an HTML form.
            let pair = pair.replace('+', " ");
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let name = decode(name)?;
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(format!("the parameter {} occurs twice", shown(&name)));
            }
            pairs.push((name, decode(value)?));
        }
        Ok(Self { pairs, is_format_named: false })
    }

    /// Takes a parameter's value.
    pub(super) fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.pairs.iter().position(|(given, _)| given == name.as_bytes())?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// Takes a number within these bounds; `None` if there is no such parameter.
    pub(super) fn number<T>(
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

    /// Takes the format; `html` is the default for a client that accepts it.
    pub(super) fn format(&mut self, html: bool) -> Result<Format, String> {
        let named = self.take("format");
        self.is_format_named = named.is_some();
        match named.as_deref() {
            None | Some(b"html") if html => Ok(Format::Html),
            None | Some(b"json") => Ok(Format::Json),
            Some(b"raw") => Ok(Format::Raw),
            Some(_) => Err("format is json, html or (a value's) raw".to_owned()),
        }
    }

    /// Takes the parameters of a key.
    pub(super) fn key(
        &mut self,
        key: Vec<u8>,
        format: Format,
        takes_cursor: bool,
    ) -> Result<KeyQuery, String> {
        let is_paged = format == Format::Html;
        let from = if is_paged { self.take("from") } else { None };
        let cursor = if is_paged && takes_cursor { self.cursor()? } else { None };
        Ok(KeyQuery { key, field: self.take("field"), format, from, cursor })
    }

    fn cursor(&mut self) -> Result<Option<Cursor>, String> {
        let Some(text) = self.take("cursor") else { return Ok(None) };
        let cursor = std::str::from_utf8(&text).ok().and_then(Cursor::parse);
        cursor.map(Some).ok_or_else(|| "cursor is what an earlier page's \"next\" says".to_owned())
    }

    /// Takes the parameters of a page of keys that begin with `prefix`.
    pub(super) fn page(&mut self, prefix: Vec<u8>, format: Format) -> Result<PageQuery, String> {
        if format == Format::Raw {
            return Err("a listing's format is json or html".to_owned());
        }
        let (default, most) = limits(format);
        let limit = self.number("limit", 1..=most)?.unwrap_or(default);
        let cursor = self.cursor()?;
        let search = self.take("search");
        let matching = self.take("match");
        let glob = match (&matching, &search) {
            (Some(_), Some(_)) => return Err("either match or search, not both".to_owned()),
            (Some(glob), None) => Some(glob.clone()),
            (None, Some(search)) => Some(search_glob(search)),
            (None, None) => None,
        };
        let pattern = match (glob, prefix.is_empty()) {
            (None, true) => None,
            (glob, _) => {
                Some([escape_glob(&prefix), glob.unwrap_or_else(|| b"*".to_vec())].concat())
            }
        };
        let is_format_named = self.is_format_named;
        Ok(PageQuery { prefix, pattern, matching, search, limit, cursor, format, is_format_named })
    }

    /// Fails if a parameter has not been taken.
    pub(super) fn end(self) -> Result<(), String> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "the parameter {} is not one that this path takes: \
                 a key takes field and format, a listing match, search, limit, cursor and format",
                shown(name)
            )),
        }
    }
}

/// Quotes a parameter's name for an error, cut to a reasonable length.
fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(40).collect();
    format!("{text:?}")
}

/// Decodes percent-encoding. Every byte may be encoded; each `%` must begin an escape.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    match (0..bytes.len()).find(|&at| bytes[at] == b'%' && !is_escape(at)) {
        Some(_) => Err("a % that two hexadecimal digits don't follow: write %25".to_owned()),
        None => Ok(percent_decode(bytes).collect()),
    }
}
