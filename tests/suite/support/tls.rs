//! A client of TLS that is spoken to byte by byte.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::certificates::CertificateFiles;
use super::client::Client;
use super::resp::{encode, read_frame};

/// One connection in TLS.
pub struct TlsClient(BufReader<StreamOwned<ClientConnection, TcpStream>>);

/// A client's configuration that trusts this CA, and shows this certificate, if there is one.
pub fn config(ca: &Path, own: Option<&CertificateFiles>) -> Arc<ClientConfig> {
    let chain = |path: &Path| {
        CertificateDer::pem_file_iter(path).expect("a file").map(|one| one.expect("a certificate"))
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain(ca));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(&fs::read(&own.key).expect("a file"));
            let chain = chain(&own.certificate).collect();
            builder.with_client_auth_cert(chain, key.expect("a key")).expect("a certificate")
        }
    })
}

impl TlsClient {
    /// Handshakes on a connection.
    pub fn handshake(mut socket: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::clone(config), name);
        let mut connection = connection.map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self(BufReader::new(StreamOwned::new(connection, socket))))
    }

    /// Connects to a port of this computer.
    pub fn connect(port: u16, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
        Self::handshake(socket, config)
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.0.get_ref().conn.peer_certificates().expect("a certificate");
        chain[0].clone().into_owned()
    }

    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send_raw(bytes).expect("lb reads");
    }

    pub fn try_send_raw(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())?;
        self.0.get_mut().flush()
    }

    /// The next reply of the Redis protocol, as its bytes.
    pub fn try_reply(&mut self) -> io::Result<Vec<u8>> {
        let mut frame = Vec::new();
        read_frame(&mut self.0, &mut frame)?;
        Ok(frame)
    }

    pub fn reply(&mut self) -> String {
        String::from_utf8_lossy(&self.try_reply().expect("a reply")).into_owned()
    }

    /// Sends words with spaces between them as a command, and returns the reply.
    pub fn try_call(&mut self, words: &str) -> io::Result<String> {
        let words: Vec<&str> = words.split(' ').collect();
        self.try_send_raw(encode(&words))?;
        Ok(String::from_utf8_lossy(&self.try_reply()?).into_owned())
    }

    pub fn call(&mut self, words: &str) -> String {
        self.try_call(words).expect("a reply")
    }

    /// Ends our side, in TLS and below it.
    pub fn end(&mut self) {
        let stream = self.0.get_mut();
        stream.conn.send_close_notify();
        stream.flush().expect("lb reads");
        stream.sock.shutdown(Shutdown::Write).expect("a connection");
    }

    /// All that still comes. An end without TLS's own is an error.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).map(|_| rest)
    }
}

/// A connection in TLS that understands HTTP.
pub fn http_client(port: u16, config: &Arc<ClientConfig>) -> Client<impl Read + Write + use<>> {
    let TlsClient(stream) = TlsClient::connect(port, config).expect("a handshake");
    Client::over(stream.into_inner())
}
