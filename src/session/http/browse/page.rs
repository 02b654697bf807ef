//! What all pages have in common: the frame around the data, tables, links, numbers as people read them,
//! and strings of which only the beginning is kept.

use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::sync::LazyLock;

use crate::config::Config;
use crate::http::target::{link_to_key, link_to_keys};
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::html::{attribute, begin_document, content_security_policy, cut, line, text};
use crate::resp::reply::{self, Header};
use crate::resp::value_type::ValueType;
use crate::resp::{self, MAX_ARRAY_LENGTH};

/// Longest name of a key or field that is shown whole, except in the headline of its own page.
const SHOWN_NAME_BYTES: usize = 200;

const STYLE: &str =
    concat!(include_str!("../../../web/base.css"), include_str!("../../../web/browse.css"));

static POLICY: LazyLock<String> = LazyLock::new(|| content_security_policy(STYLE, None));

/// The part of every page that is around the data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    shows_status_link: bool,
    /// The database that its links lead to, if not that of each backend's URL.
    database: Option<i64>,
}

impl Frame {
    /// The frame of pages about this database. It has a link to the status page if that has the same address.
    pub(crate) fn new(config: &Config, database: Option<i64>) -> Self {
        Self { shows_status_link: config.status_address() == Some(config.listen), database }
    }

    /// Begins a page: headers, head, and the bar at the top with the search field.
    pub fn begin<W: Write>(
        self,
        response: &mut ResponseWriter<W>,
        title: &[u8],
        search: &[u8],
    ) -> io::Result<()> {
        response.header("Content-Type", http::HTML);
        response.header("Content-Security-Policy", POLICY.as_str());
        response.header("Referrer-Policy", "no-referrer");
        begin_document(response, title, STYLE)?;
        let hidden = |number| format!("<input type=\"hidden\" name=\"db\" value=\"{number}\">");
        let hidden = self.database.map(hidden).unwrap_or_default();
        writeln!(
            response,
            "<body>\n<header>\n<a class=\"home\" href=\"{}\">redis-lb</a>\n\
             <form role=\"search\" action=\"/\">{hidden}<label class=\"unseen\" for=\"search\">Search keys</label>\
             <input id=\"search\" name=\"search\" type=\"search\" value=\"{}\" \
             placeholder=\"A key begins with … or is like *:13?\" autocapitalize=\"none\" \
             autocomplete=\"off\" spellcheck=\"false\"><button>Search</button></form>",
            link_to_keys(self.database),
            attribute(search)
        )?;
        if self.shows_status_link {
            let link = "<nav aria-label=\"More\"><a class=\"button\" href=\"/-/\">Status</a></nav>";
            writeln!(response, "{link}")?;
        }
        response.write_all(b"</header>\n<main>\n")
    }

    /// Ends the page.
    pub fn end(self, response: &mut impl Write) -> io::Result<()> {
        response.write_all(b"</main>\n</body>\n</html>\n")
    }
}

/// The name of a key or field as HTML, cut to a length.
pub(super) fn shortened(name: &[u8]) -> String {
    shortened_to(SHOWN_NAME_BYTES, name)
}

/// The first `max` bytes of a name as HTML.
pub(super) fn shortened_to(max: usize, name: &[u8]) -> String {
    let dots = if name.len() > max { "…" } else { "" };
    match name {
        b"" => "<i>empty</i>".to_owned(),
        _ => format!("{}{dots}", line(cut(name, max))),
    }
}

/// A link as HTML. Its text is HTML already.
pub(super) fn link(to: &str, text: impl Display) -> String {
    format!("<a href=\"{}\">{text}</a>", attribute(to))
}

/// The text as a link; alone where that would be too long.
pub(super) fn link_if_any(to: Option<&str>, text: impl Display) -> String {
    to.map_or_else(|| text.to_string(), |to| link(to, &text))
}

/// A link to a key's page, with its name.
pub(super) fn key_link(key: &[u8], database: Option<i64>) -> String {
    link_if_any(link_to_key(key, database, &[]).as_deref(), shortened(key))
}

/// Returns the command that counts the parts of a value, and what people call such a part.
pub(super) fn parts(value_type: ValueType) -> (&'static str, &'static str) {
    match value_type {
        ValueType::String => ("STRLEN", "byte"),
        ValueType::Hash => ("HLEN", "field"),
        ValueType::List => ("LLEN", "element"),
        ValueType::Set => ("SCARD", "member"),
        ValueType::Zset => ("ZCARD", "member"),
        ValueType::Stream => ("XLEN", "entry"),
    }
}

/// A number of bytes, such as `1.5 KiB`.
pub(super) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    for unit in ["KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return format!("{size:.1} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// `1 key`, `2 keys`
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = match thing {
        _ if number == 1 => thing.to_owned(),
        "entry" => "entries".to_owned(),
        _ => format!("{thing}s"),
    };
    format!("{number} {plural}")
}

/// Writes facts and their names: HTML, in elements with this attribute. Leaves out those that are
/// `None`.
pub(super) fn write_facts(
    response: &mut impl Write,
    attribute: &str,
    facts: &[(&str, Option<String>)],
) -> io::Result<()> {
    if facts.iter().all(|(_, fact)| fact.is_none()) {
        return Ok(());
    }
    response.write_all(b"<dl>\n")?;
    for (name, fact) in facts {
        if let Some(fact) = fact {
            writeln!(response, "<div><dt>{name}</dt><dd{attribute}>{fact}</dd></div>")?;
        }
    }
    response.write_all(b"</dl>\n")
}

