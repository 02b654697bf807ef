//! A client's connection, in plain text or in TLS.

use std::cell::RefCell;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub enum Socket {
    Plain(TcpStream),
    Tls(Box<RefCell<StreamOwned<ClientConnection, TcpStream>>>),
}

/// The configuration of TLS for a server whose certificate is signed by the CA in this PEM file.
pub fn trust(ca: &str) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

impl Socket {
    /// Handshakes if there is a configuration of TLS.
    pub fn new(mut socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> io::Result<Socket> {
        let Some(config) = tls else { return Ok(Socket::Plain(socket)) };
        let name = Ipv4Addr::LOCALHOST.into();
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Socket::Tls(Box::new(RefCell::new(StreamOwned::new(tls, socket)))))
    }

    pub fn with_tcp<T>(&self, act: impl FnOnce(&TcpStream) -> T) -> T {
        match self {
            Socket::Plain(socket) => act(socket),
            Socket::Tls(tls) => act(&tls.borrow().sock),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(socket) => (&mut &*socket).read(buffer),
            Socket::Tls(tls) => tls.borrow_mut().read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(socket) => (&mut &*socket).write(bytes),
            Socket::Tls(tls) => tls.borrow_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(_) => Ok(()),
            Socket::Tls(tls) => tls.borrow_mut().flush(),
        }
    }
}
