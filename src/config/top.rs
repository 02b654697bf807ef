//! The command line of `lb top`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use percent_encoding::percent_decode_str;

use super::backend_tls::{self, CredentialStore, TlsFiles};
use super::control::control_path;
use super::{Config, text_file};
use crate::net::backend_stream::BackendTls;

const EXAMPLES: &str = "\
Examples:
  lb top
      the balancer at http://127.0.0.1:1310/, or at the address in LB_ADMIN_LISTEN or LB_LISTEN
  lb top http://10.0.0.9:1310
      one on another machine
  lb top --control /run/redis-lb/control
      by its control socket, which wants no login; LB_CONTROL, or the file of --config, names it, too
  lb top https://watcher@lb.example:1310 --password-file watcher.password --ca ca.pem
      over TLS, as a user, who needs the right to use INFO

Keys: q, Esc or Ctrl-C ends it, s changes the order of the backends, the arrows and
Page Up and Page Down scroll, ? explains the columns.

Exit code: 0 when you end it, 1 if there is no terminal or it fails, 2 if the command line is
wrong.";

/// Which balancer is watched.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    /// Where its status page is: http://HOST:PORT, https://HOST:PORT, with USER@ or USER:PASSWORD@ before
    /// the host where it wants a login [default: its control socket, if that is named, else http:// and the address
    /// in LB_ADMIN_LISTEN or LB_LISTEN, or 127.0.0.1:1310]
    #[arg(value_name = "URL")]
    pub url: Option<String>,

    /// The control socket of that balancer [default: LB_CONTROL, or `control` in the file]
    #[arg(long, value_name = "PATH", value_parser = control_path, conflicts_with = "url")]
    pub(super) control: Option<PathBuf>,

    /// A file with the password of the user in the URL, in one line
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) password_file: Option<PathBuf>,

    /// A file of certificates in PEM: of the CA that has signed the balancer's, for https:// [default: the system's]
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca: Option<PathBuf>,
}

/// The schemes of a URL, and the usual port of each.
const USUAL_PORTS: [(&str, u16); 2] = [("http://", 80), ("https://", 443)];

/// Where a balancer tells its status, and how to log in there.
#[derive(Debug, Clone)]
pub enum StatusSource {
    /// At its control socket.
    Socket(PathBuf),
    /// Over HTTP.
    Http(HttpSource),
}

/// A balancer's address over HTTP.
#[derive(Clone)]
pub struct HttpSource {
    /// The host, without brackets, and the port.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How TLS is spoken, if it is.
    pub tls: Option<BackendTls>,
    /// The user and the password, if it wants a login.
    pub login: Option<(String, String)>,
}

impl HttpSource {
    /// Returns `HOST:PORT`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Shows no password.
impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl fmt::Display for StatusSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Http(http) => {
                let scheme = if http.tls.is_some() { "https" } else { "http" };
                write!(f, "{scheme}://{}", http.authority())
            }
        }
    }
}