/// Begins a table with these columns, in a box of its own, which can be scrolled with the keyboard.
pub(super) fn begin_table(
    response: &mut impl Write,
    label: &str,
    columns: &[impl Display],
) -> io::Result<()> {
    write!(
        response,
        "<div class=\"box\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">\n\
         <table>\n<thead><tr>"
    )?;
    for column in columns {
        write!(response, "<th scope=\"col\">{column}</th>")?;
    }
    response.write_all(b"</tr></thead>\n<tbody>\n")
}

pub(super) fn end_table(response: &mut impl Write) -> io::Result<()> {
    response.write_all(b"</tbody>\n</table>\n</div>\n")
}

/// Writes the link to the next page, if there is one.
pub(super) fn write_next_link(response: &mut impl Write, link: Option<&str>) -> io::Result<()> {
    let Some(link) = link else { return Ok(()) };
    let link = attribute(link);
    writeln!(
        response,
        "<nav id=\"next\" class=\"pages\" aria-label=\"Pages\"><a rel=\"next\" href=\"{link}\">Next page →</a></nav>"
    )
}

/// Writes an error as a page.
pub(crate) fn write_error_page<W: Write>(
    frame: Frame,
    status: u16,
    error: &ErrorBody,
    response: &mut ResponseWriter<W>,
) -> io::Result<()> {
    let key = error.key.as_ref().map(|key| key.0);
    let headline = match status {
        401 => "Log in",
        403 => "Not permitted",
        404 if error.field.is_some() => "No such field",
        404 => "Not found",
        410 => "This page has gone",
        415 => "Can’t be shown",
        429 => "Too many requests",
        503 | 504 => "No answer",
        _ => "That did not work",
    };
    frame.begin(response, headline.as_bytes(), key.unwrap_or_default())?;
    let why = line(error.error.as_ref());
    writeln!(response, "<h1>{headline}</h1>\n<p class=\"error\">{why}</p>")?;
    let facts = [
        ("Key", key.map(shortened)),
        ("Field", error.field.as_ref().map(|field| shortened(field.0))),
        ("Type", error.kind.as_ref().map(|kind| shortened(kind.as_bytes()))),
    ];
    write_facts(response, " class=\"mono\"", &facts)?;
    if !error.backends.is_empty() {
        begin_table(response, "Backends", &["backend", "what is wrong"])?;
        for failure in &error.backends {
            let (backend, why) = (line(&*failure.backend), line(&failure.error));
            writeln!(response, "<tr><th scope=\"row\">{backend}</th><td>{why}</td></tr>")?;
        }
        end_table(response)?;
    }
    writeln!(response, "<p>{}</p>", link(&link_to_keys(frame.database), "All keys"))?;
    frame.end(response)
}

/// The beginning of a string.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub bytes: Vec<u8>,
    /// Length of the whole string.
    pub length: u64,
}

impl Element {
    /// Whether only a part of the string is kept.
    pub fn is_cut(&self) -> bool {
        self.length > self.bytes.len() as u64
    }

    /// The string as HTML, with dots where it is cut.
    pub fn shown(&self) -> String {
        format!("{}{}", text(&self.bytes), if self.is_cut() { "…" } else { "" })
    }

    /// Reads a string to its end, and keeps up to `max` bytes; `None` for null.
    pub fn read(from: &mut impl BufRead, max: usize) -> Result<Option<Self>, resp::Error> {
        let Some(length) = reply::bulk(from)? else { return Ok(None) };
        Self::rest(from, length, max).map(Some)
    }

    /// As [`read`](Self::read), but null is an error.
    pub fn expect(from: &mut impl BufRead, max: usize) -> Result<Self, resp::Error> {
        Self::read(from, max)?.ok_or(resp::Error::Protocol("a bulk string was expected"))
    }

    fn rest(from: &mut impl BufRead, length: u64, max: usize) -> Result<Self, resp::Error> {
        let mut bytes = Vec::new();
        reply::payload(from, length, |piece| {
            // One byte more than is kept shows whether a character is cut.
            let room = (max + 1).saturating_sub(bytes.len());
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            Ok::<_, resp::Error>(())
        })?;
        bytes.truncate(cut(&bytes, max).len());
        Ok(Self { bytes, length })
    }
}

/// Reads a reply of any shape to its end. Returns the first `keep` of its strings, up to `max` bytes
/// of each, and the number of all.
pub(super) fn strings(
    from: &mut impl BufRead,
    keep: usize,
    max: usize,
) -> Result<(Vec<Element>, u64), resp::Error> {
    let (mut kept, mut count, mut left) = (Vec::new(), 0, 1_u64);
    while left > 0 {
        left -= 1;
        match reply::header(from)? {
            Header::Array(length) if left <= MAX_ARRAY_LENGTH => left += length,
            Header::Array(_) => return Err(resp::Error::Protocol("too many elements")),
            Header::Bulk(length) => {
                count += 1;
                let max = if kept.len() < keep { max } else { 0 };
                let element = Element::rest(from, length, max)?;
                if kept.len() < keep {
                    kept.push(element);
                }
            }
            Header::Simple(_) | Header::Integer(_) | Header::Null => {}
        }
    }
    Ok((kept, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_cut_and_counted_and_the_reply_is_read_to_its_end() {
        let mut from =
            &b"*3\r\n$3\r\nabc\r\n*2\r\n$4\r\n\xe2\x82\xacx\r\n$1\r\nz\r\n$-1\r\n:7\r\n"[..];
        let (kept, count) = strings(&mut from, 2, 2).expect("a reply");
        let kept: Vec<_> = kept.iter().map(|e| (&e.bytes[..], e.length, e.is_cut())).collect();
        assert_eq!(kept, [(&b"ab"[..], 3, true), (b"", 4, true)]);
        assert_eq!((count, from), (3, &b":7\r\n"[..]));
    }
}
