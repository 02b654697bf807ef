//! With `TLS=1`, tests speak TLS with the balancer, and the balancer with its servers, without a change to the tests.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::certificates::Certificates;

/// Most bytes that a tunnel passes on at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The certificates of a run with `TLS=1`; `None` in any other.
pub fn certificates() -> Option<&'static Certificates> {
    static CERTIFICATES: OnceLock<Option<Certificates>> = OnceLock::new();
    let make = || std::env::var_os("TLS").map(|_| Certificates::new("the tests' CA"));
    CERTIFICATES.get_or_init(make).as_ref()
}

/// Has a balancer of a run with `TLS=1` speak TLS on both sides.
pub fn configure(command: &mut Command) {
    if let Some(certificates) = certificates() {
        let own = certificates.server();
        command.env("LB_BACKEND_TLS_CA", certificates.ca());
        command.env("LB_TLS_CERT", own.certificate).env("LB_TLS_KEY", own.key);
    }
}

/// Returns the port where tests connect to a balancer at this port: in a run with `TLS=1` that of a tunnel, which speaks
/// plain text with the test and TLS with the balancer.
pub fn port_for_tests(port: u16) -> u16 {
    let Some(certificates) = certificates() else { return port };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.ca()).expect("a CA")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let tunnel_port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for plain in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            // Whatever fails there ends both connections, which the test sees.
            thread::spawn(move || _ = Tunnel::open(plain, port, config).map(Tunnel::run));
        }
    });
    tunnel_port
}

/// A connection of a test, and the one that passes its bytes on in TLS.
struct Tunnel {
    plain: TcpStream,
    socket: TcpStream,
    session: Mutex<ClientConnection>,
}

impl Tunnel {
    fn open(plain: TcpStream, port: u16, config: Arc<ClientConfig>) -> io::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        plain.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Self { plain, socket, session: Mutex::new(session) })
    }

    fn run(self) {
        let tunnel = &self;
        thread::scope(|scope| {
            for pass in [Self::pass_to_balancer, Self::pass_to_test] {
                scope.spawn(move || {
                    if pass(tunnel).is_err() {
                        // They may have ended already.
                        let _ = tunnel.plain.shutdown(Shutdown::Both);
                        let _ = tunnel.socket.shutdown(Shutdown::Both);
                    }
                });
            }
        });
    }

    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().expect("no panic while it is held")
    }

    /// Encrypts with the lock, and sends without it: the other direction goes on meanwhile.
    fn pass_to_balancer(&self) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = (&self.plain).read(&mut piece)?;
            let mut encrypted = Vec::new();
            let mut session = self.session();
            session.set_buffer_limit(None);
            match length {
                0 => session.send_close_notify(),
                _ => session.writer().write_all(&piece[..length])?,
            }
            while session.wants_write() {
                session.write_tls(&mut encrypted)?;
            }
            drop(session);
            (&self.socket).write_all(&encrypted)?;
            if length == 0 {
                return self.socket.shutdown(Shutdown::Write);
            }
        }
    }

    fn pass_to_test(&self) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = (&self.socket).read(&mut piece)?;
            let (mut received, mut decrypted) = (&piece[..length], Vec::new());
            let mut session = self.session();
            let mut has_ended = length == 0;
            while !received.is_empty() {
                session.read_tls(&mut received)?;
                let state = session.process_new_packets().map_err(io::Error::other)?;
                let begin = decrypted.len();
                decrypted.resize(begin + state.plaintext_bytes_to_read(), 0);
                session.reader().read_exact(&mut decrypted[begin..])?;
                has_ended |= state.peer_has_closed();
            }
            drop(session);
            (&self.plain).write_all(&decrypted)?;
            if has_ended {
                return self.plain.shutdown(Shutdown::Write);
            }
        }
    }
}
