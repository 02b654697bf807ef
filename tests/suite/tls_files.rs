//! The files with certificates and keys: what is wrong with them, and how they are read again under load.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::support::balancer::Balancer;
use crate::support::certificates::{CertificateFiles, Certificates, Validity};
use crate::support::observe::metric;
use crate::support::redis::RedisServer;
use crate::support::tls::{TlsClient, config};
use crate::support::{SetOnDrop, wait_until};

/// Reloads under load. `RELOADS=100` makes it a hundred.
const RELOADS: usize = 15;

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What `lb` says that can't start with these flags.
fn refused(flags: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1"])
        .args(flags)
        .output()
        .expect("lb starts");
    assert!(!output.status.success(), "{flags:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn flags_that_need_each_other_are_named() {
    for (flags, expected) in [
        (&["--tls-cert", "a"][..], "--tls-cert needs --tls-key FILE, too"),
        (&["--tls-key", "a"], "--tls-key needs --tls-cert FILE, too"),
        (&["--tls-only"], "--tls-only needs --tls-cert and --tls-key, too"),
        (&["--tls-client-ca", "a"], "--tls-client-ca needs --tls-cert and --tls-key, too"),
    ] {
        let said = refused(flags);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_file_that_is_wrong_is_named_with_the_reason() {
    let certificates = Certificates::new("ca");
    let (good, other) = (certificates.server(), certificates.client());
    let folder = TempDir::new().expect("a folder");
    let file = |name: &str, contents: &str| {
        let path = folder.path().join(name);
        fs::write(&path, contents).expect("a file");
        text(&path).to_owned()
    };
    let key = fs::read_to_string(&good.key).expect("a key");
    let secret = key.lines().nth(1).expect("its second line");
    let encrypted = file("encrypted", &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
    let (empty, large) = (file("empty", ""), file("large", &"x".repeat(2 << 20)));
    let cut = file("cut", &key[..key.len() / 2]);
    let nothing = text(&folder.path().join("nothing")).to_owned();
    let (cert, key_path) = (text(&good.certificate), text(&good.key));
    for (cert, key, ca, expected) in [
        (nothing.as_str(), key_path, None, "nothing: can't be read"),
        (&empty, key_path, None, "empty: has no certificate"),
        (key_path, key_path, None, "server.key: has no certificate"),
        (&large, key_path, None, "large: is larger than 1.0 MiB"),
        (text(folder.path()), key_path, None, "is a directory"),
        (cert, cert, None, "server.pem: has no private key"),
        (cert, &encrypted, None, "encrypted: has a private key with a passphrase"),
        (cert, &cut, None, "cut: is no PEM file"),
        (cert, text(&other.key), None, "the key does not fit the certificate"),
        (cert, key_path, Some(empty.as_str()), "--tls-client-ca"),
    ] {
        let mut flags = vec!["--tls-cert", cert, "--tls-key", key];
        flags.extend(ca.into_iter().flat_map(|ca| ["--tls-client-ca", ca]));
        let said = refused(&flags);
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!said.contains(secret), "{said}");
    }
}

#[test]
fn a_certificate_that_is_not_valid_is_told_at_the_start_and_shown_as_a_metric() {
    let server = RedisServer::start();
    let certificates = Certificates::new("ca");
    for (validity, expected, from, until) in [
        (Validity::Expired, "the certificate has expired on 2001-01-01T00:00:00Z", 0.9e9, 1e9),
        (Validity::NotYet, "the certificate is not valid before 2200-01-01T00:00:00Z", 7e9, 8e9),
    ] {
        let files = certificates.signed("old", &NAMES, validity);
        let flags = files.flags();
        let lb = Balancer::start_with(&[&server], &flags.each_ref().map(String::as_str));
        wait_until("the log tells", || lb.log().contains(expected));
        let until_then = metric(&lb, "redis_lb_tls_certificate_expiry_timestamp_seconds");
        assert!((from..until).contains(&until_then), "{until_then}");
        // Plain text is served all the same.
        assert_eq!(lb.get("/-/health").status, 200);
    }
}

/// A balancer, and the files of its certificate, which are replaced.
fn start(server: &RedisServer, certificates: &Certificates) -> (Balancer, CertificateFiles) {
    let files = certificates.signed("server", &NAMES, Validity::Valid);
    let flags = files.flags();
    let lb = Balancer::start_with(&[server], &flags.each_ref().map(String::as_str));
    (lb, files)
}

#[test]
fn certificates_are_replaced_under_load_and_no_read_fails() {
    let server = RedisServer::start();
    server.command(&["SET", "key", "value"]);
    let certificates = Certificates::new("ca");
    let (lb, _files) = start(&server, &certificates);
    let config = config(&certificates.ca(), None);
    let reloads = std::env::var("RELOADS").ok().and_then(|text| text.parse().ok());
    let (is_over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let connect = || TlsClient::connect(lb.port(), &config).expect("a handshake");
    thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        for number in 0..6 {
            let (is_over, reads) = (&is_over, &reads);
            scope.spawn(move || {
                let mut client = connect();
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(client.call("GET key"), "$5\r\nvalue\r\n");
                    reads.fetch_add(1, Ordering::Relaxed);
                    // Half of them connect for each read, and resume their sessions where they can.
                    if number % 2 == 0 {
                        client = connect();
                    }
                }
            });
        }
        for _ in 0..reloads.unwrap_or(RELOADS) {
            let before = connect().certificate();
            certificates.signed("server", &NAMES, Validity::Valid);
            lb.signal("-HUP");
            wait_until("the new certificate is shown", || connect().certificate() != before);
            let so_far = reads.load(Ordering::Relaxed);
            wait_until("reads go on", || reads.load(Ordering::Relaxed) > so_far + 20);
        }
    });
    assert!(lb.log().contains("reload: taken over: the certificates"));
}

#[test]
fn a_broken_file_leaves_the_old_certificate_in_use_and_the_log_says_why() {
    let server = RedisServer::start();
    let certificates = Certificates::new("ca");
    let (lb, files) = start(&server, &certificates);
    let config = config(&certificates.ca(), None);
    let shown = || TlsClient::connect(lb.port(), &config).expect("a handshake").certificate();
    let first = shown();
    let other = certificates.client();
    for (break_it, expected) in [
        (
            Box::new(|| fs::write(&files.certificate, "").expect("a file")) as Box<dyn Fn()>,
            "has no certificate",
        ),
        (
            Box::new(|| _ = fs::copy(&other.certificate, &files.certificate).expect("a copy")),
            "the key does not fit",
        ),
        (
            Box::new(|| drop(certificates.signed("server", &NAMES, Validity::Expired))),
            "the certificate has expired on 2001-01-01",
        ),
        (Box::new(|| fs::remove_file(&files.key).expect("a file")), "server.key: can't be read"),
    ] {
        break_it();
        lb.signal("-HUP");
        wait_until(expected, || lb.log().contains(expected));
        assert!(shown() == first, "{expected}");
    }
    certificates.signed("server", &NAMES, Validity::Valid);
    lb.signal("-HUP");
    wait_until("the new certificate is shown", || shown() != first);
}
