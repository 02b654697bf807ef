//! Which form of the metrics a client's `Accept` wants most (RFC 9110, section 12.5.1).

use super::accept;

/// Most ranges of a header that are looked at: no client sends more.
const MAX_RANGES: usize = 64;

/// A form of the metrics at `/-/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsForm {
    /// The text format of Prometheus, version 0.0.4, which all scrapers understand.
    #[default]
    Classic,
    /// OpenMetrics under its first version, 0.0.1.
    OpenMetrics0,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics1,
}

impl MetricsForm {
    /// The forms with their media types and versions; of those that a client wants as much, the first.
    const ALL: [(Self, &'static str, &'static str, &'static str); 3] = [
        (Self::OpenMetrics1, "application", "openmetrics-text", "1.0.0"),
        (Self::OpenMetrics0, "application", "openmetrics-text", "0.0.1"),
        (Self::Classic, "text", "plain", "0.0.4"),
    ];

    /// Returns the form that these values of `Accept` want most: that of Prometheus unless OpenMetrics is wanted more, or
    /// as much by its name. A client that wants none of them gets that one, too.
    pub(crate) fn wanted<'a>(accept: impl Iterator<Item = &'a [u8]>) -> Self {
        let values: Vec<_> = accept.map(String::from_utf8_lossy).collect();
        let ranges: Vec<_> = values.iter().flat_map(|value| ranges(value)).collect();
        let classic = quality(&ranges, "text", "plain", "0.0.4").1;
        let mut wanted = (Self::Classic, classic);
        for (form, kind, subtype, version) in Self::ALL {
            let (precision, quality) = quality(&ranges, kind, subtype, version);
            let is_named = precision >= Precision::Type;
            let is_first = wanted.0 == Self::Classic && is_named && quality > 0;
            if quality > wanted.1 || (quality == wanted.1 && is_first) {
                wanted = (form, quality);
            }
        }
        wanted.0
    }
}

/// How precisely a range names a media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    /// Not at all.
    None,
    /// `*/*`, or `*` as Java writes it.
    Any,
    /// `text/*`
    Kind,
    /// `text/plain`
    Type,
    /// `text/plain; version=0.0.4`
    Version,
}

/// One range of media types.
#[derive(Debug)]
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

impl Range<'_> {
    fn precision(&self, kind: &str, subtype: &str, version: &str) -> Precision {
        let is_kind = self.kind.eq_ignore_ascii_case(kind);
        match (self.kind, self.subtype, self.version) {
            ("*", "*", None) => Precision::Any,
            (_, "*", None) if is_kind => Precision::Kind,
            (_, own, _) if !(is_kind && own.eq_ignore_ascii_case(subtype)) => Precision::None,
            (_, _, None) => Precision::Type,
            (_, _, Some(own)) if own == version => Precision::Version,
            _ => Precision::None,
        }
    }
}

/// How precisely the ranges name a media type, and the quality that they give it: that of the most precise one.
fn quality(ranges: &[Range], kind: &str, subtype: &str, version: &str) -> (Precision, u16) {
    let found = ranges.iter().map(|range| (range.precision(kind, subtype, version), range.quality));
    let found = found.filter(|(precision, _)| *precision > Precision::None);
    found.max().unwrap_or((Precision::None, 0))
}

fn ranges(value: &str) -> impl Iterator<Item = Range<'_>> {
    parts(value, ',').filter(|range| !range.is_empty()).take(MAX_RANGES).map(range)
}

fn range(text: &str) -> Range<'_> {
    let mut parts = parts(text, ';');
    let name = parts.next().unwrap_or_default();
    let (kind, subtype) = name.split_once('/').unwrap_or((name, "*"));
    let mut range = Range { kind, subtype, version: None, quality: 1000 };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if name.eq_ignore_ascii_case("q") {
            range.quality = (accept::quality(value) * 1000.0).round() as u16;
            // What follows is about the range, not about the media type.
            break;
        } else if name.eq_ignore_ascii_case("version") {
            range.version = Some(value);
        }
    }
    range
}

/// Splits text where it has this character outside of a quoted string; blanks around a part are not of it.
fn parts(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |c| {
        let escapes = is_quoted && c == '\\' && !is_escaped;
        let is_literal = std::mem::replace(&mut is_escaped, escapes);
        if c == '"' && !is_literal {
            is_quoted = !is_quoted;
        }
        c == at && !is_quoted
    });
    parts.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(values: &[&str]) -> MetricsForm {
        MetricsForm::wanted(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn the_classic_form_is_sent_unless_openmetrics_is_asked_for() {
        use MetricsForm::{Classic, OpenMetrics0, OpenMetrics1};
        let open = "application/openmetrics-text";
        for (accept, expected) in [
            ("", Classic),
            ("*/*", Classic),
            ("*; q=.2, */*; q=.2", Classic),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Classic),
            ("image/png", Classic),
            ("text/plain", Classic),
            (open, OpenMetrics1),
            ("Application/OpenMetrics-Text; Version=1.0.0", OpenMetrics1),
            (&format!("{open}; version=\"1.0.0\""), OpenMetrics1),
            (&format!("{open}; version=0.0.1"), OpenMetrics0),
            (&format!("{open}; version=2.0.0"), Classic),
            (&format!("{open}; version=2.0.0, {open}; version=0.0.1; q=0.1"), OpenMetrics0),
            (&format!("{open};q=0"), Classic),
            (&format!("{open};q=0.0, */*"), Classic),
            (&format!("{open}, text/plain"), OpenMetrics1),
            (&format!("text/plain, {open}"), OpenMetrics1),
            (&format!("{open};q=0.5, text/plain;q=0.6"), Classic),
            (&format!("{open};q=0.6, text/plain;q=0.5"), OpenMetrics1),
            (&format!("{open};q=0.5, */*"), Classic),
            (&format!("{open}, */*"), OpenMetrics1),
            (&format!("{open};q=nonsense, text/plain;q=0.1"), Classic),
            (&format!("{open};q=2"), Classic),
            ("application/*", OpenMetrics1),
            ("text/plain;q=0.1, */*", OpenMetrics1),
            ("text/plain;version=0.0.4;q=0.1, text/plain;q=0.9, */*;q=0.5", OpenMetrics1),
            (&format!("text/x; a=\"{open}, \\\" {open}\", text/plain;q=0.1"), Classic),
            // Prometheus 2.42, and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics1,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics1,
            ),
            // A Prometheus that is told to scrape the classic form.
            (
                "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4,*/*;q=0.1",
                Classic,
            ),
        ] {
            assert_eq!(wanted(&[accept]), expected, "{accept}");
        }
        assert_eq!(wanted(&[]), Classic);
        assert_eq!(wanted(&["text/plain;q=0.5", open]), OpenMetrics1);
    }
}
