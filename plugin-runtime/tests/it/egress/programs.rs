//! Programs that know nothing of all this, in a network of their own.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use orchestrator_plugin_runtime::egress::egress_variables;
use orchestrator_sandbox::{Confinement, ExitStatus, Grants, Image, Layers, Network, Spec, spawn};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;

use super::*;

pub(super) fn python() -> Option<Spec> {
    installed("/usr/bin/python3").map(|python| python.argument("-I").argument("-c"))
}

pub(super) fn installed(path: &str) -> Option<Spec> {
    let path = Path::new(path);
    let image = path.exists().then(|| Image::interpreter(path))?;
    let name = path.file_name()?;
    Some(Spec::new(&image.expect("a program"), name))
}

/// Runs `spec` where nothing but the proxy can be reached, and tells what it wrote.
async fn run(spec: Spec, port: u16) -> (Scene, ExitStatus, String) {
    run_with(Grants::new(), spec, port).await
}

/// The same with further `grants`.
pub(super) async fn run_with(grants: Grants, spec: Spec, port: u16) -> (Scene, ExitStatus, String) {
    let grants = grants.network(Network::Gateway);
    let confinement = Confinement::new(&grants, Layers::ALL, Layers::ALL);
    let confinement = confinement.expect("this host has all layers");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let both: OwnedFd = writer.try_clone().expect("a descriptor");
    let mut spec = spec
        .confinement(&confinement)
        .descriptor(1, writer)
        .descriptor(2, both);
    for (name, value) in egress_variables() {
        spec = spec.variable(name, value);
    }
    let mut child = spawn(spec).await.expect("it starts");
    let gateway = child.take_gateway().expect("it was granted");
    let granted = [format!("{HERE}:{port}"), format!("127.0.0.1:{port}")];
    let granted = granted.each_ref().map(String::as_str);
    let answers = Answers::of(HERE, &[&["127.0.0.1"]]);
    let scene = Scene::at(gateway, &granted, answers, EgressSettings::default());
    let mut reader = Receiver::from_owned_fd(reader).expect("a pipe");
    let mut said = String::new();
    let read = timeout(PATIENCE, reader.read_to_string(&mut said)).await;
    read.expect("it ends").expect("text");
    let status = child.ended().await.expect("it is our child");
    (scene, status, said)
}

const URLLIB: &str = "
import sys, http.client, urllib.error, urllib.request
host, port = sys.argv[1], sys.argv[2]
def get(url):
    try:
        return urllib.request.urlopen(url, timeout=10).read().decode()
    except urllib.error.HTTPError as error:
        return f'{error.code} {error.read().decode()}'
print(get(f'http://{host}:{port}/page?x=1'))
print(get(f'http://evil{host}:{port}/'))
print(get(f'http://{host}:1/'))
try:
    get(f'https://evil{host}:{port}/')
except urllib.error.URLError as error:
    print('https', error.reason)
for name in host, f'evil{host}':
    tunnel = http.client.HTTPConnection('127.0.0.1', 3128, timeout=10)
    tunnel.set_tunnel(name, int(port))
    try:
        tunnel.request('GET', '/tunnel')
        print(tunnel.getresponse().read().decode())
    except OSError as error:
        print('tunnel', error)
";

#[tokio::test]
async fn urllib_finds_its_way_by_the_variables() {
    let Some(python) = python() else { return };
    let server = Server::start().await;
    let port = server.port;
    let spec = python.arguments([URLLIB, HERE]).argument(port.to_string());
    let (scene, status, said) = run(spec, port).await;
    assert_eq!(status, ExitStatus::Exited(0), "{said}");
    let head = format!("GET /page?x=1 HTTP/1.1\r\nHost: {HERE}:{port}\r\nConnection: close\r\n");
    assert!(said.contains(&format!("at 127.0.0.1\n{head}")), "{said}");
    let denial = format!("403 the plugin was not granted network:access=evil{HERE}:{port}\n");
    assert!(said.contains(&denial), "{said}");
    assert!(
        said.contains("https Tunnel connection failed: 403 Forbidden"),
        "{said}"
    );
    assert!(said.contains("GET /tunnel HTTP/1.1"), "{said}");
    assert!(
        said.contains("tunnel Tunnel connection failed: 403 Forbidden"),
        "{said}"
    );
    let usage = scene.egress.usage();
    assert_eq!((usage.connections, usage.denied), (2, 4));
    assert_eq!(
        scene.denials.told()[1],
        (format!("{HERE}:1"), "not_granted")
    );
}

