//! Plugins that want to do harm to the proxy.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::support::eventually;

fn scene(settings: EgressSettings) -> Scene {
    let answers = Answers::of(HERE, &[&["127.0.0.1"]]);
    Scene::with(&[&format!("{HERE}:*"), "127.0.0.1:*"], answers, settings)
}

/// The first line of what is answered to `bytes`.
async fn answer(scene: &Scene, bytes: &[u8]) -> String {
    let mut client = scene.client().await;
    let _ = client.write_all(bytes).await;
    let said = rest(&mut client).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn whoever_takes_long_to_ask_is_not_waited_for() {
    let scene = scene(EgressSettings {
        request_timeout: Duration::from_millis(300),
        ..EgressSettings::default()
    });
    let mut slow = scene.client().await;
    let begun = Instant::now();
    for byte in connect(HERE).bytes().cycle() {
        if slow.write_all(&[byte]).await.is_err() || begun.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut said = [0; 64];
        if let Ok(bytes) = slow.try_read(&mut said) {
            assert!(said[..bytes].starts_with(b"HTTP/1.1 408 "));
            break;
        }
    }
    assert!(begun.elapsed() < PATIENCE);
    // Silent, and in the middle of the other protocol.
    for beginning in [
        &b""[..],
        &[5],
        &[5, 1, 0],
        &[5, 1, 0, 5, 1, 0, 3, 200, b'a'],
    ] {
        let mut client = scene.client().await;
        client.write_all(beginning).await.expect("it is open");
        assert!(rest(&mut client).await.is_ok());
    }
}

#[tokio::test]
async fn a_request_has_an_end() {
    let scene = scene(EgressSettings::default());
    let endless = format!("CONNECT {HERE}:443 HTTP/1.1\r\nA: {}", "a".repeat(40 << 10));
    let many = format!(
        "GET http://{HERE}/ HTTP/1.1\r\n{}\r\n",
        "A: b\r\n".repeat(200)
    );
    let too_large = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(answer(&scene, endless.as_bytes()).await, too_large);
    assert_eq!(answer(&scene, many.as_bytes()).await, too_large);
    assert_eq!(
        answer(&scene, "a".repeat(1 << 20).as_bytes()).await,
        too_large
    );
}

#[tokio::test]
async fn garbage_is_refused() {
    let scene = scene(EgressSettings::default());
    let bad = "HTTP/1.1 400 Bad Request";
    for request in [
        "\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\n\n",
        "CONNECT api.example.test:443 HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        "CONNECT api.example.test:443\rX: y HTTP/1.1\r\n\r\n",
        "CONNECT http://api.example.test:443/ HTTP/1.1\r\n\r\n",
        "CONNECT u@api.example.test:443 HTTP/1.1\r\n\r\n",
        "CONNECT api.example.test:0 HTTP/1.1\r\n\r\n",
        "CONNECT api.example.test:65536 HTTP/1.1\r\n\r\n",
        "CONNECT api.example.test HTTP/1.1\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
    ] {
        assert_eq!(answer(&scene, request.as_bytes()).await, bad, "{request:?}");
    }
    // The other protocol: no offered method, no command but one, no address.
    for (message, said) in [
        (&[5, 1, 2][..], &[5, 0xff][..]),
        (&[5, 0], &[5, 0xff]),
        (&[5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 80], &[5, 0, 5, 7]),
        (&[5, 1, 0, 5, 3, 0, 1, 127, 0, 0, 1, 0, 80], &[5, 0, 5, 7]),
        (&[5, 1, 0, 5, 1, 0, 9, 0, 0, 0, 0, 0, 0], &[5, 0, 5, 8]),
        (&[5, 1, 0, 4, 1, 0, 1, 127, 0, 0, 1, 0, 80], &[5, 0, 5, 1]),
    ] {
        let mut client = scene.client().await;
        client.write_all(message).await.expect("it is open");
        let answer = rest(&mut client).await.expect("an end");
        assert!(answer.starts_with(said), "{message:?}: {answer:?}");
    }
    assert_eq!(scene.egress.usage().connections, 0);
}

#[tokio::test]
async fn connections_are_bounded_and_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = listener.local_addr().expect("an address").to_string();
    let scene = scene(EgressSettings {
        connections_max: 4,
        request_timeout: Duration::from_secs(60),
        ..EgressSettings::default()
    });
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(scene.tunnel(&target).await);
        held.push(scene.client().await);
    }
    // Accepted one after the other, so these four are in.
    let one_more = answer(&scene, b"").await;
    assert_eq!(one_more, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(scene.denials.all()[0].rule.as_str(), "too_many_connections");
    held.clear();
    let mut status = String::new();
    for _ in 0..200 {
        status = scene.status(&target).await;
        if status.starts_with("HTTP/1.1 200 ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status, "HTTP/1.1 200 Connection established");
}

/// A plugin that is denied again and again fills no log, and is not answered at once.
#[tokio::test]
async fn a_flood_of_denials_is_counted_and_not_told() {
    let scene = scene(EgressSettings {
        denials_per_second: 3,
        ..EgressSettings::default()
    });
    let mut asking = JoinSet::new();
    for _ in 0..60 {
        let address = scene.address;
        asking.spawn(async move {
            let mut client = TcpStream::connect(address).await.expect("it accepts");
            ask(&mut client, &connect("other.example.test:443")).await
        });
    }
    while let Some(said) = asking.join_next().await {
        let said = said.expect("it ends");
        assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
    }
    assert_eq!(scene.egress.usage().denied, 60);
    assert!(scene.denials.all().len() < 30);
    tokio::time::sleep(Duration::from_millis(700)).await;
    scene.status("other.example.test:443").await;
    let suppressed: u64 = scene
        .denials
        .all()
        .iter()
        .map(|denial| denial.suppressed)
        .sum();
    assert_eq!(suppressed + scene.denials.all().len() as u64, 61);
}

/// Ten thousand that come and go leave nothing, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connects_leave_nothing() {
    let server = Server::start().await;
    let target = format!("{HERE}:{}", server.port);
    let scene = scene(EgressSettings::default());
    let open = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let before = open();
    let mut knocking = JoinSet::new();
    for _ in 0..8 {
        let address = scene.address;
        knocking.spawn(async move {
            for round in 0..1250_u32 {
                let Ok(mut client) = TcpStream::connect(address).await else {
                    continue;
                };
                let _ = match round % 4 {
                    0 => Ok(()),
                    1 => client.write_all(b"CONNECT ").await,
                    2 => client.write_all(&[5, 1, 0]).await,
                    _ => client.write_all(b"\r\n\r\n").await,
                };
            }
        });
    }
    let mut most = 0;
    while !knocking.is_empty() {
        most = most.max(open());
        let _ = timeout(Duration::from_millis(20), knocking.join_next()).await;
    }
    // Those of this test's own ends too, and those of other tests in this process.
    assert!(most < before + 400, "{most} descriptors after {before}");
    let mut status = String::new();
    for _ in 0..200 {
        status = scene.status(&target).await;
        if status.starts_with("HTTP/1.1 200 ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status, "HTTP/1.1 200 Connection established");
    eventually("all are closed", || open() <= before + 4).await;
}
