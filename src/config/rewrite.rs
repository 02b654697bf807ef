//! `--rewrite-address`: servers that are announced by addresses at which this machine does not reach them.

use std::str::FromStr;

/// One rule of `--rewrite-address`: `FROM=TO`, where each is `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    from: HostAndPort,
    to: HostAndPort,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct HostAndPort {
    host: String,
    port: Option<u16>,
}

/// Longest name of a host, in bytes, as in DNS.
const MAX_HOST_BYTES: usize = 253;

/// Returns whether a text may be the name or the address of a host.
pub fn is_host(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=MAX_HOST_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
}

impl FromStr for HostAndPort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bare = text.strip_prefix('[').and_then(|text| text.split_once(']'));
        let (host, port) = match bare {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(())?)),
            None => match text.split_once(':') {
                // An IPv6 address without brackets.
                Some((_, port)) if port.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map(str::parse::<u16>).transpose().map_err(|_| ())?;
        match is_host(host) && port != Some(0) {
            true => Ok(Self { host: host.to_owned(), port }),
            false => Err(()),
        }
    }
}

impl FromStr for Rewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (from, to) = text.split_once('=').ok_or(())?;
            let (from, to): (HostAndPort, HostAndPort) = (from.parse()?, to.parse()?);
            // All ports of a host would become one server.
            if from.port.is_none() && to.port.is_some() { Err(()) } else { Ok(Self { from, to }) }
        };
        parsed().map_err(|()| {
            "write FROM=TO, such as 10.0.0.5=192.168.1.5 or redis-0:6379=127.0.0.1:7000".to_owned()
        })
    }
}

/// Returns the address at which an announced server is reached: that of the first rule for its host and port, else its
/// own.
pub fn rewritten(rules: &[Rewrite], host: &str, port: u16) -> (String, u16) {
    let is_it = |rule: &&Rewrite| {
        rule.from.host.eq_ignore_ascii_case(host) && rule.from.port.is_none_or(|from| from == port)
    };
    match rules.iter().find(is_it) {
        Some(Rewrite { to, .. }) => (to.host.clone(), to.port.unwrap_or(port)),
        None => (host.to_owned(), port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_for_an_address_is_applied() {
        let rules = ["a:1=b:2", "a=c", "[::1]:5=d", "::2=[::3]"];
        let rules: Vec<Rewrite> = rules.iter().map(|rule| rule.parse().expect(rule)).collect();
        for (host, port, expected) in [
            ("a", 1, ("b", 2)),
            ("A", 3, ("c", 3)),
            ("::1", 5, ("d", 5)),
            ("::1", 6, ("::1", 6)),
            ("::2", 6, ("::3", 6)),
            ("b", 2, ("b", 2)),
        ] {
            let (to, to_port) = rewritten(&rules, host, port);
            assert_eq!((to.as_str(), to_port), expected, "{host} {port}");
        }
        for wrong in ["", "a", "a=", "=a", "a:x=b", "a:0=b:1", "a=b:1", "a b=c", "[::1=b"] {
            assert!(wrong.parse::<Rewrite>().is_err(), "{wrong}");
        }
    }
}
