//! What all pages have in common: the frame around the data, tables, and links.

use std::io::{self, Write};
use std::sync::LazyLock;

use crate::config::Config;
use crate::http::target::link_to_key;
use crate::http::{self, ResponseWriter};
use crate::render::html::{attribute, begin_document, content_security_policy, cut, line};

/// Longest name of a key or field that is shown whole, except in the headline of its own page.
const SHOWN_NAME_BYTES: usize = 200;

const STYLE: &str =
    concat!(include_str!("../../../web/base.css"), include_str!("../../../web/browse.css"));

static POLICY: LazyLock<String> = LazyLock::new(|| content_security_policy(STYLE, None));

/// The part of every page that is around the data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    shows_status_link: bool,
}

impl Frame {
    /// The frame has a link to the status page if that has the same address.
    pub(crate) fn new(config: &Config) -> Self {
        Self { shows_status_link: config.status_address() == Some(config.listen) }
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
        writeln!(
            response,
            "<body>\n<header>\n<a class=\"home\" href=\"/\">redis-lb</a>\n\
             <form role=\"search\" action=\"/\"><label class=\"unseen\" for=\"search\">Search keys</label>\
             <input id=\"search\" name=\"search\" type=\"search\" value=\"{}\" \
             placeholder=\"A key begins with … or is like *:13?\" autocapitalize=\"none\" \
             autocomplete=\"off\" spellcheck=\"false\"><button>Search</button></form>",
            attribute(search)
        )?;
        if self.shows_status_link {
            response.write_all(
                b"<nav aria-label=\"More\"><a class=\"button\" href=\"/-/\">Status</a></nav>\n",
            )?;
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

/// A link to a key's page, with its name.
pub(super) fn key_link(key: &[u8]) -> String {
    format!("<a href=\"{}\">{}</a>", attribute(&link_to_key(key, &[])), shortened(key))
}

/// Begins a table with these columns.
pub(super) fn begin_table(
    response: &mut impl Write,
    label: &str,
    columns: &[&str],
) -> io::Result<()> {
    open_table(response, label)?;
    for column in columns {
        write!(response, "<th scope=\"col\">{column}</th>")?;
    }
    open_rows(response)
}

/// Opens a table in a box of its own, which can be scrolled with the keyboard. Its columns follow.
pub(super) fn open_table(response: &mut impl Write, label: &str) -> io::Result<()> {
    write!(
        response,
        "<div class=\"box\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">\n\
         <table>\n<thead><tr>"
    )
}

/// Ends the columns. The rows follow.
pub(super) fn open_rows(response: &mut impl Write) -> io::Result<()> {
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
