//! The listening sockets: our own, or one that the process which started us has passed on.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use log::{info, warn};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::places::Clients;
use crate::config::Config;
use crate::net::client_stream::ClientStream;
use crate::session::{ClientList, Endpoint};

/// Connections that the kernel holds until they are accepted. std's 128 overflow when thousands come
/// at once.
pub(super) const BACKLOG: i32 = 4096;

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}{}; choose another with {flag}", hint(.source))]
pub struct ListenError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}

/// Says why an address can't be listened on, where that is known.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program does so, perhaps an lb that runs already",
        io::ErrorKind::PermissionDenied => {
            ": a port below 1024 takes root, or the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => {
            ": no network interface of this machine has it (0.0.0.0 is all of them)"
        }
        _ => "",
    }
}

/// The socket that the process which started us has passed on (systemd's socket activation), if any.
#[derive(Debug, Default)]
pub struct PassedOn {
    listener: Option<TcpListener>,
    /// Why sockets that seem to have been passed on are not ours.
    ignored: Option<String>,
}

impl PassedOn {
    /// Takes it, which changes the environment: call this before there is another thread.
    ///
    /// # Errors
    /// When what was passed on is not one TCP socket that listens.
    pub fn take() -> io::Result<Self> {
        let text = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let process = text("LISTEN_PID").filter(|pid| !pid.is_empty());
        let ignored = text("LISTEN_FDS")
            .and_then(|count| ignored(&count, process.as_deref(), std::process::id()));
        let mut passed = ListenFd::from_env();
        if passed.len() > 1 {
            return Err(io::Error::other(format!(
                "{} were passed on, and one is served: to change its address, `systemctl edit` the socket \
                 and write an empty ListenStream= before the new one",
                passed.len()
            )));
        }
        let listener = passed.take_tcp_listener(0)?;
        // Apple's systems don't say.
        #[cfg(not(target_vendor = "apple"))]
        if let Some(listener) = &listener
            && !rustix::net::sockopt::socket_acceptconn(listener)?
        {
            return Err(io::Error::other("it does not listen"));
        }
        Ok(Self { listener, ignored })
    }
}

/// Why sockets that seem to have been passed on are not ours, by the variables that announce them.
fn ignored(count: &str, process: Option<&str>, pid: u32) -> Option<String> {
    if count.parse::<usize>().is_err() {
        return Some(format!("LISTEN_FDS={count:?} is no number and ignored: --listen counts"));
    }
    let process = process.filter(|other| other.parse() != Ok(pid))?;
    Some(format!(
        "LISTEN_FDS={count} is ignored and --listen counts: LISTEN_PID={process:?} is not this \
         process, {pid}; start lb without a shell between, or by exec"
    ))
}

/// The sockets that clients connect to.
#[derive(Debug)]
pub struct Listeners {
    pub(super) public: TcpListener,
    pub(super) admin: Option<TcpListener>,
    /// The clients of the public one.
    pub(super) clients: Arc<Clients>,
    /// Whether the public one was passed on to us.
    pub was_passed_on: bool,
}

impl Listeners {
    /// Listens as the configuration says, or on the socket that was passed on. The configuration then
    /// has the addresses that clients reach.
    ///
    /// # Errors
    /// When an address can't be listened on.
    pub fn open(config: &mut Config, passed_on: PassedOn) -> Result<Self, ListenError> {
        if let Some(why) = passed_on.ignored {
            warn!("{why}");
        }
        let was_passed_on = passed_on.listener.is_some();
        let keepalive = config.client_keepalive;
        let public = listen(&mut config.listen, "--listen", passed_on.listener, keepalive)?;
        if was_passed_on {
            say_who_listens(config);
        }
        let admin = config.admin_listen.as_mut();
        let listen_to = |address| listen(address, "--admin-listen", None, keepalive);
        let admin = admin.map(listen_to).transpose()?;
        let clients = Clients::new(Endpoint::Public, config.max_clients);
        Ok(Self { public, admin, clients, was_passed_on })
    }

    /// Returns the list of those who are connected to the public one, once it is served.
    pub fn clients(&self) -> Arc<dyn ClientList> {
        Arc::clone(&self.clients) as _
    }
}

/// Says that the address is not ours to choose.
fn say_who_listens(config: &Config) {
    match config.given_by("listen") {
        None => info!("serves the socket that was passed on, {}; not --listen", config.listen),
        Some(setting) => warn!(
            "{setting} has no effect: lb serves the socket that was passed on, {}, not --listen; for systemd's, \
             `systemctl edit redis-lb.socket` changes the address",
            config.listen
        ),
    }
}

/// Listens on `address`, unless there is a `listener` already, and says where clients connect. An IPv4
/// address is in its plain form then, which shows whether it is loopback.
fn listen(
    address: &mut SocketAddr,
    flag: &'static str,
    listener: Option<TcpListener>,
    keepalive: Duration,
) -> Result<TcpListener, ListenError> {
    let listener = match listener {
        None => bind(*address, keepalive),
        Some(listener) => {
            ClientStream::prepare(SockRef::from(&listener), keepalive).map(|()| listener)
        }
    };
    let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (local, listener) =
        bound.map_err(|source| ListenError { address: *address, flag, source })?;
    *address = SocketAddr::new(local.ip().to_canonical(), local.port());
    Ok(listener)
}

fn bind(address: SocketAddr, keepalive: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Before a client can connect.
    ClientStream::prepare(SockRef::from(&socket), keepalive)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_another_process_are_named_and_ours_are_not() {
        assert_eq!(ignored("1", Some("7"), 7), None);
        assert_eq!(ignored("1", None, 7), None);
        assert!(ignored("1", Some("8"), 7).is_some_and(|why| why.contains("LISTEN_PID=\"8\"")));
        assert!(ignored("one", None, 7).is_some_and(|why| why.contains("\"one\"")));
    }
}
