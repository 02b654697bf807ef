//! The addresses that `lb` listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::Config;
use super::address::BackendAddress;
use super::source::BackendEntry;

/// The usual port, for examples.
const USUAL_PORT: u16 = 1310;

/// Resolves the address that a flag names.
///
/// # Errors
/// It is no address, or its name is not known. The text says what to write.
pub(super) fn address(flag: &str, text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or_else(|| {
        let reason = reason(text).map(|reason| format!("{reason}; ")).unwrap_or_default();
        format!(
            "{flag} {text}: {reason}write ADDRESS:PORT, such as 127.0.0.1:1310 for this machine alone \
             or 0.0.0.0:1310 for every network"
        )
    })
}

/// Returns why a text that could not be resolved is no address, if that is one of the mistakes that are known.
fn reason(text: &str) -> Option<String> {
    if text.contains("://") {
        return Some("an address has no scheme".to_owned());
    }
    if text.starts_with('/') || text.ends_with(".sock") {
        return Some("lb listens on ports of TCP alone, not on Unix sockets".to_owned());
    }
    if text.contains(|c: char| c == ',' || c.is_whitespace()) {
        return Some("it is one address, without spaces and commas".to_owned());
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("the address is missing before the port".to_owned());
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, USUAL_PORT);
        return Some(format!("the port is missing, as in {address}"));
    }
    match text.rsplit_once(':') {
        None => Some("the port is missing".to_owned()),
        Some((_, port)) if port.parse::<u16>().is_err() => {
            Some("a port is a number from 0 to 65535".to_owned())
        }
        Some(("" | "*", port)) => Some(format!("every network is 0.0.0.0:{port}")),
        Some(_) => Some("no network interface has this name or address".to_owned()),
    }
}

/// Refuses an address for the paths below `/-/` at which clients connect already.
///
/// # Errors
/// It is one.
pub(super) fn check_admin(config: &Config) -> Result<(), String> {
    let (listen, admin) = (config.listen, config.admin_listen);
    match admin.filter(|admin| are_one(listen, *admin)) {
        None => Ok(()),
        Some(admin) => Err(format!(
            "--admin-listen {admin} is where clients connect (--listen {listen}): write another port, or leave \
             it out, because the paths below /-/ are also served there"
        )),
    }
}

/// Returns whether only one socket can listen on these two addresses.
fn are_one(one: SocketAddr, other: SocketAddr) -> bool {
    let ips = [one.ip().to_canonical(), other.ip().to_canonical()];
    one.port() == other.port()
        && one.port() != 0
        && (ips[0] == ips[1] || ips.iter().any(IpAddr::is_unspecified))
}

/// Refuses backends at which `lb` would reach itself.
///
/// # Errors
/// Names the first such backend.
pub(super) fn check_own(config: &Config) -> Result<(), String> {
    let mut targets = config.backends.iter().map(BackendEntry::target);
    let checked = targets.try_for_each(|target| config.refuse_itself(target));
    checked.map_err(|reason| format!("--backend: {reason}"))
}

impl Config {
    /// Refuses the address of a backend at which `lb` would reach itself.
    ///
    /// # Errors
    /// It would.
    pub fn refuse_itself(&self, backend: &BackendAddress) -> Result<(), String> {
        let listened = [("--listen", Some(self.listen)), ("--admin-listen", self.admin_listen)];
        let own = listened
            .into_iter()
            .find(|(_, address)| address.is_some_and(|address| is_own(address, backend)));
        own.map_or(Ok(()), |(flag, _)| {
            Err(format!(
                "{} is where lb itself listens ({flag}): write the address of a Redis server",
                backend.name()
            ))
        })
    }
}

/// Returns whether a connection to this backend, from this machine, leads to what listens at an address.
fn is_own(listen: SocketAddr, backend: &BackendAddress) -> bool {
    if listen.port() == 0 || backend.port() != listen.port() || backend.unix_path().is_some() {
        return false;
    }
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let reached = match backend.host().parse::<IpAddr>() {
        // A connection to "any" address goes to loopback.
        Ok(ip) if ip.is_unspecified() => loopback.to_vec(),
        Ok(ip) => vec![ip.to_canonical()],
        Err(_) if backend.host().eq_ignore_ascii_case("localhost") => loopback.to_vec(),
        Err(_) => return false,
    };
    let own = listen.ip().to_canonical();
    // 0.0.0.0 takes IPv4 alone, and [::] takes both.
    let takes = |ip: &IpAddr| own.is_unspecified() && (own.is_ipv6() || ip.is_ipv4());
    reached.iter().any(|ip| *ip == own || (ip.is_loopback() && takes(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_told_with_what_to_write() {
        for (text, expected) in [
            ("", "the port is missing"),
            ("1310", "the address is missing"),
            ("127.0.0.1", "as in 127.0.0.1:1310"),
            ("::1", "as in [::1]:1310"),
            ("localhost", "the port is missing"),
            (":1310", "every network is 0.0.0.0:1310"),
            ("*:1310", "every network is 0.0.0.0:1310"),
            ("127.0.0.1:70000", "from 0 to 65535"),
            ("127.0.0.1:http-alt", "from 0 to 65535"),
            ("http://127.0.0.1:1310", "no scheme"),
            ("127.0.0.1:1310,10.0.0.1:1310", "one address"),
            ("127.0.0.1 1310", "one address"),
            ("/run/lb.sock", "Unix sockets"),
        ] {
            let error = address("--listen", text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("write ADDRESS:PORT"), "{text}: {error}");
        }
        let expected = "127.0.0.1:1310".parse::<SocketAddr>().expect("an address");
        assert_eq!(address("--listen", "127.0.0.1:1310"), Ok(expected));
    }

    #[test]
    fn an_address_that_clients_have_already_is_told_from_others() {
        for (one, other, expected) in [
            ("127.0.0.1:1310", "127.0.0.1:1310", true),
            ("0.0.0.0:1310", "127.0.0.1:1310", true),
            ("[::1]:1310", "[::]:1310", true),
            ("127.0.0.1:1310", "[::ffff:127.0.0.1]:1310", true),
            ("127.0.0.1:1310", "127.0.0.1:1311", false),
            ("127.0.0.1:1310", "127.0.0.2:1310", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let addresses = [one, other].map(|text| text.parse().expect(text));
            assert_eq!(are_one(addresses[0], addresses[1]), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_backend_that_is_lb_itself_is_told_from_others() {
        for (listen, backend, expected) in [
            ("127.0.0.1:1310", "127.0.0.1:1310", true),
            ("127.0.0.1:1310", "localhost:1310", true),
            ("0.0.0.0:1310", "127.0.0.1:1310", true),
            ("0.0.0.0:1310", "localhost:1310", true),
            ("0.0.0.0:1310", "[::1]:1310", false),
            ("[::]:1310", "[::1]:1310", true),
            ("[::]:1310", "127.0.0.1:1310", true),
            ("10.0.0.1:1310", "10.0.0.1:1310", true),
            ("127.0.0.1:1310", "127.0.0.1:1311", false),
            ("127.0.0.1:1310", "127.0.0.2:1310", false),
            ("127.0.0.1:1310", "10.0.0.1:1310", false),
            ("0.0.0.0:6379", "10.0.0.1:6379", false),
            ("0.0.0.0:6379", "redis:6379", false),
            ("127.0.0.1:0", "127.0.0.1:1310", false),
        ] {
            let (address, backend) =
                (listen.parse().expect(listen), backend.parse().expect(backend));
            assert_eq!(is_own(address, &backend), expected, "{listen} {backend}");
        }
    }
}
