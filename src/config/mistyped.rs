//! Names the mistakes in a text that should be the address of a backend, with what to write instead. No text is repeated:
//! it may hold a password, or a part of one.

use std::net::Ipv6Addr;

/// The port that Redis has unless it is configured otherwise, for examples.
const USUAL_PORT: &str = "6379";

/// Returns why a text that could not be read is no address, if that is one of the mistakes that are known.
pub(super) fn reason(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() {
        return said("it is empty: is there a comma too many?");
    }
    if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
        return said("quotes are a part of it: take them away");
    }
    if text.contains(char::is_whitespace) {
        return said("there is a space in it: commas separate backends, as in a:6379,b:6379");
    }
    if text.contains(';') && !text.contains('@') {
        return said("there is a semicolon in it: commas separate backends, as in a:6379,b:6379");
    }
    match text.split_once("://") {
        Some(("unix" | "redis+unix" | "valkey+unix", path)) => match path.starts_with('/') {
            // The path may be any.
            true => None,
            false => said("a path begins with a third slash, as in redis+unix:///run/redis.sock"),
        },
        Some((scheme, rest)) => of_scheme(&scheme.to_lowercase()).or_else(|| of_rest(rest, true)),
        None => of_bare(text),
    }
}

fn said(reason: &str) -> Option<String> {
    Some(reason.to_owned())
}

/// Returns what is wrong with a scheme that no backend has.
fn of_scheme(scheme: &str) -> Option<String> {
    said(match scheme {
        "redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix" | "unix" => {
            return None;
        }
        "http" | "https" => {
            "a web server's address is no backend's: write HOST:PORT of a Redis server"
        }
        "tcp" => "write HOST:PORT without tcp://",
        "tls" | "ssl" | "redis+tls" | "redis+ssl" | "redis-tls" => {
            "with TLS it is rediss://HOST:PORT"
        }
        "redis+sentinel" | "redis-sentinel" | "redis+sentinels" => {
            "Sentinels are written sentinel://HOST:PORT,HOST:PORT/NAME"
        }
        "srv" | "redis+srv" | "dnssrv" => "SRV records are written dns+srv://NAME",
        "redis+socket" | "redis-socket" | "socket" | "file" => {
            "a Unix socket is written redis+unix:///PATH"
        }
        "sentinel" | "primary" | "dns" | "dns+srv" | "rediss+sentinel" | "rediss+primary"
        | "rediss+dns" | "rediss+dns+srv" => {
            "only lb finds servers by such a URL: write the address of each server"
        }
        _ => "nothing is known of its scheme, the part before ://",
    })
}

/// Returns what is wrong with a text without a scheme.
fn of_bare(text: &str) -> Option<String> {
    if text.starts_with(['/', '.']) || text.ends_with(".sock") {
        return said("a Unix socket is written redis+unix:///PATH");
    }
    let is_half = ["redis:", "rediss:"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| rest.parse::<u32>().is_err()));
    if is_half {
        return said("two slashes follow the scheme, as in redis://HOST:PORT");
    }
    if text.contains('/') && !text.contains('@') {
        return said("a database needs a scheme, as in redis://HOST:PORT/DB");
    }
    of_rest(text, false)
}

/// Returns what is wrong with what follows the scheme: `USER:PASSWORD@HOST:PORT/DB`.
fn of_rest(rest: &str, has_scheme: bool) -> Option<String> {
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, ""),
    };
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => host,
        // A password that is not encoded has ended it.
        None if rest.contains('@') => return None,
        None => authority,
    };
    of_host(host, has_scheme).or_else(|| {
        let database = path.strip_prefix('/')?.split(['?', '#']).next()?;
        let is_number = database.is_empty() || database.parse::<i64>().is_ok();
        match is_number || host.is_empty() {
            true => None,
            false => said("after the / comes the number of a database, as in redis://HOST:PORT/0"),
        }
    })
}

/// Returns what is wrong with `HOST:PORT`.
fn of_host(host: &str, has_scheme: bool) -> Option<String> {
    if let Some(bracketed) = bracketed(host) {
        return Some(format!("an IPv6 address needs brackets, as in {bracketed}"));
    }
    let after = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, after)) => after,
            None => return said("the bracket of its IPv6 address is not closed"),
        },
        None => host,
    };
    let (name, port) = match after.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (after, None),
    };
    let is_bracketed = host.starts_with('[');
    match port {
        _ if host.is_empty() || (name.is_empty() && !is_bracketed) => said("it has no host"),
        None if host.bytes().all(|byte| byte.is_ascii_digit()) => {
            said("it is a port alone: write the host before it, as in 127.0.0.1:6379")
        }
        None if !has_scheme => said("it has no port: write it after a colon, as in localhost:6379"),
        Some(_) if name.contains(':') => said("there is more than one colon in it"),
        Some(port) if port.parse::<u16>().is_err() => said("a port is a number from 1 to 65535"),
        _ => None,
    }
}

/// Returns an IPv6 address without brackets as it is written, with the port that its last part may be meant for.
fn bracketed(host: &str) -> Option<String> {
    let as_ip = |text: &str| text.parse::<Ipv6Addr>().ok();
    let (ip, port) = match host.rsplit_once(':') {
        Some((ip, port)) if port.parse::<u16>().is_ok() && as_ip(ip).is_some() => (ip, port),
        _ => (host, USUAL_PORT),
    };
    as_ip(ip).map(|_| format!("[{ip}]:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_told_with_what_to_write() {
        for (text, expected) in [
            ("", "a comma too many"),
            ("a:1 b:2", "commas separate backends"),
            ("redis://a:1 redis://b:2", "commas separate backends"),
            ("a:1;b:2", "commas separate backends"),
            ("\"a:1", "take them away"),
            ("http://a:1", "a web server's address"),
            ("HTTPS://a:1", "a web server's address"),
            ("tcp://a:1", "without tcp://"),
            ("redis+sentinel://a:1/name", "sentinel://HOST:PORT,HOST:PORT/NAME"),
            ("sentinel://a:1/name", "only lb finds servers"),
            ("mongodb://a:1", "its scheme"),
            ("/run/redis.sock", "redis+unix:///PATH"),
            ("redis:/a:1", "two slashes"),
            ("redis+unix://tmp/x.sock", "a third slash"),
            ("a:1/2", "redis://HOST:PORT/DB"),
            ("::1:6379", "as in [::1]:6379"),
            ("::1", "as in [::1]:6379"),
            ("redis://2001:db8::1:7000/2", "as in [2001:db8::1]:7000"),
            ("[::1]", "it has no port"),
            ("[::1:6379", "not closed"),
            ("localhost", "it has no port"),
            ("6379", "a port alone"),
            (":6379", "it has no host"),
            ("redis://", "it has no host"),
            ("a:1:2", "more than one colon"),
            ("a:70000", "from 1 to 65535"),
            ("a:redis", "from 1 to 65535"),
            ("redis://u:hunter2@a:70000", "from 1 to 65535"),
            ("redis://a:1/abc", "the number of a database"),
            ("redis://a/0/1", "the number of a database"),
        ] {
            let reason = reason(text).unwrap_or_else(|| panic!("{text}: no reason"));
            assert!(reason.contains(expected), "{text}: {reason}");
            assert!(!reason.contains("hunter2"), "{text}: {reason}");
        }
        for text in [
            "redis://u:12/34@a:1",
            "redis://u:12?34@a:1",
            "a:0",
            "redis://a/-1",
            "a:1",
            "a:1?db=3",
            "redis+unix:///r.sock?db=x",
        ] {
            assert_eq!(reason(text), None, "{text}");
        }
    }
}
