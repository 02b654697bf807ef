//! The listening sockets: our own, or one that the process which started us has passed on.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel holds until they are accepted; std's 128 overflow when thousands come
/// at once.
pub(super) const BACKLOG: i32 = 4096;

/// Binds the listening socket.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The listening socket that the process which started us has passed on (systemd's socket
/// activation), if there is one. It changes the environment: only before there is another thread.
///
/// # Errors
/// When what was passed on is not one TCP socket that listens.
pub fn inherited() -> io::Result<Option<TcpListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 1 {
        return Err(io::Error::other(format!("{} were passed on, one is served", passed.len())));
    }
    let Some(listener) = passed.take_tcp_listener(0)? else { return Ok(None) };
    // Apple's systems don't say.
    #[cfg(not(target_vendor = "apple"))]
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(io::Error::other("it does not listen"));
    }
    Ok(Some(listener))
}
