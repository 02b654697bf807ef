//! Chooses the form of the metrics that a client's `Accept` wants most (RFC 9110, section 12.5.1).

use super::accept::Range;

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

    /// Returns the form that these ranges of `Accept` want most: that of Prometheus unless OpenMetrics is wanted more, or
    /// as much by its name. A client that wants none of them gets that one, too.
    pub(super) fn wanted<'a>(ranges: impl Iterator<Item = Range<'a>>) -> Self {
        let ranges: Vec<_> = ranges.collect();
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

impl Precision {
    fn of(range: &Range, kind: &str, subtype: &str, version: &str) -> Self {
        let (own_kind, own_subtype) = range.name.split_once('/').unwrap_or((range.name, "*"));
        let is_kind = own_kind.eq_ignore_ascii_case(kind);
        match (own_kind, own_subtype, range.version) {
            ("*", "*", None) => Self::Any,
            (_, "*", None) if is_kind => Self::Kind,
            (_, own, _) if !(is_kind && own.eq_ignore_ascii_case(subtype)) => Self::None,
            (_, _, None) => Self::Type,
            (_, _, Some(own)) if own == version => Self::Version,
            _ => Self::None,
        }
    }
}

/// How precisely the ranges name a media type, and the quality that they give it: that of the most precise one.
fn quality(ranges: &[Range], kind: &str, subtype: &str, version: &str) -> (Precision, u16) {
    let precision = |range: &Range| Precision::of(range, kind, subtype, version);
    let found = ranges.iter().map(|range| (precision(range), range.quality));
    let found = found.filter(|(precision, _)| *precision > Precision::None);
    found.max().unwrap_or((Precision::None, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::accept;

    fn wanted(values: &[&str]) -> MetricsForm {
        MetricsForm::wanted(accept::ranges(values.iter().map(|value| value.as_bytes())))
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
