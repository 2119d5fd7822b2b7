//! What a connection carries once it stands.

use std::time::Duration;

use super::*;
use crate::support::eventually;

async fn pair(scene: &Scene, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let target = listener.local_addr().expect("an address").to_string();
    let (client, accepted) = tokio::join!(scene.tunnel(&target), listener.accept());
    (client, accepted.expect("a connection").0)
}

async fn local() -> (TcpListener, Scene) {
    local_with(EgressSettings::default()).await
}

async fn local_with(settings: EgressSettings) -> (TcpListener, Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let resolver = Arc::new(Answers::default());
    (listener, Scene::with(&["127.0.0.1:*"], resolver, settings))
}

#[tokio::test]
async fn each_end_may_say_its_last_before_the_other() {
    let (listener, scene) = local().await;
    for server_first in [false, true] {
        let (mut client, mut server) = pair(&scene, &listener).await;
        let (first, second) = match server_first {
            true => (&mut server, &mut client),
            false => (&mut client, &mut server),
        };
        first.write_all(b"question").await.expect("it is open");
        first.shutdown().await.expect("it is open");
        assert_eq!(rest(second).await.expect("an end"), b"question");
        // The other direction goes on.
        second.write_all(b"answer").await.expect("it is open");
        second.shutdown().await.expect("it is open");
        assert_eq!(rest(first).await.expect("an end"), b"answer");
    }
    eventually("both are closed", || scene.egress.usage().open == 0).await;
    let usage = scene.egress.usage();
    assert_eq!((usage.connections, usage.denied), (2, 0));
    assert_eq!((usage.sent_bytes, usage.received_bytes), (14, 14));
}

/// More than any buffer holds, both ways at once, and one end slower than the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_arrives_as_it_was_sent() {
    const BYTES: usize = 24 << 20;
    let (listener, scene) = local().await;
    let (client, server) = pair(&scene, &listener).await;
    let pattern = |seed: usize| -> Vec<u8> {
        (0..BYTES)
            .map(|at| ((at * 31 + at / 4096 + seed) % 251) as u8)
            .collect()
    };
    let both = async |stream: TcpStream, says: Vec<u8>, hears: Vec<u8>, pause: bool| {
        let (mut reader, mut writer) = stream.into_split();
        let write = async move {
            writer.write_all(&says).await.expect("it is open");
            writer.shutdown().await.expect("it is open");
        };
        let read = async move {
            let mut heard = Vec::with_capacity(BYTES);
            let mut piece = vec![0; 100_000];
            loop {
                match reader.read(&mut piece).await.expect("it is open") {
                    0 => break,
                    bytes => heard.extend_from_slice(&piece[..bytes]),
                }
                if pause {
                    tokio::task::yield_now().await;
                }
            }
            assert!(heard == hears, "{} bytes came", heard.len());
        };
        tokio::join!(write, read);
    };
    let all = async {
        tokio::join!(
            both(client, pattern(1), pattern(2), true),
            both(server, pattern(2), pattern(1), false),
        )
    };
    timeout(PATIENCE * 3, all).await.expect("all of it comes");
    eventually("it is closed", || scene.egress.usage().open == 0).await;
    let usage = scene.egress.usage();
    assert_eq!(usage.sent_bytes, BYTES as u64);
    assert_eq!(usage.received_bytes, BYTES as u64);
}

/// What comes with the request belongs to the server.
#[tokio::test]
async fn an_eager_client_loses_nothing() {
    let (listener, scene) = local().await;
    let target = listener.local_addr().expect("an address").to_string();
    let mut client = scene.client().await;
    let eager = format!("{}hello", connect(&target));
    client
        .write_all(eager.as_bytes())
        .await
        .expect("it is open");
    client.shutdown().await.expect("it is open");
    let (mut server, _) = listener.accept().await.expect("a connection");
    assert_eq!(rest(&mut server).await.expect("an end"), b"hello");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one() {
    let (listener, scene) = local().await;
    let (mut client, server) = pair(&scene, &listener).await;
    server.set_zero_linger().expect("it is open");
    drop(server);
    let error = rest(&mut client).await.expect_err("no ordinary end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// A server that has heard enough says so and leaves while the client still talks.
#[tokio::test]
async fn the_last_word_of_a_server_that_leaves_arrives() {
    let (listener, scene) = local().await;
    for _ in 0..20 {
        let (client, mut server) = pair(&scene, &listener).await;
        let (mut reader, mut writer) = client.into_split();
        let talk = tokio::spawn(async move {
            while writer.write_all(&[b'x'; 10_000]).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        server.read_exact(&mut [0]).await.expect("it is open");
        server.write_all(b"enough").await.expect("it is open");
        // Without reading the rest, which resets the connection.
        drop(server);
        let mut said = [0; 6];
        let read = timeout(PATIENCE, reader.read_exact(&mut said)).await;
        read.expect("it comes").expect("before the end");
        assert_eq!(&said, b"enough");
        timeout(PATIENCE, talk)
            .await
            .expect("it ends")
            .expect("no panic");
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let settings = EgressSettings {
        idle_timeout: Duration::from_millis(200),
        ..EgressSettings::default()
    };
    let (listener, scene) = local_with(settings).await;
    let (mut client, mut server) = pair(&scene, &listener).await;
    // Longer than the limit, and something moves.
    for _ in 0..8 {
        client.write_all(b"x").await.expect("it is open");
        server.read_exact(&mut [0]).await.expect("it is open");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert!(rest(&mut client).await.is_err() && rest(&mut server).await.is_err());
    assert_eq!(scene.egress.usage().open, 0);
}

#[tokio::test]
async fn dropping_it_closes_everything() {
    let (listener, scene) = local().await;
    let (mut client, mut server) = pair(&scene, &listener).await;
    let mut asking = scene.client().await;
    asking.write_all(b"CONNECT ").await.expect("it is open");
    let address = scene.address;
    drop(scene);
    for stream in [&mut client, &mut server, &mut asking] {
        // An end or a reset, but no more waiting.
        let _ = rest(stream).await;
    }
    eventually("nobody listens", || {
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
}
