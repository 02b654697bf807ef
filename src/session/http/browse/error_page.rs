//! Errors as pages.

use std::io::{self, Write};

use super::layout::{Frame, begin_table, end_table, shortened};
use crate::http::{ErrorBody, ResponseWriter};
use crate::render::html::line;

/// Sets the status and writes an error as a page.
pub(crate) fn write_error_page<W: Write>(
    frame: Frame,
    status: u16,
    error: &ErrorBody,
    response: &mut ResponseWriter<W>,
) -> io::Result<()> {
    response.status(status);
    let key = error.key.as_ref().map(|key| key.0);
    let headline = match status {
        404 if error.field.is_some() => "No such field",
        404 => "Not found",
        410 => "This page has gone",
        415 => "Can’t be shown",
        503 | 504 => "No answer",
        _ => "That did not work",
    };
    frame.begin(response, headline.as_bytes(), key.unwrap_or_default())?;
    let why = line(error.error.as_ref());
    writeln!(response, "<h1>{headline}</h1>\n<p class=\"error\">{why}</p>")?;
    write_subject(response, error)?;
    if !error.backends.is_empty() {
        begin_table(response, "Backends", &["backend", "what is wrong"])?;
        for failure in &error.backends {
            let (backend, why) = (line(&*failure.backend), line(&failure.error));
            writeln!(response, "<tr><th scope=\"row\">{backend}</th><td>{why}</td></tr>")?;
        }
        end_table(response)?;
    }
    response.write_all(b"<p><a href=\"/\">All keys</a></p>\n")?;
    frame.end(response)
}

/// Writes the key, field and type that an error is about.
fn write_subject(response: &mut impl Write, error: &ErrorBody) -> io::Result<()> {
    let facts = [
        ("Key", error.key.as_ref().map(|key| key.0)),
        ("Field", error.field.as_ref().map(|field| field.0)),
        ("Type", error.kind.map(str::as_bytes)),
    ];
    if facts.iter().all(|(_, bytes)| bytes.is_none()) {
        return Ok(());
    }
    response.write_all(b"<dl>\n")?;
    for (name, bytes) in facts {
        let Some(bytes) = bytes else { continue };
        let shown = shortened(bytes);
        writeln!(response, "<div><dt>{name}</dt><dd class=\"mono\">{shown}</dd></div>")?;
    }
    response.write_all(b"</dl>\n")
}
