//! Parses `Accept` and `Accept-Encoding` (RFC 9110, section 12.4.2), and decides between HTML and JSON.

/// Most ranges of a header that are looked at: no client sends more.
const MAX_RANGES: usize = 64;

/// An item of such a header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range<'a> {
    /// A range of media types, such as `text/*`, or the name of an encoding.
    pub name: &'a str,
    /// The parameter `version` of a media type.
    pub version: Option<&'a str>,
    /// How welcome it is, in thousandths: 1000 unless the client says otherwise, and 0 if what it says is no quality.
    pub quality: u16,
}

/// Splits the values of such a header into its items, but for those that are not UTF-8: we know none like that.
pub(super) fn ranges<'a>(
    values: impl Iterator<Item = &'a [u8]>,
) -> impl Iterator<Item = Range<'a>> {
    let items = values.flat_map(|value| parts(value, b','));
    items.filter(|item| !item.is_empty()).take(MAX_RANGES).map(range)
}

fn range(item: &str) -> Range<'_> {
    let mut parts = parts(item.as_bytes(), b';');
    let name = parts.next().unwrap_or_default();
    let mut range = Range { name, version: None, quality: 1000 };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if name.eq_ignore_ascii_case("q") {
            range.quality = quality(value);
            // What follows is about the range, not about the media type.
            break;
        } else if name.eq_ignore_ascii_case("version") {
            range.version = Some(value);
        }
    }
    range
}

/// Reads a quality. One that makes no sense is 0.
fn quality(text: &str) -> u16 {
    let quality: Option<f32> = text.parse().ok().filter(|quality| (0.0..=1.0).contains(quality));
    (quality.unwrap_or(0.0) * 1000.0).round() as u16
}

/// Splits text where it has this byte outside of a quoted string; blanks around a part are not of it.
fn parts(text: &[u8], at: u8) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |&byte| {
        let escapes = is_quoted && byte == b'\\' && !is_escaped;
        let is_literal = std::mem::replace(&mut is_escaped, escapes);
        if byte == b'"' && !is_literal {
            is_quoted = !is_quoted;
        }
        byte == at && !is_quoted
    });
    parts.filter_map(|part| std::str::from_utf8(part).ok()).map(str::trim)
}

/// Whether a client whose `Accept` has these ranges gets HTML. All others get JSON.
///
/// It has to name `text/html`. Where it names `application/json` as well, the higher quality decides, and JSON is for
/// equals. Else it may be a person's browser, which names `application/xhtml+xml` beside `text/html`; or a client that
/// takes nothing but text. A program that names `text/html` first and takes all else, as Java's does, wants data.
pub(super) fn prefers_html<'a>(ranges: impl Iterator<Item = Range<'a>>) -> bool {
    let (mut html, mut json) = (0, None);
    let (mut is_browser, mut admits_json) = (false, false);
    for Range { name, quality, .. } in ranges {
        let is = |known| name.eq_ignore_ascii_case(known);
        if is("text/html") {
            html = html.max(quality);
        } else if is("application/json") {
            json = Some(quality.max(json.unwrap_or(0)));
        } else if is("application/xhtml+xml") {
            is_browser |= quality > 0;
        } else if is("*/*") || is("*") || is("application/*") {
            admits_json |= quality > 0;
        }
    }
    let is_for_people = match json {
        Some(json) => html > json,
        None => is_browser || !admits_json,
    };
    html > 0 && is_for_people
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gets_html(accept: &str) -> bool {
        prefers_html(ranges([accept.as_bytes()].into_iter()))
    }

    #[test]
    fn people_get_html_and_programs_json() {
        let browsers = "text/html,application/xhtml+xml,application/xml;q=0.9";
        for (accept, html) in [
            // Chrome, Firefox, Safari; Chrome's of today names images and signed exchanges as well.
            (&format!("{browsers},*/*;q=0.8")[..], true),
            (&format!("{browsers},image/avif,image/webp,image/apng,*/*;q=0.8"), true),
            (
                &format!("{browsers},image/webp,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"),
                true,
            ),
            // lynx
            ("text/html, text/plain, text/sgml, application/xhtml+xml, */*;q=0.01", true),
            ("text/html", true),
            ("TEXT/HTML ; level=1 ; Q=0.1", true),
            ("text/html, text/plain;q=0.5", true),
            ("text/html, */*;q=0", true),
            ("text/html, image/*", true),
            // Java's HttpURLConnection, of all versions.
            ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", false),
            ("text/html, image/gif, image/jpeg, */*; q=0.2", false),
            ("text/html, application/*", false),
            ("application/json, text/html;q=0.1", false),
            ("text/html;q=0.1, application/json", false),
            ("application/json, text/html", false),
            ("text/html;q=0.5, application/json;q=0.5", false),
            ("text/html, application/json;q=0.9", true),
            ("text/html, application/json;q=0.9, */*;q=0.1", true),
            ("text/html, application/json;q=0", true),
            ("application/json;q=0.2, text/html;q=0.1;level=1, text/html;q=0.3", true),
            (&format!("{browsers},application/json"), false),
            // axios, fetch, curl
            ("application/json, text/plain, */*", false),
            ("*/*", false),
            ("*", false),
            ("text/*", false),
            ("application/xhtml+xml", false),
            ("text/html;q=0", false),
            ("text/html;q=0.000", false),
            ("text/html;q=x", false),
            ("text/html;q=2", false),
            ("text/html;q=-1", false),
            ("text/html;q=nan", false),
            ("text/htmlx", false),
            ("text/x;a=\", text/html, \", */*", false),
            ("", false),
        ] {
            assert_eq!(gets_html(accept), html, "{accept}");
        }
    }
}
