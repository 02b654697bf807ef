//! What all pages have in common: the frame around the data, tables and links.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::LazyLock;

use super::crumbs::{Subject, write_crumbs};
use crate::config::Config;
use crate::http::target::{link_to_key, link_to_keys};
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::html::{attribute, begin_document, content_security_policy, cut, line};
use crate::resp::value_type::ValueType;

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

    /// Begins a page about what these names stand for, the most particular first: headers, head, and the bar at the top
    /// with the search field.
    pub fn begin<W: Write>(
        self,
        response: &mut ResponseWriter<W>,
        names: &[&[u8]],
        search: &[u8],
    ) -> io::Result<()> {
        response.header("Content-Type", http::HTML);
        response.header("Content-Security-Policy", POLICY.as_str());
        response.header("Referrer-Policy", "no-referrer");
        begin_document(response, &title(names), STYLE)?;
        let hidden = |number| format!("<input type=\"hidden\" name=\"db\" value=\"{number}\">");
        let hidden = self.database.map(hidden).unwrap_or_default();
        writeln!(
            response,
            "<body>\n<header>\n<a class=\"home\" href=\"{}\">redis-lb</a>\n\
             <form role=\"search\" aria-label=\"Search keys\" action=\"/\">{hidden}<label class=\"unseen\" for=\"search\">Search keys</label>\
             <input id=\"search\" name=\"search\" type=\"search\" value=\"{}\" \
             placeholder=\"Prefix, or pattern like *:13?\" autocapitalize=\"none\" \
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

/// The title of a page about what these names stand for: `name – actor:1 – redis-lb`.
fn title(names: &[&[u8]]) -> Vec<u8> {
    let shown = names.iter().map(|name| if name.is_empty() { &b"(empty)"[..] } else { name });
    shown.chain([&b"redis-lb"[..]]).collect::<Vec<_>>().join(" – ".as_bytes())
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

/// The name of a value's type as HTML; empty if it is not known.
pub(super) fn type_badge(name: &str) -> String {
    match ValueType::from_name(name) {
        Some(_) => format!("<span class=\"type {name}\">{name}</span>"),
        None if name.is_empty() => "<span class=\"more\">unknown</span>".to_owned(),
        None => format!("<span class=\"type\">{}</span>", line(name)),
    }
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

/// The head of a column: HTML.
pub(super) struct Column(pub String, pub Align);

/// Where the cells of a column stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    /// Numbers, so that their digits stand below each other.
    Right,
}

impl Column {
    pub fn left(title: &str) -> Self {
        Self(title.to_owned(), Align::Left)
    }

    pub fn right(title: &str) -> Self {
        Self(title.to_owned(), Align::Right)
    }
}

/// Begins a table with these columns, in a box of its own, which can be scrolled with the keyboard.
pub(super) fn begin_table(
    response: &mut impl Write,
    label: &str,
    columns: &[Column],
) -> io::Result<()> {
    write!(
        response,
        "<div class=\"box\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">\n\
         <table>\n<thead><tr>"
    )?;
    for Column(title, align) in columns {
        let class = if *align == Align::Right { " class=\"number\"" } else { "" };
        write!(response, "<th scope=\"col\"{class}>{title}</th>")?;
    }
    response.write_all(b"</tr></thead>\n<tbody>\n")
}

pub(super) fn end_table(response: &mut impl Write) -> io::Result<()> {
    response.write_all(b"</tbody>\n</table>\n</div>\n")
}

/// Links to other pages of the same listing or value, as far as there are such pages.
#[derive(Default)]
pub(super) struct Pages {
    pub first: Option<String>,
    pub previous: Option<String>,
    pub next: Option<String>,
    pub last: Option<String>,
    /// Whether there is a next page whose link would be too long.
    pub is_next_too_long: bool,
    /// Whether the next page goes on with a search.
    pub is_search: bool,
}

impl Pages {
    pub fn write(&self, response: &mut impl Write) -> io::Result<()> {
        let next = if self.is_search { "Go on searching →" } else { "Next page →" };
        let pages = [
            (&self.first, "", "« First page"),
            (&self.previous, " rel=\"prev\"", "← Previous page"),
            (&self.next, " rel=\"next\"", next),
            (&self.last, "", "Last page »"),
        ];
        if self.is_next_too_long {
            writeln!(response, "<p>There is more, but the link to it would be too long.</p>")?;
        }
        if pages.iter().all(|(link, ..)| link.is_none()) {
            return Ok(());
        }
        writeln!(response, "<nav id=\"pages\" class=\"pages\" aria-label=\"Pages\">")?;
        for (link, rel, name) in pages {
            if let Some(link) = link {
                writeln!(
                    response,
                    "<a class=\"button\"{rel} href=\"{}\">{name}</a>",
                    attribute(link)
                )?;
            }
        }
        response.write_all(b"</nav>\n")
    }
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
    frame.begin(response, &[headline.as_bytes()], key.unwrap_or_default())?;
    write_crumbs(response, Subject::Key(key.unwrap_or_default()), frame.database)?;
    let why = line(error.error.as_ref());
    writeln!(response, "<h1>{headline}</h1>\n<p class=\"error\">{why}</p>")?;
    let facts = [
        ("Key", key.map(shortened)),
        ("Field", error.field.as_ref().map(|field| shortened(field.0))),
        ("Type", error.kind.as_ref().map(|kind| shortened(kind.as_bytes()))),
    ];
    write_facts(response, " class=\"mono\"", &facts)?;
    if !error.backends.is_empty() {
        let columns = [Column::left("backend"), Column::left("what is wrong")];
        begin_table(response, "Backends", &columns)?;
        for failure in &error.backends {
            let (backend, why) = (line(&*failure.backend), line(&failure.error));
            writeln!(
                response,
                "<tr><th scope=\"row\" class=\"backend\">{backend}</th><td>{why}</td></tr>"
            )?;
        }
        end_table(response)?;
    }
    frame.end(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_names_the_field_and_its_key_even_if_they_are_empty() {
        for (names, expected) in [
            (&[&b"name"[..], b"actor:1"][..], "name – actor:1 – redis-lb"),
            (&[b"", b"actor:1"], "(empty) – actor:1 – redis-lb"),
            (&[b""], "(empty) – redis-lb"),
        ] {
            assert_eq!(String::from_utf8_lossy(&title(names)), expected);
        }
    }
}
