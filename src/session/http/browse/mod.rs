//! The data browser: keys and values as pages for people, without a script, in constant memory.

mod element;
mod listing;
mod value;

use std::io::{self, Write};
use std::sync::LazyLock;

pub use self::listing::listing;
pub use self::value::key;
use crate::http::target::link_to_key;
use crate::http::{self, ErrorBody, ResponseWriter};
use crate::render::html::{attribute, begin_document, content_security_policy, cut, line};

/// What of a key's name is shown, in bytes, where it is not the subject.
const SHOWN_KEY_BYTES: usize = 200;

/// What of a key's name is shown in the headline of its own page.
const HEADLINE_BYTES: usize = 2000;

const STYLE: &str =
    concat!(include_str!("../../../web/base.css"), include_str!("../../../web/browse.css"));

static POLICY: LazyLock<String> = LazyLock::new(|| content_security_policy(STYLE, None));

/// What pages have around the data.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Whether there is a status page to go to.
    pub shows_status_link: bool,
}

impl Frame {
    /// Begins a page: headers, head, and the bar at the top with what is searched for.
    fn begin<W: Write>(
        self,
        answer: &mut ResponseWriter<W>,
        title: &[u8],
        search: &[u8],
    ) -> io::Result<()> {
        answer.header("Content-Type", http::HTML);
        answer.header("Content-Security-Policy", POLICY.as_str());
        answer.header("Referrer-Policy", "no-referrer");
        begin_document(answer, title, STYLE)?;
        writeln!(
            answer,
            "<body>\n<header>\n<a class=\"home\" href=\"/\">redis-lb</a>\n\
             <form role=\"search\" action=\"/\"><label class=\"unseen\" for=\"search\">Search keys</label>\
             <input id=\"search\" name=\"search\" type=\"search\" value=\"{}\" \
             placeholder=\"A key begins with … or is like *:13?\" autocapitalize=\"none\" \
             autocomplete=\"off\" spellcheck=\"false\"><button>Search</button></form>",
            attribute(search)
        )?;
        if self.shows_status_link {
            answer.write_all(
                b"<nav aria-label=\"More\"><a class=\"button\" href=\"/-/\">Status</a></nav>\n",
            )?;
        }
        answer.write_all(b"</header>\n<main>\n")
    }

    /// Ends it.
    fn end<W: Write>(self, answer: &mut ResponseWriter<W>) -> io::Result<()> {
        answer.write_all(b"</main>\n</body>\n</html>\n")
    }
}

/// Writes an error as a page; the status is in the answer already.
pub fn error<W: Write>(
    frame: Frame,
    status: u16,
    error: &ErrorBody,
    answer: &mut ResponseWriter<W>,
) -> io::Result<()> {
    let key = error.key.as_ref().map(|key| key.0);
    let headline = match status {
        404 if error.field.is_some() => "No such field",
        404 => "Not found",
        410 => "This page has gone",
        415 => "Can’t be shown",
        503 | 504 => "No answer",
        _ => "That did not work",
    };
    frame.begin(answer, headline.as_bytes(), key.unwrap_or_default())?;
    writeln!(answer, "<h1>{headline}</h1>\n<p class=\"error\">{}</p>", line(error.error.as_ref()))?;
    write_subject(answer, error)?;
    if !error.backends.is_empty() {
        begin_table(answer, "Backends", &["backend", "what is wrong"])?;
        for failure in &error.backends {
            let (backend, why) = (line(&*failure.backend), line(&failure.error));
            writeln!(answer, "<tr><th scope=\"row\">{backend}</th><td>{why}</td></tr>")?;
        }
        end_table(answer)?;
    }
    answer.write_all(b"<p><a href=\"/\">All keys</a></p>\n")?;
    frame.end(answer)
}

/// The key, field and type that an error is about.
fn write_subject<W: Write>(answer: &mut ResponseWriter<W>, error: &ErrorBody) -> io::Result<()> {
    let facts = [
        ("Key", error.key.as_ref().map(|key| key.0)),
        ("Field", error.field.as_ref().map(|field| field.0)),
        ("Type", error.kind.map(str::as_bytes)),
    ];
    if facts.iter().all(|(_, bytes)| bytes.is_none()) {
        return Ok(());
    }
    answer.write_all(b"<dl>\n")?;
    for (name, bytes) in facts {
        let Some(bytes) = bytes else { continue };
        writeln!(answer, "<div><dt>{name}</dt><dd class=\"mono\">{}</dd></div>", shortened(bytes))?;
    }
    answer.write_all(b"</dl>\n")
}

/// A key's or field's name, cut to a length.
fn shortened(name: &[u8]) -> String {
    let dots = if name.len() > SHOWN_KEY_BYTES { "…" } else { "" };
    match name {
        b"" => "<i>empty</i>".to_owned(),
        _ => format!("{}{dots}", line(cut(name, SHOWN_KEY_BYTES))),
    }
}

/// A link to a key's page, with its name.
fn key_link(key: &[u8]) -> String {
    format!("<a href=\"{}\">{}</a>", attribute(&link_to_key(key, &[])), shortened(key))
}

/// Begins a table in a box of its own, which can be scrolled with the keyboard.
fn begin_table<W: Write>(
    answer: &mut ResponseWriter<W>,
    label: &str,
    columns: &[&str],
) -> io::Result<()> {
    open_table(answer, label)?;
    for column in columns {
        write!(answer, "<th scope=\"col\">{column}</th>")?;
    }
    open_rows(answer)
}

fn open_table<W: Write>(answer: &mut ResponseWriter<W>, label: &str) -> io::Result<()> {
    write!(
        answer,
        "<div class=\"box\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\">\n\
         <table>\n<thead><tr>"
    )
}

fn open_rows<W: Write>(answer: &mut ResponseWriter<W>) -> io::Result<()> {
    answer.write_all(b"</tr></thead>\n<tbody>\n")
}

fn end_table<W: Write>(answer: &mut ResponseWriter<W>) -> io::Result<()> {
    answer.write_all(b"</tbody>\n</table>\n</div>\n")
}

/// The way to the next page, where there is one.
fn next_link<W: Write>(answer: &mut ResponseWriter<W>, link: Option<&str>) -> io::Result<()> {
    let Some(link) = link else { return Ok(()) };
    let link = attribute(link);
    writeln!(
        answer,
        "<nav id=\"next\" class=\"pages\" aria-label=\"Pages\"><a rel=\"next\" href=\"{link}\">Next page →</a></nav>"
    )
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// `1 key`, `2 keys`
fn count(number: u64, thing: &str) -> String {
    let plural = match thing {
        _ if number == 1 => thing.to_owned(),
        "entry" => "entries".to_owned(),
        _ => format!("{thing}s"),
    };
    format!("{number} {plural}")
}
