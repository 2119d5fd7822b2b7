//! The one way out of a network of its own.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use orchestrator_sandbox::{GATEWAY, Layer, spawn};

use super::*;
use crate::support::{PATIENCE, ended, open_descriptors, pipe, read_until};

fn gateway() -> Confinement {
    confined(&Grants::new().network(Network::Gateway))
}

/// Writes to the gateway what was read from it.
const MIRROR: &str = "
import socket, sys
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
there.sendall(there.recv(100).swapcase())
there.shutdown(socket.SHUT_WR)
print('done', flush=True)
there.recv(1)
";

/// Tries to get somewhere else.
const ASTRAY: &str = "
import errno, socket, sys
def attempt(name, family, kind, act):
    try:
        it = socket.socket(family, kind)
        it.settimeout(2)
        act(it)
        print('open', name)
    except OSError as error:
        print('refused', name, errno.errorcode.get(error.errno, error))
tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
for address in sys.argv[1:]:
    host, port = address.rsplit(':', 1)
    attempt(address, socket.AF_INET, tcp, lambda it: it.connect((host, int(port))))
attempt('udp', socket.AF_INET, udp, lambda it: it.sendto(b'x', ('127.0.0.1', 53)))
attempt('v6', socket.AF_INET6, tcp, lambda it: it.connect(('::1', 3128)))
attempt('mapped', socket.AF_INET6, tcp, lambda it: it.connect(('::ffff:127.0.0.1', 3128)))
attempt('bind', socket.AF_INET, tcp, lambda it: it.bind(('127.0.0.1', 0)))
attempt('take over', socket.AF_INET, tcp, lambda it: it.bind(('127.0.0.2', 3128)))
attempt('unix', socket.AF_UNIX, tcp, lambda it: it.connect('/run/docker.sock'))
";

fn python_program(python: &Image, text: &str) -> Spec {
    Spec::new(python, "python3").arguments(["-I", "-c", text])
}

#[tokio::test]
async fn the_host_answers_what_a_process_connects_to() {
    let Some(python) = python() else { return };
    let confinement = gateway();
    // All at the same address, each in a network of its own.
    for greeting in ["first", "second"] {
        let (mut reader, writer) = pipe();
        let spec = python_program(&python, MIRROR)
            .arguments([GATEWAY.ip().to_string(), GATEWAY.port().to_string()])
            .confinement(&confinement)
            .descriptor(1, writer);
        let mut child = spawn(spec).await.expect("it starts");
        let listener = child.take_gateway().expect("it was granted");
        assert!(child.take_gateway().is_none(), "there is one");
        let answer = move || {
            let (mut stream, peer) = listener.accept().expect("it connects");
            assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(greeting.as_bytes()).expect("it reads");
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("it writes");
            said
        };
        let said = tokio::task::spawn_blocking(answer)
            .await
            .expect("an answer");
        assert_eq!(said, greeting.to_uppercase());
        read_until(&mut reader, |text| text == "done\n").await;
        assert_eq!(ended(&child).await, ExitStatus::Exited(0));
    }
}

#[tokio::test]
async fn there_is_no_other_way() {
    let Some(python) = python() else { return };
    let here = TcpListener::bind("127.0.0.1:0").expect("a port");
    let anywhere = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let (here, anywhere) = (port(&here), port(&anywhere));
    // Of the host itself, by the address that it has outside, where it has one.
    let outside = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket))
        .and_then(|socket| socket.local_addr())
        .map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip());
    TcpStream::connect((outside, anywhere)).expect("the host has a way");
    let spec = python_program(&python, ASTRAY)
        .arguments([
            format!("127.0.0.1:{here}"),
            format!("127.0.0.2:{here}"),
            format!("{outside}:{anywhere}"),
            "192.0.2.1:80".to_owned(),
            "127.0.0.1:80".to_owned(),
        ])
        .confinement(&gateway());
    let (status, said) = output(spec).await;
    assert_eq!(status, ExitStatus::Exited(0), "{said}");
    assert_eq!(said.matches("refused").count(), 11, "{said}");
    assert!(!said.contains("open"), "{said}");
    assert!(said.contains("refused v6 EPERM"), "by the filter: {said}");
}

/// It would be no gateway where there is another way.
#[tokio::test]
async fn a_gateway_needs_a_network_of_its_own() {
    let confinement = Confinement::new(
        &Grants::new().network(Network::Gateway),
        Layers::NONE,
        Layers::NONE,
    );
    let confinement = confinement.expect("this host has all layers");
    let needed = Layers::NONE.with(Layer::Processes).with(Layer::Network);
    assert_eq!(confinement.report().in_force(), needed);
    for grants in [Grants::new(), Grants::new().network(Network::Unrestricted)] {
        let spec = shell("true").confinement(&confined(&grants));
        let mut child = spawn(spec).await.expect("it starts");
        assert!(child.take_gateway().is_none());
        ended(&child).await;
    }
}

#[tokio::test]
async fn nothing_stays_of_a_gateway() {
    let confinement = gateway();
    let cycle = async || {
        let mut child = spawn(shell("true").confinement(&confinement))
            .await
            .expect("it starts");
        let gateway = child.take_gateway();
        ended(&child).await;
        assert!(gateway.is_some());
    };
    cycle().await;
    let before = open_descriptors();
    for _ in 0..200 {
        cycle().await;
    }
    // Other tests run beside this one, and have some open.
    assert!(open_descriptors() < before + 150);
}
