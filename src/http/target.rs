//! What a request's path and query ask for.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// Keys on one page of a listing unless `limit` says otherwise.
pub const DEFAULT_PAGE_KEYS: usize = 10_000;

/// The highest `limit`.
pub const MAX_PAGE_KEYS: usize = 100_000;

/// What need not be percent-encoded in a link. A hyphen is, as `/-/` is ours; and a slash, as `//`
/// would begin the name of a host, and clients take `/../` out.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b':').remove(b'_').remove(b'.');

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// What is below `/-/`.
    Internal(Internal),
    /// `/favicon.ico`
    Favicon,
    /// A key's value. When there is a listing (the path ends in `:`, and no field or raw bytes are
    /// asked for) and no such key, then the keys that begin with it.
    Key(KeyQuery, Option<PageQuery>),
    /// A page of keys with their values.
    Page(PageQuery),
}

/// What is below `/-/`, where the balancer speaks of itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Internal {
    /// `/-/`
    Page,
    /// `/-/status.json`
    Status {
        /// The number of the sample behind which the history is wanted.
        since: u64,
    },
    /// `/-/metrics`
    Metrics,
    /// `/-/ping`
    Ping,
    /// `/-/health`
    Health,
    /// `/-/ready`
    Ready,
    /// Any other path.
    Unknown,
}

/// A value, or a part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyQuery {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// One field of a hash, not the whole.
    pub field: Option<Vec<u8>>,
    /// The bytes themselves, not JSON.
    pub raw: bool,
}

/// A page of keys.
#[derive(Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// The path's prefix, for the links to further pages.
    pub prefix: Vec<u8>,
    /// What `SCAN MATCH` gets: the escaped prefix and the `match` behind it. `None` for all keys.
    pub pattern: Option<Vec<u8>>,
    /// The `match` as asked for.
    pub matching: Option<Vec<u8>>,
    /// How many keys a page should have.
    pub limit: usize,
    /// Where a page before this one ended.
    pub cursor: Option<Cursor>,
}

impl PageQuery {
    /// The path and query of the page that goes on at `cursor`.
    pub fn link(&self, cursor: &Cursor) -> String {
        let encode = |bytes| percent_encode(bytes, LINK);
        let mut link = format!("/{}?", encode(&self.prefix));
        if let Some(matching) = &self.matching {
            link += &format!("match={}&", encode(matching));
        }
        if self.limit != DEFAULT_PAGE_KEYS {
            link += &format!("limit={}&", self.limit);
        }
        link + "cursor=" + &cursor.to_text()
    }
}

/// Where a listing goes on: a `SCAN` cursor means something to the server process that gave it
/// only, so it carries that process's `run_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// As `INFO server` says it: 40 hexadecimal digits.
    pub run_id: String,
    /// What `SCAN` returned.
    pub position: u64,
}

impl Cursor {
    /// `RUN_ID-POSITION`, as it stands in a URL.
    pub fn to_text(&self) -> String {
        format!("{}-{}", self.run_id, self.position)
    }

    fn parse(text: &str) -> Option<Self> {
        let (run_id, position) = text.rsplit_once('-')?;
        let is_id = (1..=64).contains(&run_id.len())
            && run_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then_some(())?;
        Some(Self { run_id: run_id.to_owned(), position: position.parse().ok()? })
    }
}

/// Reads the path and query of a request.
///
/// # Errors
/// What is wrong with it, for a 400.
pub fn parse(target: &str) -> Result<Target, String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(path) = path.strip_prefix("/-/") {
        return internal(path, query).map(Target::Internal);
    }
    if path == "/favicon.ico" {
        return Ok(Target::Favicon);
    }
    let name = decode(path.strip_prefix('/').unwrap_or(path))?;
    let mut query = Query::parse(query)?;
    let target = if name.is_empty() {
        match query.take("key") {
            Some(key) => Target::Key(query.key(key)?, None),
            None => Target::Page(query.page(Vec::new())?),
        }
    } else if name.ends_with(b":") {
        let key = query.key(name.clone())?;
        let is_whole = key.field.is_none() && !key.raw;
        let listing = if is_whole { Some(query.page(name)?) } else { None };
        Target::Key(key, listing)
    } else {
        Target::Key(query.key(name)?, None)
    };
    query.end()?;
    Ok(target)
}

