//! What a request's path and query ask for.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// Keys on one page of a listing unless `limit` says otherwise.
pub const DEFAULT_PAGE_KEYS: usize = 10_000;

/// The highest `limit`.
pub const MAX_PAGE_KEYS: usize = 100_000;

/// Keys on one page of the data browser unless `limit` says otherwise: a small data set is on one
/// page, in natural order.
pub const DEFAULT_HTML_KEYS: usize = 2000;

/// The highest `limit` of such a page: browsers take long over longer tables.
pub const MAX_HTML_KEYS: usize = 10_000;

/// What need not be percent-encoded in a link. A hyphen is, as `/-/` is ours; and a slash, as `//`
/// would begin the name of a host, and clients take `/../` out.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b':').remove(b'_').remove(b'.');

/// The form in which data are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For programs.
    Json,
    /// For people: the data browser.
    Html,
    /// A string's bytes themselves.
    Raw,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// What is below `/-/`.
    Admin(AdminTarget),
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
pub enum AdminTarget {
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
    /// The form of the answer.
    pub format: Format,
    /// HTML: the element, byte or entry that the page begins with, where these have numbers or ids.
    pub from: Option<Vec<u8>>,
    /// HTML: where an earlier page of a hash or set ended.
    pub cursor: Option<Cursor>,
}

impl KeyQuery {
    /// The bytes themselves are asked for.
    pub fn is_raw(&self) -> bool {
        self.format == Format::Raw
    }
}

/// The path and query that lead to `key`, whatever its bytes, with parameters behind it: their
/// names and values.
pub fn link_to_key(key: &[u8], parameters: &[(&str, &[u8])]) -> String {
    let encode = |bytes| percent_encode(bytes, LINK);
    // These paths mean something else, to us or to browsers.
    let is_special = key.ends_with(b":") || [&b""[..], b".", b"..", b"favicon.ico"].contains(&key);
    let (mut link, mut separator) = match is_special {
        true => (format!("/?key={}", encode(key)), '&'),
        false => (format!("/{}", encode(key)), '?'),
    };
    for (name, value) in parameters {
        link += &format!("{separator}{name}={}", encode(value));
        separator = '&';
    }
    link
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
    /// The `search` as asked for: a glob, or without wildcards the beginning of a key.
    pub search: Option<Vec<u8>>,
    /// Whether the format was asked for by name: then it is in the links, too.
    pub is_format_named: bool,
    /// How many keys a page should have.
    pub limit: usize,
    /// Where a page before this one ended.
    pub cursor: Option<Cursor>,
    /// The form of the answer: never raw.
    pub format: Format,
}

impl PageQuery {
    /// The path and query of the page that goes on at `cursor`.
    pub fn link(&self, cursor: &Cursor) -> String {
        let encode = |bytes| percent_encode(bytes, LINK);
        let mut link = format!("/{}?", encode(&self.prefix));
        if let Some(matching) = &self.matching {
            link += &format!("match={}&", encode(matching));
        }
        if let Some(search) = &self.search {
            link += &format!("search={}&", encode(search));
        }
        if self.is_format_named {
            link += if self.format == Format::Html { "format=html&" } else { "format=json&" };
        }
        if self.limit != limits(self.format).0 {
            link += &format!("limit={}&", self.limit);
        }
        link + "cursor=" + &cursor.to_text()
    }
}

