//! What a client accepts: lists of names with qualities (RFC 9110, section 12.4.2).

/// Whether a client whose `Accept` has these items gets HTML. All others get JSON.
///
/// It has to name `text/html`. Where it names `application/json` as well, the higher quality decides, and JSON is for
/// equals. Else it may be a person's browser, which names `application/xhtml+xml` beside `text/html`; or a client that
/// takes nothing but text. A program that names `text/html` first and takes all else, as Java's does, wants data.
pub(super) fn prefers_html<'a>(items: impl Iterator<Item = &'a str>) -> bool {
    let (mut html, mut json) = (0.0_f32, None);
    let (mut is_browser, mut admits_json) = (false, false);
    for (range, quality) in items.map(weighted) {
        let is = |name| range.eq_ignore_ascii_case(name);
        if is("text/html") {
            html = html.max(quality);
        } else if is("application/json") {
            json = Some(quality.max(json.unwrap_or(0.0)));
        } else if is("application/xhtml+xml") {
            is_browser |= quality > 0.0;
        } else if is("*/*") || is("*") || is("application/*") {
            admits_json |= quality > 0.0;
        }
    }
    let is_for_people = match json {
        Some(json) => html > json,
        None => is_browser || !admits_json,
    };
    html > 0.0 && is_for_people
}

/// Splits an item of a list into its name, without parameters, and its quality: 1 unless it says otherwise, and 0 if
/// what it says is none.
pub(super) fn weighted(item: &str) -> (&str, f32) {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let named = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| quality(value.trim()))
    });
    (name, named.unwrap_or(1.0))
}

/// Reads a quality. One that makes no sense is 0.
pub(super) fn quality(text: &str) -> f32 {
    text.parse().ok().filter(|quality| (0.0..=1.0).contains(quality)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gets_html(accept: &str) -> bool {
        prefers_html(accept.split(',').map(str::trim))
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
            ("", false),
        ] {
            assert_eq!(gets_html(accept), html, "{accept}");
        }
    }
}