impl Config {
    /// Returns where `lb top` finds the balancer.
    ///
    /// # Errors
    /// The URL is wrong, or a file can't be used. The text repeats no password.
    pub fn status_source(&self) -> Result<StatusSource, String> {
        let url = self.top.as_ref().and_then(|top| Some((top, top.url.as_ref()?)));
        if let Some((args, url)) = url {
            return http_source(url, args).map(StatusSource::Http);
        }
        if let Some(path) = &self.control {
            return Ok(StatusSource::Socket(path.clone()));
        }
        let address = self.admin_listen.unwrap_or(self.listen);
        let host = match address.ip() {
            ip if !ip.is_unspecified() => ip.to_string(),
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.to_string(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.to_string(),
        };
        let port = address.port();
        Ok(StatusSource::Http(HttpSource { host, port, tls: None, login: None }))
    }
}

/// Parses the URL of a balancer, and reads the files that belong to it.
fn http_source(url: &str, args: &TopArgs) -> Result<HttpSource, String> {
    const FORM: &str =
        "write http://HOST:PORT or https://HOST:PORT, with USER@ before the host for a login";
    let wrong = |why: &str| format!("the URL: {why}; {FORM}");
    let scheme = USUAL_PORTS.iter().find(|(scheme, _)| url.starts_with(scheme));
    let (rest, usual_port) = match scheme {
        Some((scheme, port)) => (&url[scheme.len()..], Some(*port)),
        None if url.contains("://") => return Err(wrong("its scheme is unknown")),
        None => (url, None),
    };
    let is_tls = usual_port == Some(443);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !["", "/", "/-/", "/-/status.json"].contains(&path) {
        return Err(wrong("it has no path"));
    }
    let (user, endpoint) = match authority.rsplit_once('@') {
        Some((user, endpoint)) => (Some(user), endpoint),
        None => (None, authority),
    };
    let host_end = endpoint.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match endpoint[host_end..].rsplit_once(':') {
        Some((rest, port)) => {
            let port = port.parse().map_err(|_| wrong("a port is a number from 1 to 65535"))?;
            (&endpoint[..host_end + rest.len()], port)
        }
        None => (endpoint, usual_port.ok_or_else(|| wrong("the port is missing"))?),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    if host.is_empty() || !host.chars().all(is_host) || port == 0 {
        return Err(wrong("it names no host"));
    }
    let login = user.map(|user| login(user, args)).transpose().map_err(|why| wrong(&why))?;
    if login.is_none() && args.password_file.is_some() {
        return Err(wrong("--password-file belongs to a user, whom it does not name"));
    }
    let tls = match (is_tls, &args.ca) {
        (true, ca) => Some(tls_with(&host, ca.clone())?),
        (false, None) => None,
        (false, Some(_)) => return Err(wrong("--ca belongs to https://")),
    };
    Ok(HttpSource { host, port, tls, login })
}

/// Returns the user and the password of a URL; the latter may be in a file.
fn login(text: &str, args: &TopArgs) -> Result<(String, String), String> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_| "its login is no UTF-8".to_owned())
    };
    let (user, typed) = match text.split_once(':') {
        Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
        None => (decoded(text)?, None),
    };
    let password = match (typed, &args.password_file) {
        (Some(password), None) => password,
        (None, Some(file)) => {
            let read = text_file::read_password(file);
            read.map_err(|why| format!("--password-file: {} {why}", file.display()))?.0
        }
        (Some(_), Some(_)) => return Err("the password is in it and in a file".to_owned()),
        (None, None) => {
            return Err("the user's password is missing: --password-file FILE".to_owned());
        }
    };
    Ok((user, password))
}

/// Returns how TLS is spoken with a balancer whose certificate a CA of this file, or one of the system's, has signed.
fn tls_with(host: &str, ca: Option<PathBuf>) -> Result<BackendTls, String> {
    let files = TlsFiles { ca, ..TlsFiles::default() };
    let credentials = CredentialStore::default().load(&files);
    let credentials = credentials.map_err(|error| format!("--ca: {}", error.reason))?;
    let server_name = backend_tls::server_name(host).map_err(|why| format!("the URL: {why}"))?;
    Ok(BackendTls { config: Arc::clone(&credentials.config), server_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> TopArgs {
        TopArgs { url: None, control: None, password_file: None, ca: None }
    }

    #[test]
    fn a_url_names_the_host_the_port_and_the_login() {
        for (url, authority, login) in [
            ("http://10.0.0.9:1310", "10.0.0.9:1310", None),
            ("http://lb.example/", "lb.example:80", None),
            ("10.0.0.9:1310", "10.0.0.9:1310", None),
            ("http://[::1]:1310/-/", "[::1]:1310", None),
            ("http://[::1]", "[::1]:80", None),
            ("http://w:a%40b:c@h:1", "h:1", Some(("w", "a@b:c"))),
        ] {
            let source = http_source(url, &args()).expect(url);
            assert_eq!(source.authority(), authority, "{url}");
            let given = source.login.as_ref().map(|(user, password)| (&**user, &**password));
            assert_eq!(given, login, "{url}");
            assert!(!format!("{source:?}").contains("a@b"), "no password is shown");
        }
    }

    #[test]
    fn what_is_wrong_in_a_url_is_named_and_its_password_is_not() {
        for (url, expected) in [
            ("redis://u:hunter2@h:1", "scheme"),
            ("localhost", "port is missing"),
            ("http://h:x", "number from 1 to 65535"),
            ("http://h:0", "no host"),
            ("http://:1", "no host"),
            ("http://h:1/actor:1", "no path"),
            ("http://u@h:1", "--password-file FILE"),
            ("http://u:hunter2@h\u{1b}:1", "no host"),
        ] {
            let error = http_source(url, &args()).expect_err(url);
            assert!(error.contains(expected) && error.contains("write http://"), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let with_ca = TopArgs { ca: Some("/none".into()), ..args() };
        assert!(http_source("http://h:1", &with_ca).is_err_and(|why| why.contains("https://")));
        assert!(http_source("https://h:1", &with_ca).is_err_and(|why| why.contains("--ca: /none")));
    }
}
