//! What the plugin connects to: threads that only read or only write.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

/// How much is moved at a time, and in all.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
pub(crate) const BYTES: usize = 512 << 20;
/// What the relay moves at a time: as much as the proxy.
const RELAY_BYTES: usize = 256 << 10;
/// What the plugin says first: which way.
pub(crate) const DOWN: u8 = b'd';
pub(crate) const UP: u8 = b'u';

/// Listens, as long as this process lives.
pub(crate) fn start() -> io::Result<SocketAddr> {
    listen(serve)
}

/// Listens, and passes on to `server` what comes, by as little as that takes: a thread for
/// each direction, which reads and writes.
pub(crate) fn relay(server: SocketAddr) -> io::Result<SocketAddr> {
    listen(move |client| {
        let server = TcpStream::connect(server)?;
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || pass_on(from_client, to_server));
        pass_on(server, client)
    })
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    to.set_nodelay(true)?;
    let mut piece = vec![0; RELAY_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return to.shutdown(Shutdown::Write),
            bytes => to.write_all(&piece[..bytes])?,
        }
    }
}

fn listen(
    answer: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || answer(client));
        }
    });
    Ok(address)
}

fn serve(mut client: TcpStream) -> io::Result<()> {
    let mut way = [0];
    client.read_exact(&mut way)?;
    let mut piece = vec![0; PIECE_BYTES];
    if way == [DOWN] {
        for _ in 0..BYTES / PIECE_BYTES {
            client.write_all(&piece)?;
        }
        return Ok(());
    }
    let mut left = BYTES;
    while left > 0 {
        match client.read(&mut piece)? {
            0 => return Ok(()),
            bytes => left = left.saturating_sub(bytes),
        }
    }
    client.write_all(&[0])
}
