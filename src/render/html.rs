//! HTML for people: escapes bytes that anybody may have written, so that they are never markup.

use std::fmt::{self, Display, Formatter, Write};
use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use crate::text::is_hidden;

/// Longest title of a page, which may contain a key.
const MAX_TITLE_BYTES: usize = 200;

/// The place of bytes in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In an element that keeps line feeds and tabs.
    Text,
    /// On one line of an element.
    Line,
    /// In an attribute's quotes or a title, where no element can stand.
    Attribute,
}

/// Bytes as they are shown in a page. Bytes that are not UTF-8, and characters that are invisible or
/// turn the text around, are shown as escapes in `<i>`, which a page's style sets apart.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    place: Place,
}

/// Escapes bytes for an element that keeps line feeds and tabs.
pub fn text(bytes: &(impl AsRef<[u8]> + ?Sized)) -> Escaped<'_> {
    Escaped { bytes: bytes.as_ref(), place: Place::Text }
}

/// Escapes bytes for one line of an element: line feeds and tabs are shown as escapes, too.
pub fn line(bytes: &(impl AsRef<[u8]> + ?Sized)) -> Escaped<'_> {
    Escaped { bytes: bytes.as_ref(), place: Place::Line }
}

/// Escapes bytes for an attribute's quotes (of either kind) or a title.
pub fn attribute(bytes: &(impl AsRef<[u8]> + ?Sized)) -> Escaped<'_> {
    Escaped { bytes: bytes.as_ref(), place: Place::Attribute }
}

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut Formatter) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                self.char(c, out)?;
            }
            for byte in chunk.invalid() {
                self.set_apart(format_args!("\\x{byte:02x}"), out)?;
            }
        }
        Ok(())
    }
}

impl Escaped<'_> {
    fn char(&self, c: char, out: &mut Formatter) -> fmt::Result {
        match c {
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '&' => out.write_str("&amp;"),
            '"' => out.write_str("&quot;"),
            '\'' => out.write_str("&#39;"),
            '\n' | '\t' if self.place == Place::Text => out.write_char(c),
            '\n' => self.set_apart(format_args!("\\n"), out),
            '\t' => self.set_apart(format_args!("\\t"), out),
            '\r' => self.set_apart(format_args!("\\r"), out),
            _ if c.is_ascii_control() => {
                self.set_apart(format_args!("\\x{:02x}", u32::from(c)), out)
            }
            _ if is_hidden(c) => self.set_apart(format_args!("\\u{{{:x}}}", u32::from(c)), out),
            _ => out.write_char(c),
        }
    }

    fn set_apart(&self, escape: fmt::Arguments, out: &mut Formatter) -> fmt::Result {
        match self.place {
            Place::Attribute => out.write_fmt(escape),
            _ => write!(out, "<i>{escape}</i>"),
        }
    }
}

/// Returns at most the first `max` bytes, without a part of a character at the end.
pub fn cut(bytes: &[u8], max: usize) -> &[u8] {
    if bytes.len() <= max {
        return bytes;
    }
    let cut = &bytes[..max];
    match std::str::from_utf8(cut) {
        // Only the end of a character is missing.
        Err(error) if error.error_len().is_none() => &cut[..error.valid_up_to()],
        _ => cut,
    }
}

/// Writes the beginning of a document, up to the end of its head. The inline `style` is the one that
/// [`content_security_policy`] must allow.
pub fn begin_document(out: &mut impl io::Write, title: &[u8], style: &str) -> io::Result<()> {
    let dots = if title.len() > MAX_TITLE_BYTES { "…" } else { "" };
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{}{dots}</title>\n<style>{style}</style>\n</head>\n",
        attribute(cut(title, MAX_TITLE_BYTES)),
    )
}

/// Returns the `Content-Security-Policy` of a page with this inline style and perhaps this inline
/// script. Nothing else runs or is loaded. A script may ask the page's own server for data.
pub fn content_security_policy(style: &str, script: Option<&str>) -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let script = match script {
        Some(script) => format!("script-src {}; connect-src 'self'; ", hash(script)),
        None => String::new(),
    };
    format!(
        "default-src 'none'; style-src {}; {script}img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
        hash(style)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_and_what_is_hidden_are_shown() {
        for (bytes, shown) in [
            (
                &b"<script>alert(\"1\")</script>"[..],
                "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;",
            ),
            (b"a'&b", "a&#39;&amp;b"),
            (b"a\0\x1b\x7f\r", "a<i>\\x00</i><i>\\x1b</i><i>\\x7f</i><i>\\r</i>"),
            (b"\xff\xe2\x82", "<i>\\xff</i><i>\\xe2</i><i>\\x82</i>"),
            ("a\u{202e}b\u{85}é€😀".as_bytes(), "a<i>\\u{202e}</i>b<i>\\u{85}</i>é€😀"),
        ] {
            assert_eq!(line(bytes).to_string(), shown);
        }
        assert_eq!(text("a\n\tb").to_string(), "a\n\tb");
        assert_eq!(line("a\n\tb").to_string(), "a<i>\\n</i><i>\\t</i>b");
        assert_eq!(attribute("a\n\0\"").to_string(), "a\\n\\x00&quot;");
    }

    #[test]
    fn what_is_cut_keeps_its_last_character_whole() {
        assert_eq!(cut("aé€".as_bytes(), 6), "aé€".as_bytes());
        assert_eq!(cut("aé€".as_bytes(), 5), "aé".as_bytes());
        assert_eq!(cut("aé€".as_bytes(), 2), b"a");
        assert_eq!(cut(b"\xff\xff\xff", 2), b"\xff\xff");
        assert_eq!(cut(b"abc", 0), b"");
    }

    #[test]
    fn only_what_is_named_may_be_in_a_page() {
        let policy = content_security_policy("", None);
        let of_nothing = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='";
        assert!(policy.starts_with(&format!("default-src 'none'; style-src {of_nothing}; img")));
        assert!(!policy.contains("script-src"));
        let policy = content_security_policy("a", Some(""));
        assert!(policy.contains(&format!("script-src {of_nothing}; connect-src 'self'; ")));
    }

    /// Reverses the escapes in text that is UTF-8.
    fn unescaped(shown: &str) -> String {
        let shown = shown.replace("<i>", "").replace("</i>", "");
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
            .iter()
            .fold(shown, |shown, (escape, plain)| shown.replace(escape, plain))
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_they_are_no_markup(bytes: Vec<u8>) {
            let hostile = [&bytes[..], b"<>&\"'\0"].concat();
            for shown in [text(&hostile), line(&hostile)] {
                let shown = shown.to_string().replace("<i>", "").replace("</i>", "");
                prop_assert!(!shown.contains(['<', '>', '"', '\'', '\0', '\r', '\x1b']));
            }
            let shown = attribute(&hostile).to_string();
            prop_assert!(!shown.contains(['<', '>', '"', '\'', '\0', '\n', '\r', '\t']));
        }

        #[test]
        fn whatever_the_text_nothing_of_it_is_lost(given: String) {
            prop_assume!(!given.chars().any(is_hidden));
            prop_assert_eq!(unescaped(&line(&given).to_string()), given);
        }

        #[test]
        fn text_between_marks_is_never_left_out(a in "[a-z<>&]{0,9}", hidden in any::<u8>(), b in "[a-z]{0,9}") {
            let bytes = [a.as_bytes(), &[hidden], b.as_bytes()].concat();
            let shown = line(&bytes).to_string();
            prop_assert!(shown.ends_with(b.as_str()) && shown.len() > b.len());
        }
    }
}
