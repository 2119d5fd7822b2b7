//! What stands before each file: a ustar header, and before that, where the path
//! does not fit, a pax header with the path and nothing else.
//!
//! There is one way to write it. A reader takes out path, mode and size, writes
//! the head again and compares, so nothing hides in a field that is ignored.

use orchestrator_manifest::PackagePath;
use tar::{EntryType, Header};

use crate::statement::FileMode;

/// Everything in an archive comes in blocks of this size.
pub(super) const BLOCK: usize = 512;
/// The name of a pax header. No reader makes a file of it.
const PAX_NAME: &str = "PaxHeader";

/// One file, before its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) path: PackagePath,
    pub(super) mode: FileMode,
    pub(super) size: u64,
}

impl Head {
    /// The one way to write it: one block, or three to four with a long path.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let path = self.path.as_str();
        let mut header = blank(EntryType::Regular, self.mode, self.size);
        if fits(&mut header, path) {
            header.set_cksum();
            return header.as_bytes().to_vec();
        }
        let record = pax_record(path);
        let mut pax = blank(EntryType::XHeader, FileMode::Data, record.len() as u64);
        // Both names are constant or cut to size.
        set_name(&mut pax, PAX_NAME);
        pax.set_cksum();
        let mut header = blank(EntryType::Regular, self.mode, self.size);
        set_name(&mut header, path);
        header.set_cksum();
        let mut bytes = pax.as_bytes().to_vec();
        bytes.extend_from_slice(record.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes.extend_from_slice(header.as_bytes());
        bytes
    }
}

fn blank(kind: EntryType, mode: FileMode, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(match mode {
        FileMode::Data => 0o644,
        FileMode::Executable => 0o755,
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

/// Writes the path into the header's two fields, if it can be split for them.
fn fits(header: &mut Header, path: &str) -> bool {
    let written = header.set_path(path).is_ok();
    written && path_in(header) == path.as_bytes()
}

fn set_name(header: &mut Header, name: &str) {
    let field = &mut header.as_old_mut().name;
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
}

/// The path in the two fields of a ustar header, byte for byte.
pub(super) fn path_in(header: &Header) -> Vec<u8> {
    let text = |field: &[u8]| -> Vec<u8> {
        let length = field.iter().position(|byte| *byte == 0);
        field[..length.unwrap_or(field.len())].to_vec()
    };
    let name = text(&header.as_old().name);
    let prefix = header.as_ustar().map(|ustar| text(&ustar.prefix));
    match prefix {
        Some(prefix) if !prefix.is_empty() => [prefix, name].join(&b'/'),
        _ => name,
    }
}

/// `LENGTH path=PATH`, where the length counts its own digits too.
fn pax_record(path: &str) -> String {
    let rest = format!(" path={path}\n");
    let mut length = rest.len();
    loop {
        let record = format!("{length}{rest}");
        if record.len() == length {
            return record;
        }
        length = record.len();
    }
}

/// The path in the one record of a pax header.
pub(super) fn pax_path(content: &[u8]) -> Result<&[u8], &'static str> {
    let blank = content.iter().position(|byte| *byte == b' ');
    let (length, record) = content.split_at(blank.ok_or("it is no record")?);
    let length = std::str::from_utf8(length).ok();
    let length: usize = length
        .and_then(|digits| digits.parse().ok())
        .ok_or("it has no length")?;
    if length != content.len() {
        return Err("its length is not that of the only record");
    }
    let record = record.strip_suffix(b"\n").ok_or("it does not end")?;
    record
        .strip_prefix(b" path=")
        .ok_or("it says something else than a path")
}

/// Whether the checksum in a header is right.
pub(super) fn has_good_checksum(header: &Header) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let bytes = header.as_bytes();
    // The field itself counts as eight blanks.
    let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    header.cksum().ok() == Some(expected)
}

/// The name of the field in which two heads differ first.
pub(super) fn field_at(position: usize) -> &'static str {
    const FIELDS: [(usize, &str); 14] = [
        (100, "name"),
        (108, "mode"),
        (116, "user"),
        (124, "group"),
        (136, "size"),
        (148, "time"),
        (156, "checksum"),
        (157, "type"),
        (257, "link"),
        (265, "format"),
        (297, "user name"),
        (329, "group name"),
        (345, "device"),
        (500, "prefix"),
    ];
    let position = position % BLOCK;
    let field = FIELDS.iter().find(|(end, _)| position < *end);
    field.map_or("the rest", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;

    fn head(path: &str, mode: FileMode, size: u64) -> Head {
        let path = PackagePath::parse(path).unwrap();
        Head { path, mode, size }
    }

    /// The bytes may never change: archives are compared by their digest.
    #[test]
    fn a_head_has_the_bytes_it_always_had() {
        let short = head("bin/run", FileMode::Executable, 20).to_bytes();
        let split = head(
            &format!("{}/{}", "a".repeat(150), "b".repeat(100)),
            FileMode::Data,
            0,
        )
        .to_bytes();
        let long = head(&"c".repeat(101), FileMode::Data, 8 << 30).to_bytes();
        assert_eq!([short.len(), split.len(), long.len()], [512, 512, 1536]);
        let digests = [short, split, long].map(|bytes| Digest::of(&bytes).to_string());
        assert_eq!(
            digests,
            [
                "3899e1b5ca3e72fac791382709bfbf2f0ab1f4668d29d4da115237cc641b41f2",
                "79b5321488020139b59f1933de0d57994632af7252f038745c50339ce4c903ad",
                "d0d4f0e7f52192378aaad42f44316bc572cfa6e9ddb2a1d15be3c5636e07fe57",
            ]
        );
    }

    #[test]
    fn a_record_counts_itself() {
        assert_eq!(pax_record("a"), "9 path=a\n");
        for length in 1..=512 {
            let path = "x".repeat(length);
            let record = pax_record(&path);
            assert_eq!(pax_path(record.as_bytes()), Ok(path.as_bytes()));
        }
        for bad in [
            "",
            "9",
            "8 path=a\n",
            "9 path=ab",
            "9 size=1\n",
            "x path=a\n",
        ] {
            assert!(pax_path(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_path_in_a_head_is_the_path(parts in prop::collection::vec("[a-z]{1,160}", 1..6)) {
            let path = parts.join("/");
            prop_assume!(path.len() <= 512);
            let bytes = head(&path, FileMode::Data, 1).to_bytes();
            let last = Header::from_byte_slice(&bytes[bytes.len() - BLOCK..]);
            prop_assert!(has_good_checksum(last));
            if bytes.len() == BLOCK {
                prop_assert_eq!(path_in(last), path.as_bytes());
            } else {
                let size = Header::from_byte_slice(&bytes[..BLOCK]).size().unwrap();
                let record = &bytes[BLOCK..BLOCK + usize::try_from(size).unwrap()];
                prop_assert_eq!(pax_path(record), Ok(path.as_bytes()));
            }
        }
    }
}
