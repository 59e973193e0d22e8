//! Servers behind TLS: authorities, certificates that are not to be trusted, and servers that do not speak it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::{io, thread};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::proxies::head;
use super::server::{Reply, Server};
use super::verb::{User, file};
use super::{Machine, noise};
use crate::support::{root, stderr};

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/tls").join(name)
}

/// The authority that signed the certificates of these tests.
pub fn root_certificates() -> PathBuf {
    fixture("authority.pem")
}

/// The address at which a server answers by TLS, with the certificate of that name.
pub fn behind(server: &Server, certificate: &str) -> String {
    let chain = CertificateDer::pem_file_iter(fixture(&format!("{certificate}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture(&format!("{certificate}.key"))).unwrap();
    let settings = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let settings = Arc::new(settings);
    let to = server.url("").replace("http://", "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, settings, to) = (stream.unwrap(), Arc::clone(&settings), to.clone());
            // A client that does not trust the certificate goes away.
            thread::spawn(move || pass_on(stream, settings, &to));
        }
    });
    format!("https://{address}")
}

/// One request and its answer.
fn pass_on(stream: TcpStream, settings: Arc<ServerConfig>, to: &str) -> io::Result<()> {
    let connection = ServerConnection::new(settings).map_err(io::Error::other)?;
    let mut near = StreamOwned::new(connection, stream);
    let head = head(&mut near)?;
    let mut far = TcpStream::connect(to)?;
    far.write_all(head.as_bytes())?;
    io::copy(&mut far, &mut near)?;
    near.conn.send_close_notify();
    near.flush()
}

fn good(bytes: &[u8]) -> Server {
    let served = bytes.to_vec();
    Server::new(move |request| Reply::file(request, &served))
}

#[test]
fn a_server_is_trusted_whose_authority_is_named() {
    let bytes = noise(300_000, 1);
    let server = good(&bytes);
    let fetch = |url: String, roots: Option<PathBuf>| {
        let user = User::new();
        user.dataset("toy", "folders", &file("archive", "a.tgz", &bytes, &[url]));
        let mut command = user.kshot(&["data", "fetch", "toy"]);
        let output = command
            .envs(roots.map(|roots| ("SSL_CERT_FILE", roots)))
            .output()
            .unwrap();
        if output.status.success() {
            assert!(std::fs::read(user.path("cache/downloads/toy/a.tgz")).unwrap() == bytes);
        } else {
            assert_eq!(output.status.code(), Some(2));
        }
        (output.status.success(), stderr(&output))
    };
    let trusted = Some(root_certificates());
    let address = behind(&server, "good");
    let (fetched, said) = fetch(format!("{address}/a.tgz"), trusted.clone());
    assert!(fetched, "{said}");
    assert_eq!(server.asked().len(), 1);

    let unknown = "TLS: invalid peer certificate: UnknownIssuer";
    let localhost = address.replace("127.0.0.1", "localhost");
    for (address, roots, reason) in [
        (address.clone(), None, unknown),
        (address, Some(fixture("elsewhere.pem")), unknown),
        (
            behind(&server, "expired"),
            trusted.clone(),
            "TLS: invalid peer certificate: certificate expired",
        ),
        (
            behind(&server, "elsewhere"),
            trusted.clone(),
            "TLS: invalid peer certificate: certificate not valid for name",
        ),
        (
            localhost,
            trusted,
            "TLS: invalid peer certificate: certificate not valid for name \"localhost\"",
        ),
    ] {
        let url = format!("{address}/a.tgz");
        let (fetched, said) = fetch(url.clone(), roots);
        assert!(
            !fetched && said.contains(&format!("{url}: {reason}")),
            "`{reason}` is not in: {said}"
        );
        assert!(said.contains("hint: set `SSL_CERT_FILE`"), "{said}");
        // Asking again would not help.
        assert!(!said.contains("again in"), "{said}");
    }
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_file_of_authorities_that_holds_none_is_named() {
    let user = User::new();
    user.dataset(
        "toy",
        "folders",
        &file("archive", "a.tgz", b"x", &["http://127.0.0.1:9/a".into()]),
    );
    for (name, text) in [
        ("absent.pem", None),
        ("empty.pem", Some("")),
        ("key.pem", Some("no certificate")),
    ] {
        if let Some(text) = text {
            std::fs::write(user.path(name), text).unwrap();
        }
        let mut command = user.kshot(&["data", "fetch", "toy"]);
        let output = command.env("SSL_CERT_FILE", user.path(name)).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(name) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn a_server_that_does_not_speak_tls_is_told_and_left() {
    let bytes = noise(9_000, 2);
    // One that goes away without a word, and one that says what it thinks of the request.
    let server = good(&bytes);
    let silent = server.url("/a.tgz").replace("http://", "https://");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let speaking = format!("https://{}/a.tgz", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The whole first message: what is not read resets the connection.
            let mut record = [0; 5];
            stream.read_exact(&mut record).unwrap();
            let length = u16::from_be_bytes([record[3], record[4]]);
            stream.read_exact(&mut vec![0; length.into()]).unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    let mut machine = Machine::new();
    machine.remote.policy.tries = 2;
    for (url, reason) in [
        (silent, "TLS: handshake eof"),
        (speaking, "TLS: received corrupt message of type InvalidContentType"),
    ] {
        let reasons = machine.refused(&bytes, &[url]);
        assert_eq!(reasons, [format!("{reason} (2 times without progress)")]);
    }
}

#[test]
fn a_redirect_does_not_lead_out_of_encryption() {
    let bytes = noise(9_000, 3);
    let plain = good(&bytes);
    let to = plain.url("/a.tgz");
    let server = Server::new(move |_| Reply::redirect(&to));
    let user = User::new();
    let url = format!("{}/a.tgz", behind(&server, "good"));
    user.dataset("toy", "folders", &file("archive", "a.tgz", &bytes, &[url]));
    let mut command = user.kshot(&["data", "fetch", "toy"]);
    let output = command.env("SSL_CERT_FILE", root_certificates()).output().unwrap();
    assert!(
        stderr(&output).contains("redirects from https to something else"),
        "{}",
        stderr(&output)
    );
    assert_eq!((server.asked().len(), plain.asked().len()), (1, 0));
}
