//! Hashes many files at once: one core makes a digest about as fast as a disk
//! gives the bytes, and a package has many files.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{PackageFile, VerifyError};

/// Most threads, the caller's own included.
const THREADS_MAX: usize = 8;
/// Files that have less than this in all are hashed by the caller alone, because
/// a thread takes longer to start.
const BYTES_PER_THREAD: u64 = 1 << 20;
/// What a thread needs is a few calls deep; its buffer is on the heap.
const STACK_BYTES: usize = 128 * 1024;

/// Files that are hashed, and how: each by any thread, in any order.
struct Work<'w, F> {
    count: usize,
    hash: &'w F,
    next: AtomicUsize,
    has_failed: AtomicBool,
    done: Mutex<Vec<(usize, Result<PackageFile, VerifyError>)>>,
}

/// What `hash` makes of each number below `count`, in that order, or the error of
/// the lowest number that has one. The files have `bytes` in all.
///
/// Blocks until every thread has ended.
pub(super) fn hash_each<F>(
    count: usize,
    bytes: u64,
    hash: F,
) -> Result<Vec<PackageFile>, VerifyError>
where
    F: Fn(usize) -> Result<PackageFile, VerifyError> + Sync,
{
    let helpers = threads(count, bytes) - 1;
    if helpers == 0 {
        return (0..count).map(hash).collect();
    }
    let work = Work {
        count,
        hash: &hash,
        next: AtomicUsize::new(0),
        has_failed: AtomicBool::new(false),
        done: Mutex::new(Vec::with_capacity(count)),
    };
    thread::scope(|scope| {
        for _ in 0..helpers {
            let builder = thread::Builder::new().stack_size(STACK_BYTES);
            // Where no thread can be had, this one does everything.
            if builder.spawn_scoped(scope, || work.take_turns()).is_err() {
                break;
            }
        }
        work.take_turns();
    });
    let mut done = work
        .done
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, hashed)| hashed).collect()
}

impl<F> Work<'_, F>
where
    F: Fn(usize) -> Result<PackageFile, VerifyError> + Sync,
{
    /// Numbers are handed out in order, so once one has failed, every lower one
    /// has an outcome or is about to.
    fn take_turns(&self) {
        while !self.has_failed.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return;
            }
            let hashed = (self.hash)(number);
            if hashed.is_err() {
                self.has_failed.store(true, Ordering::Relaxed);
            }
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((number, hashed));
        }
    }
}

fn threads(count: usize, bytes: u64) -> usize {
    let worth = usize::try_from(bytes / BYTES_PER_THREAD).unwrap_or(usize::MAX);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    THREADS_MAX.min(cores).min(worth).min(count).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orchestrator_manifest::PackagePath;

    use super::*;
    use crate::{digest::Digest, statement::FileMode};

    const MANY: usize = 500;
    const LARGE: u64 = MANY as u64 * BYTES_PER_THREAD;

    /// A file whose size is its number.
    fn file(number: usize) -> PackageFile {
        let folder = std::fs::File::open(".").unwrap();
        let path = PackagePath::parse("a").unwrap();
        let digest = Digest::of(b"");
        let size = number as u64;
        PackageFile::known(
            &Arc::new(folder.into()),
            &path,
            FileMode::Data,
            size,
            digest,
        )
    }

    #[test]
    fn the_order_is_that_of_the_numbers() {
        for bytes in [0, LARGE] {
            let files = hash_each(MANY, bytes, |number| Ok(file(number))).unwrap();
            let numbers: Vec<u64> = files.iter().map(PackageFile::size).collect();
            assert_eq!(numbers, (0..MANY as u64).collect::<Vec<_>>());
        }
        assert!(
            hash_each(0, LARGE, |number| Ok(file(number)))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn the_first_fault_is_the_one_that_is_said() {
        for _ in 0..50 {
            let error = hash_each(MANY, LARGE, |number| match number {
                7.. => Err(VerifyError::FileDigest {
                    path: number.to_string(),
                }),
                _ => Ok(file(number)),
            });
            let Err(VerifyError::FileDigest { path }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(path, "7");
        }
    }

    #[test]
    fn little_is_hashed_without_threads() {
        assert_eq!(threads(400, BYTES_PER_THREAD), 1);
        assert_eq!(threads(1, u64::MAX), 1);
        assert!(threads(400, u64::MAX) <= THREADS_MAX);
    }
}
