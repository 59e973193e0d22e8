//! Proxies between a client and a server, as the environment names them.

use std::io::{Read, Result, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::noise;
use super::server::{Reply, Server};
use super::tls::{behind, root_certificates};
use super::verb::{User, file};
use crate::support::stderr;

/// A proxy, and what was asked of it.
pub struct Proxy {
    /// Host and port.
    pub address: String,
    /// Head of each request, or `SOCKS` with host and port.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn new(serve: impl Fn(TcpStream, &Mutex<Vec<String>>) -> Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (heads, serve) = (Arc::clone(&seen), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, heads, serve) = (stream.unwrap(), Arc::clone(&heads), Arc::clone(&serve));
                thread::spawn(move || serve(stream, &heads));
            }
        });
        Self { address, seen }
    }

    /// Tunnels `CONNECT`, and passes other requests on.
    pub fn http() -> Self {
        Self::new(|mut stream, seen| {
            let head = head(&mut stream)?;
            seen.lock().unwrap().push(head.clone());
            let (method, rest) = head.split_once(' ').unwrap();
            let (to, rest) = rest.split_once(' ').unwrap();
            if method == "CONNECT" {
                let far = TcpStream::connect(to)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                return tunnel(stream, far);
            }
            let (host, path) = to.strip_prefix("http://").unwrap().split_once('/').unwrap();
            let mut far = TcpStream::connect(host)?;
            far.write_all(format!("{method} /{path} {rest}").as_bytes())?;
            tunnel(stream, far)
        })
    }

    /// Refuses everything.
    fn refusing(status: &'static str) -> Self {
        Self::new(move |mut stream, seen| {
            seen.lock().unwrap().push(head(&mut stream)?);
            stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
        })
    }

    /// Version 5, without a password (RFC 1928).
    fn socks() -> Self {
        Self::new(|mut stream, seen| {
            let mut two = [0; 2];
            stream.read_exact(&mut two)?;
            stream.read_exact(&mut vec![0; two[1].into()])?;
            stream.write_all(&[5, 0])?;
            let mut request = [0; 4];
            stream.read_exact(&mut request)?;
            let host = if request[3] == 1 {
                let mut address = [0; 4];
                stream.read_exact(&mut address)?;
                std::net::Ipv4Addr::from(address).to_string()
            } else {
                stream.read_exact(&mut two[..1])?;
                let mut name = vec![0; two[0].into()];
                stream.read_exact(&mut name)?;
                String::from_utf8(name).unwrap()
            };
            stream.read_exact(&mut two)?;
            let to = format!("{host}:{}", u16::from_be_bytes(two));
            seen.lock().unwrap().push(format!("SOCKS {to}"));
            let far = TcpStream::connect(to)?;
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            tunnel(stream, far)
        })
    }

    fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// All before the body.
pub fn head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn tunnel(mut near: TcpStream, mut far: TcpStream) -> Result<()> {
    let (mut from, mut into) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || std::io::copy(&mut from, &mut into));
    std::io::copy(&mut far, &mut near)?;
    near.shutdown(Shutdown::Both)
}

/// A user with a dataset at an address.
fn user(bytes: &[u8], url: &str) -> User {
    let user = User::new();
    user.dataset("toy", "folders", &file("archive", "a.tgz", bytes, &[url.to_owned()]));
    user
}

/// `kshot data fetch` with proxies; `Err` of what it says where it fails.
fn fetch(bytes: &[u8], url: &str, environment: &[(&str, &str)]) -> std::result::Result<(), String> {
    let user = user(bytes, url);
    let mut command = user.kshot(&["-vv", "data", "fetch", "toy"]);
    let command = command.env("SSL_CERT_FILE", root_certificates());
    let output = command.envs(environment.iter().copied()).output().unwrap();
    if !output.status.success() {
        return Err(stderr(&output));
    }
    assert!(std::fs::read(user.path("cache/downloads/toy/a.tgz")).unwrap() == bytes);
    Ok(())
}

#[test]
fn a_proxy_sees_of_an_encrypted_request_only_where_it_goes() {
    let bytes = noise(5_000, 1);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served));
    let url = format!("{}/a.tgz", behind(&server, "good"));
    let proxy = Proxy::http();
    let with_password = format!("http://me:s%65cret@{}", proxy.address);
    fetch(&bytes, &url, &[("HTTPS_PROXY", &with_password)]).unwrap();
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1);
    let to = url.strip_prefix("https://").unwrap().strip_suffix("/a.tgz").unwrap();
    assert!(heads[0].starts_with(&format!("CONNECT {to} HTTP/1.1\r\n")), "{heads:?}");
    // `me:secret` as RFC 7617 has it.
    let lower = heads[0].to_lowercase();
    assert!(
        lower.contains("proxy-authorization: basic ") && heads[0].contains("bWU6c2VjcmV0"),
        "{heads:?}"
    );
    assert!(!heads[0].contains("a.tgz"), "{heads:?}");
    assert_eq!(server.asked()[0].header("proxy-authorization"), None);

    // A scheme has its own variable; exceptions are honoured.
    let unused = format!("http://{}", Proxy::refusing("500 No").address);
    fetch(&bytes, &url, &[("HTTP_PROXY", &unused)]).unwrap();
    fetch(
        &bytes,
        &url,
        &[("HTTPS_PROXY", &unused), ("NO_PROXY", "10.0.0.0/8, 127.0.0.0/8")],
    )
    .unwrap();
    fetch(&bytes, &url, &[("ALL_PROXY", &unused), ("no_proxy", "*")]).unwrap();
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn socks_proxies_are_used_too() {
    let bytes = noise(5_000, 2);
    let served = bytes.clone();
    let server = Server::new(move |request| Reply::file(request, &served));
    let proxy = Proxy::socks();
    let address = server.url("");
    let to = address.strip_prefix("http://").unwrap();
    for scheme in ["socks5", "socks5h"] {
        let all = format!("{scheme}://{}", proxy.address);
        fetch(&bytes, &server.url("/a.tgz"), &[("ALL_PROXY", &all)]).unwrap();
    }
    fetch(
        &bytes,
        &format!("{}/a.tgz", behind(&server, "good")),
        &[("https_proxy", &format!("socks5h://{}", proxy.address))],
    )
    .unwrap();
    let seen = proxy.heads();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[..2], [format!("SOCKS {to}"), format!("SOCKS {to}")]);
}

#[test]
fn a_proxy_that_refuses_is_told_and_its_password_is_not() {
    let bytes = noise(5_000, 3);
    let server = Server::new(|_| Reply::status(404));
    let proxy = Proxy::refusing("407 Proxy Authentication Required");
    let named = format!("http://me:secret@{}", proxy.address);
    let url = format!("{}/a.tgz", behind(&server, "good"));
    let said = fetch(&bytes, &url, &[("HTTPS_PROXY", &named)]).unwrap_err();
    assert!(said.contains("proxy authorization required"), "{said}");
    assert!(said.contains("hint: ") && said.contains("`HTTPS_PROXY`"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    assert!(!proxy.heads().is_empty());
    assert_eq!(server.asked().len(), 0);
}