/// The default and the highest `limit` of a page.
fn limits(format: Format) -> (usize, usize) {
    match format {
        Format::Html => (DEFAULT_HTML_KEYS, MAX_HTML_KEYS),
        _ => (DEFAULT_PAGE_KEYS, MAX_PAGE_KEYS),
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

/// Whether the answer to this target, be it an error, is for a person to read: what `format` says
/// goes before what the client accepts. This is decided nowhere else.
pub fn wants_html(target: &str, accepts_html: bool) -> bool {
    let (_, query) = target.split_once('?').unwrap_or((target, ""));
    match Query::parse(query).ok().and_then(|mut query| query.take("format")) {
        Some(format) => format == b"html",
        None => accepts_html,
    }
}

/// Whether it is below `/-/`.
pub fn is_internal(target: &str) -> bool {
    target.starts_with("/-/")
}

/// Reads the path and query of a request; `html` is what [`wants_html`] says of it.
///
/// # Errors
/// What is wrong with it, for a 400.
pub fn parse(target: &str, html: bool) -> Result<Target, String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(path) = path.strip_prefix("/-/") {
        return internal(path, query).map(Target::Admin);
    }
    if path == "/favicon.ico" {
        return Ok(Target::Favicon);
    }
    let name = decode(path.strip_prefix('/').unwrap_or(path))?;
    let mut query = Query::parse(query)?;
    let format = query.format(html)?;
    let target = if name.is_empty() {
        match query.take("key") {
            Some(key) => Target::Key(query.key(key, format, true)?, None),
            None => Target::Page(query.page(Vec::new(), format)?),
        }
    } else if name.ends_with(b":") {
        // A cursor is the listing's: links to such keys have the other form.
        let key = query.key(name.clone(), format, false)?;
        let is_whole = key.field.is_none() && !key.is_raw() && key.from.is_none();
        let listing = if is_whole { Some(query.page(name, format)?) } else { None };
        Target::Key(key, listing)
    } else {
        Target::Key(query.key(name, format, true)?, None)
    };
    query.end()?;
    Ok(target)
}

/// Probes may carry whatever parameters they like.
fn internal(path: &str, query: &str) -> Result<AdminTarget, String> {
    Ok(match path {
        "" => AdminTarget::Page,
        "status.json" => {
            let mut query = Query::parse(query)?;
            let since = query.number("since", 0..=u64::MAX)?.unwrap_or(0);
            AdminTarget::Status { since }
        }
        "metrics" => AdminTarget::Metrics,
        "ping" => AdminTarget::Ping,
        "health" => AdminTarget::Health,
        "ready" => AdminTarget::Ready,
        _ => AdminTarget::Unknown,
    })
}

/// The parameters that have not been taken yet.
struct Query {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether `format` was among them.
    is_format_named: bool,
}

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
        Ok(Self { pairs, is_format_named: false })
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.pairs.iter().position(|(given, _)| given == name.as_bytes())?;
        Some(self.pairs.swap_remove(at).1)
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

    fn format(&mut self, html: bool) -> Result<Format, String> {
        let named = self.take("format");
        self.is_format_named = named.is_some();
        match named.as_deref() {
            None | Some(b"html") if html => Ok(Format::Html),
            None | Some(b"json") => Ok(Format::Json),
            Some(b"raw") => Ok(Format::Raw),
            Some(_) => Err("format is json, html or (a value's) raw".to_owned()),
        }
    }

    fn key(
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

    fn page(&mut self, prefix: Vec<u8>, format: Format) -> Result<PageQuery, String> {
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

    fn end(self) -> Result<(), String> {
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

/// The glob that finds what is searched for.
fn search_glob(search: &[u8]) -> Vec<u8> {
    match search.iter().any(|byte| b"*?[".contains(byte)) {
        true => search.to_vec(),
        false => [escape_glob(search), b"*".to_vec()].concat(),
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
        Target::Key(query(name, None, Format::Json), None)
    }

    fn query(key: &[u8], field: Option<&[u8]>, format: Format) -> KeyQuery {
        let field = field.map(<[u8]>::to_vec);
        KeyQuery { key: key.to_vec(), field, format, from: None, cursor: None }
    }

    fn page(target: &str) -> PageQuery {
        match parse(target, false) {
            Ok(Target::Page(page) | Target::Key(_, Some(page))) => page,
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn any_bytes_can_be_a_key() {
        assert_eq!(parse("/actor:1", false), Ok(key(b"actor:1")));
        assert_eq!(parse("/a/b//c", false), Ok(key(b"a/b//c")));
        assert_eq!(parse("//a", false), Ok(key(b"/a")));
        assert_eq!(parse("/a%2Fb%3f%25%00%ff%0A", false), Ok(key(b"a/b?%\0\xff\n")));
        assert_eq!(parse("/a+b", false), Ok(key(b"a+b")));
        assert_eq!(parse("/?key=a+b%2B", false), Ok(key(b"a b+")));
        assert_eq!(parse("/?key=", false), Ok(key(b"")));
        assert_eq!(parse("/ключ", false), Ok(key("ключ".as_bytes())));
        assert_eq!(parse("/-", false), Ok(key(b"-")));
        assert_eq!(parse("/%2D/ping", false), Ok(key(b"-/ping")));
        assert_eq!(parse("/%66avicon.ico", false), Ok(key(b"favicon.ico")));
    }

    #[test]
    fn what_is_ours_is_told_apart() {
        let internal = |target| match parse(target, false) {
            Ok(Target::Admin(internal)) => internal,
            other => panic!("{target}: {other:?}"),
        };
        assert_eq!(internal("/-/"), AdminTarget::Page);
        assert_eq!(internal("/-/status.json"), AdminTarget::Status { since: 0 });
        assert_eq!(internal("/-/status.json?since=7"), AdminTarget::Status { since: 7 });
        assert_eq!(internal("/-/metrics"), AdminTarget::Metrics);
        assert_eq!(internal("/-/ping"), AdminTarget::Ping);
        assert_eq!(internal("/-/health"), AdminTarget::Health);
        assert_eq!(internal("/-/ready?from=a"), AdminTarget::Ready);
        assert_eq!(internal("/-/else"), AdminTarget::Unknown);
        assert_eq!(parse("/favicon.ico?v=1", false), Ok(Target::Favicon));
    }

    #[test]
    fn a_field_and_a_format_can_be_asked_for() {
        let field = query(b"a", Some(b"b c"), Format::Raw);
        assert_eq!(parse("/a?field=b%20c&format=raw", false), Ok(Target::Key(field, None)));
        assert_eq!(parse("/a?format=json", false), Ok(key(b"a")));
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
            assert!(matches!(parse(target, false), Ok(Target::Key(_, None))), "{target}");
        }
        assert!(parse("/a:?field=b&limit=5", false).expect_err("no listing").contains("\"limit\""));
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
            search: None,
            limit: 5,
            cursor: None,
            format: Format::Json,
            is_format_named: true,
        };
        let cursor = Cursor { run_id: "abc".to_owned(), position: 7 };
        let link = query.link(&cursor);
        assert_eq!(link, "/%2D%2Fa%20b:?match=x%2A%26%FF&format=json&limit=5&cursor=abc-7");
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
            let error = parse(target, false).expect_err(target);
            assert!(error.contains(why), "{target}: {error}");
        }
    }

    #[test]
    fn what_format_says_goes_before_what_the_client_accepts() {
        for (target, accepts, html) in [
            ("/", true, true),
            ("/", false, false),
            ("/a?format=json", true, false),
            ("/a?format=raw", true, false),
            ("/a?x=1&format=html", false, true),
            ("/%", true, true),
        ] {
            assert_eq!(wants_html(target, accepts), html, "{target}");
        }
        assert_eq!(
            parse("/a?format=html", true),
            Ok(Target::Key(query(b"a", None, Format::Html), None))
        );
        assert!(parse("/?limit=10001", true).is_err() && parse("/?limit=10000", true).is_ok());
        assert!(parse("/a?from=1", false).is_err() && parse("/a?from=1", true).is_ok());
    }

    #[test]
    fn a_search_is_a_prefix_unless_it_has_wildcards() {
        for (target, pattern) in [
            ("/?search=a", &b"a*"[..]),
            ("/?search=a-b%5C", b"a\\-b\\\\*"),
            ("/?search=*a", b"*a"),
            ("/?search=", b"*"),
            ("/p:?search=a", b"p:a*"),
            ("/p:?search=[a]", b"p:[a]"),
        ] {
            assert_eq!(page(target).pattern.as_deref(), Some(pattern), "{target}");
        }
        assert!(parse("/?search=a&match=b", false).is_err());
    }

    #[test]
    fn any_key_has_a_link_that_leads_to_it() {
        let keys: [&[u8]; 10] = [
            b"a",
            b"",
            b".",
            b"..",
            b"favicon.ico",
            b"a:",
            b"-/ping",
            b"//h/",
            b"\0\xff?#&+ %",
            b"<\"'>",
        ];
        for key in keys {
            let target = parse(&link_to_key(key, &[]), true);
            assert_eq!(target, Ok(Target::Key(query(key, None, Format::Html), None)));
            let target = parse(&link_to_key(key, &[("field", b"&="), ("format", b"raw")]), true);
            assert_eq!(target, Ok(Target::Key(query(key, Some(b"&="), Format::Raw), None)));
        }
    }
}
