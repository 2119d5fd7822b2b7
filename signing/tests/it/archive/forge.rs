//! Makes archives that nobody should accept, with a seal that fits.

use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use orchestrator_signing::Digest;
use tar::{EntryType, Header};

/// A header of the right form.
pub(super) fn header(path: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    header
}

/// A header that `change` has its way with, and the checksum after it.
pub(super) fn changed(path: &[u8], size: u64, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = header(path, size);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A header and content of the right form.
pub(super) fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let header = header(path.as_bytes(), content.len() as u64);
    with_content(header.as_bytes(), content)
}

pub(super) fn with_content(head: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A pax header before a file.
pub(super) fn pax(record: &[u8], path: &[u8]) -> Vec<u8> {
    let kind = |header: &mut Header| header.set_entry_type(EntryType::XHeader);
    let head = changed(b"PaxHeader", record.len() as u64, kind);
    let mut bytes = with_content(&head, record);
    let cut = &path[..path.len().min(100)];
    bytes.extend_from_slice(header(cut, 0).as_bytes());
    bytes
}

/// `LENGTH path=PATH`.
pub(super) fn record(path: &[u8]) -> Vec<u8> {
    let rest = [b" path=", path, b"\n"].concat();
    let mut length = rest.len();
    loop {
        let record = [length.to_string().as_bytes(), &rest[..]].concat();
        if record.len() == length {
            return record;
        }
        length = record.len();
    }
}

/// Compressed as ours are.
pub(crate) fn gzip(tar: &[u8]) -> Vec<u8> {
    let header = GzBuilder::new().mtime(0).operating_system(255);
    let mut gzip = header.write(Vec::new(), Compression::default());
    gzip.write_all(tar).unwrap();
    gzip.finish().unwrap()
}

/// With a seal that says that nothing was changed.
pub(crate) fn sealed(mut gzip: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(&gzip);
    gzip.extend_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 36, 0]);
    gzip.extend_from_slice(b"OP\x20\x00");
    gzip.extend_from_slice(digest.as_bytes());
    gzip.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    gzip
}

/// An archive of these entries, ended and sealed.
pub(super) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    sealed(gzip(&tar))
}
