//! What to do about a source that has named no servers yet, for the log and for `lb check`.

use crate::config::source::SourceKind;

/// Says what to do about a source of this kind that gives this reason for having no list. The text has whole sentences.
pub fn advice_on_source(kind: &SourceKind, reason: &str) -> &'static str {
    let is_refused = |word: &str| reason.contains(word);
    match kind {
        SourceKind::Sentinel { .. } if is_refused("No such master") => {
            "Sentinels list the names that they know: redis-cli -p 26379 SENTINEL MASTERS."
        }
        SourceKind::Sentinel { .. } if is_refused("unknown command") => {
            "That is no Sentinel, whose port is usually 26379. For a primary write primary://HOST:PORT."
        }
        SourceKind::Sentinel { .. } if is_refused("NOAUTH") || is_refused("WRONGPASS") => {
            "The password of Sentinels is their own: ?sentinel-password=PASSWORD in the URL."
        }
        SourceKind::Sentinel { .. }
            if is_refused("Redis protocol") || is_refused("no Redis reply") =>
        {
            "Write the address of a Sentinel, whose port is usually 26379."
        }
        SourceKind::Primary { .. }
            if is_refused("Redis protocol") || is_refused("no Redis reply") =>
        {
            "Write the address of the primary, whose port is usually 6379."
        }
        SourceKind::Primary { .. } if is_refused("does not say its role") => {
            "Is it a Sentinel? Then write sentinel://HOST:PORT/NAME."
        }
        SourceKind::Primary { .. } if is_refused("NOAUTH") || is_refused("WRONGPASS") => {
            "Write its password in the URL: primary://:PASSWORD@HOST:PORT."
        }
        SourceKind::Dns | SourceKind::DnsSrv if is_refused("NXDOMAIN") => {
            "Is the name right? Nameservers alone are asked (--resolver): a name in /etc/hosts is written HOST:PORT."
        }
        SourceKind::Dns | SourceKind::DnsSrv => "Check the name, and the nameservers (--resolver).",
        _ => "Check the address, the name and the login.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_mistake_with_a_source_is_told_with_what_to_write() {
        for (url, reason, expected) in [
            ("sentinel://a:1/n", "a:1: ERR No such master with that name", "SENTINEL MASTERS"),
            ("sentinel://a:1/n", "a:1: ERR unknown command 'SENTINEL'", "no Sentinel"),
            ("sentinel://a:1/n", "a:1: NOAUTH Authentication required.", "sentinel-password"),
            ("primary://a:1", "a:1 does not say its role", "sentinel://HOST:PORT/NAME"),
            ("primary://a:1", "NOAUTH Authentication required.", "primary://:PASSWORD@"),
            ("primary://a:1", "no answer in time", "Check the address"),
            ("dns://a:1", "no such name (NXDOMAIN)", "Is the name right?"),
            ("dns+srv://a", "no answer in time", "--resolver"),
        ] {
            let config = Config::from_arguments(["lb", "--backend", url]).expect("right");
            let kind = &config.sources().next().expect("a source").kind;
            let advice = advice_on_source(kind, reason);
            assert!(advice.contains(expected), "{url}: {reason}: {advice}");
        }
    }
}
