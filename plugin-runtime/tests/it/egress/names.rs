//! Names are looked up once, and what they lead to is judged.

use std::{sync::mpsc, time::Duration};

use tokio::time::Instant;

use super::*;

fn page(target: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// The first answer is what is connected to; the next connection gets the next one.
#[tokio::test]
async fn a_name_that_changes_its_mind_gets_nowhere() {
    let server = Server::start().await;
    let port = server.port;
    let other = Server::at(Ipv4Addr::new(127, 0, 0, 9), port).await;
    let answers = Answers::of(HERE, &[&["127.0.0.1"], &["127.0.0.9"]]);
    let target = format!("{HERE}:{port}");
    let scene = Scene::new(
        &[&target, &format!("127.0.0.1:{port}")],
        Arc::clone(&answers) as Arc<_>,
    );
    let mut tunnel = scene.tunnel(&target).await;
    assert_eq!(answers.asked(), [HERE], "once for a connection");
    ask(&mut tunnel, &page(&target)).await;
    let body = rest(&mut tunnel).await.expect("a page");
    assert!(body.starts_with(b"at 127.0.0.1\n"));

    assert_eq!(scene.status(&target).await, "HTTP/1.1 403 Forbidden");
    assert_eq!(answers.asked().len(), 2);
    let denials = scene.denials.all();
    assert_eq!(scene.denials.told(), [(target, "not_public")]);
    assert_eq!(denials[0].address, Some(Ipv4Addr::new(127, 0, 0, 9).into()));
    assert_eq!(denials[0].capability, "network:access");
    assert_eq!(denials[0].plugin.as_str(), "acme.importer");
    drop(other);
}

#[tokio::test]
async fn a_name_does_not_lead_into_the_host_s_own_network() {
    let server = Server::start().await;
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ] {
        let answers = Answers::of(HERE, &[&[address]]);
        let target = format!("{HERE}:{}", server.port);
        let scene = Scene::new(&[&target, "*:*"], answers);
        let begun = Instant::now();
        assert_eq!(
            scene.status(&target).await,
            "HTTP/1.1 403 Forbidden",
            "{address}"
        );
        assert!(begun.elapsed() < PATIENCE, "without trying");
        assert_eq!(scene.denials.told(), [(target, "not_public")]);
    }
}

/// Of several addresses those are tried that may be.
#[tokio::test]
async fn of_an_answer_only_what_may_be_is_connected_to() {
    let server = Server::start().await;
    let port = server.port;
    let answers = Answers::of(
        HERE,
        &[&["10.0.0.1", "::1", "127.0.0.1", "169.254.169.254"]],
    );
    let target = format!("{HERE}:{port}");
    let scene = Scene::new(&[&target, &format!("127.0.0.0/8:{port}")], answers);
    let mut tunnel = scene.tunnel(&target).await;
    ask(&mut tunnel, &page(&target)).await;
    let body = rest(&mut tunnel).await.expect("a page");
    assert!(body.starts_with(b"at 127.0.0.1\n"));
}

#[tokio::test]
async fn what_is_not_granted_is_not_even_looked_up() {
    let server = Server::start().await;
    let port = server.port;
    let answers = Answers::of(HERE, &[&["127.0.0.1"]]);
    let scene = Scene::new(
        &[
            &format!("{HERE}:{port}"),
            &format!("*.example.org:{port}"),
            &format!("127.0.0.1:{port}"),
        ],
        Arc::clone(&answers) as Arc<_>,
    );
    let mut denied = Vec::new();
    for host in [
        "evilapi.example.test",
        "api.example.test.evil.net",
        "a.api.example.test",
        "example.test",
        "example.org",
        "a.b.example.org",
        "localhost",
        "127.0.0.2",
        "[::1]",
    ] {
        let target = format!("{host}:{port}");
        assert_eq!(
            scene.status(&target).await,
            "HTTP/1.1 403 Forbidden",
            "{host}"
        );
        denied.push((target, "not_granted"));
    }
    for target in [
        format!("{HERE}:{}", port ^ 1),
        format!("127.0.0.1:{}", port ^ 1),
    ] {
        assert_eq!(scene.status(&target).await, "HTTP/1.1 403 Forbidden");
        denied.push((target, "not_granted"));
    }
    // Of these nobody can say what they mean. More than this is not told in a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for host in [
        "127.1",
        "0x7f.1",
        "2130706433",
        "[::1%lo]",
        "a@b",
        "b\u{fc}cher.example",
    ] {
        let target = format!("{host}:{port}");
        assert_eq!(
            scene.status(&target).await,
            "HTTP/1.1 400 Bad Request",
            "{host}"
        );
    }
    assert_eq!(answers.asked(), <[String; 0]>::default());
    assert_eq!(scene.egress.usage().denied, 17);
    let told = scene.denials.told();
    // The first second's own bound may have swallowed one.
    assert!(told.starts_with(&denied[..10]), "{told:?}");
}

#[tokio::test]
async fn case_a_closing_dot_and_another_spelling_of_an_address_are_the_same() {
    let server = Server::start().await;
    let port = server.port;
    let answers = Answers::of(HERE, &[&["127.0.0.1"]]);
    let scene = Scene::new(
        &[&format!("{HERE}:{port}"), &format!("127.0.0.1:{port}")],
        Arc::clone(&answers) as Arc<_>,
    );
    for host in [
        "API.example.TEST",
        "api.example.test.",
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
    ] {
        scene.tunnel(&format!("{host}:{port}")).await;
    }
    assert_eq!(answers.asked(), [HERE, HERE]);
}

#[tokio::test]
async fn a_name_without_address_and_a_closed_port_are_told_apart_from_denials() {
    let closed = Server::start().await.port;
    let answers = Answers::of(HERE, &[&["127.0.0.1"]]);
    let scene = Scene::new(&["*:*", "127.0.0.1:*"], answers);
    let unknown = scene.status("unknown.example.test:443").await;
    assert_eq!(unknown, "HTTP/1.1 502 Bad Gateway");
    let refused = scene.status(&format!("{HERE}:{closed}")).await;
    assert_eq!(refused, "HTTP/1.1 502 Bad Gateway");
    assert_eq!(scene.egress.usage().denied, 0);
}

/// Counts how many look-ups there are at once, each of which takes for ever.
struct Slow {
    begun: Mutex<usize>,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Resolver for Slow {
    fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        *self.begun.lock().unwrap() += 1;
        // Until the other end is dropped.
        let _ = self.gate.lock().unwrap().recv();
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Whoever leaves does not take the look-up along, so that more could begin.
#[tokio::test]
async fn look_ups_are_bounded_even_when_nobody_waits_any_more() {
    let (held, gate) = mpsc::channel();
    let slow = Arc::new(Slow {
        begun: Mutex::new(0),
        gate: Mutex::new(gate),
    });
    let settings = EgressSettings {
        lookups_max: 2,
        connect_timeout: Duration::from_millis(100),
        ..EgressSettings::default()
    };
    let scene = Scene::with(&["*:443"], Arc::clone(&slow) as Arc<_>, settings);
    for _ in 0..6 {
        let status = scene.status("slow.example.test:443").await;
        assert_eq!(status, "HTTP/1.1 504 Gateway Timeout");
    }
    assert_eq!(*slow.begun.lock().unwrap(), 2);
    drop(held);
}