const SOCKS: &str = "
import socket, struct, sys
host, port = sys.argv[1], int(sys.argv[2])
def by_socks(kind, address, port):
    it = socket.create_connection(('127.0.0.1', 3128), 10)
    it.sendall(b'\\x05\\x01\\x00')
    assert it.recv(2) == b'\\x05\\x00'
    it.sendall(b'\\x05\\x01\\x00' + bytes([kind]) + address + struct.pack('>H', port))
    answer = it.recv(10)
    if answer[1] == 0:
        it.sendall(b'GET /socks HTTP/1.1\\r\\n\\r\\n')
        return it.makefile().read()
    return f'refused {answer[1]}'
def name(text):
    return bytes([len(text)]) + text.encode()
print('name', by_socks(3, name(host), port))
print('address', by_socks(1, socket.inet_aton('127.0.0.1'), port))
print('mapped', by_socks(4, socket.inet_pton(socket.AF_INET6, '::ffff:127.0.0.1'), port))
print('other name', by_socks(3, name('evil' + host), port))
print('other address', by_socks(1, socket.inet_aton('127.0.0.2'), port))
print('other port', by_socks(3, name(host), port ^ 1))
print('version 6', by_socks(4, socket.inet_pton(socket.AF_INET6, '::1'), port))
try:
    socket.create_connection(('127.0.0.1', port), 5)
    print('around it')
except OSError as error:
    print('no way around', error.errno)
";

#[tokio::test]
async fn socks_reaches_what_was_granted_and_nothing_else() {
    let Some(python) = python() else { return };
    let server = Server::start().await;
    let port = server.port;
    let spec = python.arguments([SOCKS, HERE]).argument(port.to_string());
    let (scene, status, said) = run(spec, port).await;
    assert_eq!(status, ExitStatus::Exited(0), "{said}");
    for works in ["name", "address", "mapped"] {
        assert!(said.contains(&format!("{works} HTTP/1.1 200 OK")), "{said}");
    }
    for fails in ["other name", "other address", "other port", "version 6"] {
        assert!(said.contains(&format!("{fails} refused 2")), "{said}");
    }
    assert!(said.contains("no way around"), "{said}");
    assert_eq!(scene.egress.usage().connections, 3);
}

#[tokio::test]
async fn curl_finds_its_way_too() {
    let curl = PathBuf::from("/usr/bin/curl");
    if !curl.exists() {
        return;
    }
    let server = Server::start().await;
    let port = server.port;
    let page = format!("http://{HERE}:{port}/page");
    let evil = format!("http://evil{HERE}:{port}/page");
    let by_socks = ["--proxy", "socks5h://127.0.0.1:3128"];
    for (arguments, url, expected) in [
        (&[][..], &page, "GET /page HTTP/1.1"),
        (&["--proxytunnel"], &page, "GET /page HTTP/1.1"),
        (&by_socks, &page, "GET /page HTTP/1.1"),
        (&[], &evil, "the plugin was not granted"),
        (&["--proxytunnel"], &evil, "403"),
        (&by_socks, &evil, "curl:"),
        (&["--noproxy", "*"], &page, "curl:"),
    ] {
        let spec = installed("/usr/bin/curl").expect("it is installed");
        let spec = spec.arguments(["-q", "-sS", "-m", "15"]);
        let spec = spec.arguments(arguments).argument(url);
        let (_, _, said) = run(spec, port).await;
        assert!(said.contains(expected), "{arguments:?} {url}: {said}");
    }
}