/// Probes may carry whatever parameters they like.
fn internal(path: &str, query: &str) -> Result<Internal, String> {
    Ok(match path {
        "" => Internal::Page,
        "status.json" => {
            let mut query = Query::parse(query)?;
            let since = query.number("since", 0..=u64::MAX)?.unwrap_or(0);
            Internal::Status { since }
        }
        "metrics" => Internal::Metrics,
        "ping" => Internal::Ping,
        "health" => Internal::Health,
        "ready" => Internal::Ready,
        _ => Internal::Unknown,
    })
}

/// The parameters that have not been taken yet.
struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            // As in an HTML form: a plus is a space.
            let pair = pair.replace('+', " ");
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let name = decode(name)?;
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(format!("the parameter {} stands twice", shown(&name)));
            }
            pairs.push((name, decode(value)?));
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(given, _)| given == name.as_bytes())?;
        Some(self.0.swap_remove(at).1)
    }

    /// A number within these bounds; `None` where there is no such parameter.
    fn number<T>(&mut self, name: &str, bounds: RangeInclusive<T>) -> Result<Option<T>, String>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(digits) = self.take(name) else { return Ok(None) };
        let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        let (least, most) = (bounds.start(), bounds.end());
        let why = || format!("{name} is a number from {least} to {most}");
        number.filter(|number| bounds.contains(number)).map(Some).ok_or_else(why)
    }

    fn key(&mut self, key: Vec<u8>) -> Result<KeyQuery, String> {
        let raw = match self.take("format").as_deref() {
            None | Some(b"json") => false,
            Some(b"raw") => true,
            Some(_) => return Err("format is json or raw".to_owned()),
        };
        Ok(KeyQuery { key, field: self.take("field"), raw })
    }

    fn page(&mut self, prefix: Vec<u8>) -> Result<PageQuery, String> {
        match self.take("format").as_deref() {
            None | Some(b"json") => {}
            Some(_) => return Err("a listing's format is json".to_owned()),
        }
        let limit = self.number("limit", 1..=MAX_PAGE_KEYS)?.unwrap_or(DEFAULT_PAGE_KEYS);
        let cursor = match self.take("cursor") {
            None => None,
            Some(text) => Some(
                std::str::from_utf8(&text)
                    .ok()
                    .and_then(Cursor::parse)
                    .ok_or("cursor is what an earlier page's \"next\" says")?,
            ),
        };
        let matching = self.take("match");
        let pattern = match (&matching, prefix.is_empty()) {
            (None, true) => None,
            (glob, _) => {
                let glob = glob.as_deref().unwrap_or(b"*");
                Some([escape_glob(&prefix), glob.to_vec()].concat())
            }
        };
        Ok(PageQuery { prefix, pattern, matching, limit, cursor })
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "the parameter {} is not one that this path takes: \
                 a key takes field and format, a listing match, limit and cursor",
                shown(name)
            )),
        }
    }
}

/// A parameter's name in an error, cut to a length that an error should have.
fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(40).collect();
    format!("{text:?}")
}

/// Undoes percent-encoding. Anything may be encoded; what begins like an escape must be one.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    match (0..bytes.len()).find(|&at| bytes[at] == b'%' && !is_escape(at)) {
        Some(_) => Err("a % that two hexadecimal digits don't follow: write %25".to_owned()),
        None => Ok(percent_decode(bytes).collect()),
    }
}

