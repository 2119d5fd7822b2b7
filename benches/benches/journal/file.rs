//! The peer: the least that makes bytes durable. One thread takes whatever has
//! gathered, writes it to a file whose blocks are there already, asks the disk
//! for it, and wakes who waits.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The file's length; writing begins anew at its end.
const FILE_BYTES: u64 = 64 << 20;
/// The most bytes of one write.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// The most requests that may wait.
const QUEUE: usize = 8_192;

/// One request: what to write, and who waits for it.
type Request = (Bytes, oneshot::Sender<()>);

/// Hands bytes to the thread, which ends with the last clone.
#[derive(Clone)]
pub(crate) struct Log(mpsc::Sender<Request>);

impl Log {
    /// Makes the file at `path`, every block of it written once.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        let (queue, requests) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(&file, requests))?;
        Ok(Self(queue))
    }

    /// Returns once `bytes` are durable.
    pub(crate) async fn append(&self, bytes: Bytes) -> io::Result<()> {
        let (waiter, done) = oneshot::channel();
        let ended = || io::Error::other("the log could not be written");
        self.0.send((bytes, waiter)).await.map_err(|_| ended())?;
        done.await.map_err(|_| ended())
    }
}

/// Ends at the first error, which everybody who waits then sees.
fn write(file: &File, mut requests: mpsc::Receiver<Request>) {
    let mut group = Vec::with_capacity(GROUP_BYTES_MAX);
    let mut waiters = Vec::new();
    let mut offset = 0;
    while let Some(first) = requests.blocking_recv() {
        let mut next = Some(first);
        while let Some((bytes, waiter)) = next {
            group.extend_from_slice(&bytes);
            waiters.push(waiter);
            next = match group.len() < GROUP_BYTES_MAX {
                true => requests.try_recv().ok(),
                false => None,
            };
        }
        if offset + group.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        let durable = file
            .write_all_at(&group, offset)
            .and_then(|()| file.sync_data());
        if durable.is_err() {
            return;
        }
        offset += group.len() as u64;
        group.clear();
        for waiter in waiters.drain(..) {
            let _ = waiter.send(());
        }
    }
}