/// Escapes what `MATCH` takes for a wildcard.
fn escape_glob(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if b"*?[]\\^-".contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &[u8]) -> Target {
        Target::Key(KeyQuery { key: name.to_vec(), field: None, raw: false }, None)
    }

    fn page(target: &str) -> PageQuery {
        match parse(target) {
            Ok(Target::Page(page) | Target::Key(_, Some(page))) => page,
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn any_bytes_can_be_a_key() {
        assert_eq!(parse("/actor:1"), Ok(key(b"actor:1")));
        assert_eq!(parse("/a/b//c"), Ok(key(b"a/b//c")));
        assert_eq!(parse("//a"), Ok(key(b"/a")));
        assert_eq!(parse("/a%2Fb%3f%25%00%ff%0A"), Ok(key(b"a/b?%\0\xff\n")));
        assert_eq!(parse("/a+b"), Ok(key(b"a+b")));
        assert_eq!(parse("/?key=a+b%2B"), Ok(key(b"a b+")));
        assert_eq!(parse("/?key="), Ok(key(b"")));
        assert_eq!(parse("/ключ"), Ok(key("ключ".as_bytes())));
        assert_eq!(parse("/-"), Ok(key(b"-")));
        assert_eq!(parse("/%2D/ping"), Ok(key(b"-/ping")));
        assert_eq!(parse("/%66avicon.ico"), Ok(key(b"favicon.ico")));
    }

    #[test]
    fn what_is_ours_is_told_apart() {
        let internal = |target| match parse(target) {
            Ok(Target::Internal(internal)) => internal,
            other => panic!("{target}: {other:?}"),
        };
        assert_eq!(internal("/-/"), Internal::Page);
        assert_eq!(internal("/-/status.json"), Internal::Status { since: 0 });
        assert_eq!(internal("/-/status.json?since=7"), Internal::Status { since: 7 });
        assert_eq!(internal("/-/metrics"), Internal::Metrics);
        assert_eq!(internal("/-/ping"), Internal::Ping);
        assert_eq!(internal("/-/health"), Internal::Health);
        assert_eq!(internal("/-/ready?from=a"), Internal::Ready);
        assert_eq!(internal("/-/else"), Internal::Unknown);
        assert_eq!(parse("/favicon.ico?v=1"), Ok(Target::Favicon));
    }

    #[test]
    fn a_field_and_a_format_can_be_asked_for() {
        let field = KeyQuery { key: b"a".to_vec(), field: Some(b"b c".to_vec()), raw: true };
        assert_eq!(parse("/a?field=b%20c&format=raw"), Ok(Target::Key(field, None)));
        assert_eq!(parse("/a?format=json"), Ok(key(b"a")));
    }

    #[test]
    fn listings_match_behind_an_escaped_prefix() {
        assert_eq!(page("/").pattern, None);
        assert_eq!(page("/?match=a*").pattern.as_deref(), Some(&b"a*"[..]));
        assert_eq!(page("/a*[:").pattern.as_deref(), Some(&b"a\\*\\[:*"[..]));
        assert_eq!(page("/a:?match=?").pattern.as_deref(), Some(&b"a:?"[..]));
        assert_eq!((page("/").limit, page("/?limit=5").limit), (DEFAULT_PAGE_KEYS, 5));
    }

    #[test]
    fn a_part_of_a_value_is_never_a_listing() {
        for target in ["/a:?field=b", "/a:?format=raw"] {
            assert!(matches!(parse(target), Ok(Target::Key(_, None))), "{target}");
        }
        assert!(parse("/a:?field=b&limit=5").expect_err("no listing").contains("\"limit\""));
    }

    #[test]
    fn a_cursor_survives_its_trip_through_a_url() {
        let cursor = Cursor { run_id: "f00".repeat(13), position: u64::MAX };
        assert_eq!(page(&format!("/?cursor={}", cursor.to_text())).cursor, Some(cursor));
    }

    #[test]
    fn a_link_leads_back_to_the_same_listing() {
        let query = PageQuery {
            prefix: b"-/a b:".to_vec(),
            pattern: None,
            matching: Some(b"x*&\xff".to_vec()),
            limit: 5,
            cursor: None,
        };
        let cursor = Cursor { run_id: "abc".to_owned(), position: 7 };
        let link = query.link(&cursor);
        assert_eq!(link, "/%2D%2Fa%20b:?match=x%2A%26%FF&limit=5&cursor=abc-7");
        let parsed = page(&link);
        assert_eq!((parsed.prefix, parsed.matching), (query.prefix, query.matching));
        assert_eq!((parsed.limit, parsed.cursor), (5, Some(cursor)));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (target, why) in [
            ("/%", "%25"),
            ("/%4", "%25"),
            ("/%zz", "%25"),
            ("/?limit=0", "limit"),
            ("/-/status.json?since=-1", "since"),
            ("/?limit=x", "limit"),
            ("/?limit=100001", "limit"),
            ("/?cursor=5", "cursor"),
            ("/?cursor=-5", "cursor"),
            ("/a?format=xml", "format"),
            ("/?format=raw", "format"),
            ("/a?feild=b", "\"feild\""),
            ("/a?match=b", "\"match\""),
            ("/a?field=b&field=c", "twice"),
        ] {
            let error = parse(target).expect_err(target);
            assert!(error.contains(why), "{target}: {error}");
        }
    }
}
