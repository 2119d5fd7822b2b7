//! Archives that were made to deceive: whole, sealed, and refused.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use flate2::{Compress, Compression, FlushCompress};
use orchestrator_signing::archive::{self, Limits};
use tar::EntryType;

use super::{
    forge::{archive, changed, file, gzip, header, pax, record, sealed, with_content},
    outcome_code, refusal,
};
use crate::fixture::code;

/// Holds every archive against the code it has to be refused with.
fn refused(cases: &[(&str, Vec<u8>, &str)]) {
    let outside = tempfile::tempdir().unwrap();
    let dest = outside.path().join("dest");
    fs::create_dir(&dest).unwrap();
    for (what, archive, expected) in cases {
        assert_eq!(refusal(archive, &dest), *expected, "{what}");
        assert_eq!(super::names(outside.path()), ["dest"], "{what}");
    }
}

#[test]
fn forged_archives_are_read_if_they_are_right() {
    let dest = tempfile::tempdir().unwrap();
    let long = "x/".repeat(3) + &"y".repeat(200);
    let entries = [
        file("a", b"content"),
        file("b/c", &[7; 512]),
        pax(&record(long.as_bytes()), long.as_bytes()),
    ];
    let outcome = archive::unpack(&archive(&entries)[..], dest.path());
    assert_eq!(outcome_code(&outcome), "3 files");
    assert_eq!(
        outcome_code(&archive::unpack(&archive(&[])[..], dest.path())),
        "0 files"
    );
}

#[test]
fn names_that_leave_the_package_or_are_not_portable() {
    let names: &[&[u8]] = &[
        b"../evil",
        b"/etc/evil",
        b"a/../../evil",
        b"a/./b",
        b"a//b",
        b"a/",
        b".",
        b"..",
        b"",
        b"C:\\evil",
        b"a\\b",
        b"a\nb",
        b"a\x1b[2Jb",
        b"a\x7fb",
        "a\u{202e}b".as_bytes(),
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        b"a\xffb",
        b"con",
        b"aux.txt",
        b"a.",
        b" a",
    ];
    for name in names {
        let what = name.escape_ascii().to_string();
        let short = archive(&[changed(name, 0, |_| {})]);
        let long = archive(&[pax(&record(name), b"long")]);
        let expected = "ORC-2177";
        refused(&[(&what, short, expected), (&what, long, expected)]);
    }
    let long = archive(&[pax(&record(b"a\0b"), b"a\0b")]);
    refused(&[("NUL", long, "ORC-2177")]);
    // In a field, what is after a NUL is not in the name, and not allowed.
    let hidden = changed(b"a\0b", 0, |_| {});
    refused(&[("NUL", archive(&[hidden]), "ORC-2183")]);
}

#[test]
fn a_message_cannot_write_to_a_terminal() {
    let dest = tempfile::tempdir().unwrap();
    let hostile = [&b"\x1b]0;\x07\xe2\x80\xae"[..], &[b'\\'; 80]].concat();
    let archive = archive(&[changed(&hostile, 0, |_| {})]);
    let error = archive::unpack(&archive[..], dest.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("\\x1b]0;\\x07\\xe2\\x80\\xae"), "{text}");
    assert!(text.is_ascii() && !text.contains(|c: char| c.is_control()));
}

#[test]
fn kinds_that_are_no_plain_files() {
    let kind = |kind: EntryType| {
        let head = changed(b"a", 0, |header| {
            header.set_entry_type(kind);
            header.set_link_name_literal("/etc/passwd").unwrap();
        });
        archive(&[head, file("a/b", b"through the link")])
    };
    for (name, byte, expected) in [
        ("hard link", b'1', "ORC-2174"),
        ("symbolic link", b'2', "ORC-2174"),
        ("character device", b'3', "ORC-2175"),
        ("block device", b'4', "ORC-2175"),
        ("folder", b'5', "ORC-2176"),
        ("pipe", b'6', "ORC-2175"),
        ("contiguous", b'7', "ORC-2176"),
        ("GNU dump folder", b'D', "ORC-2175"),
        ("GNU long link", b'K', "ORC-2176"),
        ("GNU long name", b'L', "ORC-2176"),
        ("GNU volume", b'V', "ORC-2175"),
        ("GNU multi-volume", b'M', "ORC-2175"),
        ("GNU sparse", b'S', "ORC-2176"),
        ("global header", b'g', "ORC-2176"),
        ("unknown", b'Q', "ORC-2175"),
        ("old file", 0, "ORC-2183"),
    ] {
        refused(&[(name, kind(EntryType::new(byte)), expected)]);
    }
}

#[test]
fn long_names_that_lie() {
    let lie = |record: &[u8]| archive(&[pax(record, b"path")]);
    let chain = {
        let pax = pax(&record(b"a"), b"a");
        archive(&[pax[..1024].to_vec(), pax])
    };
    refused(&[
        ("too long", lie(b"99 path=a\n"), "ORC-2178"),
        ("too short", lie(b"5 path=a\n"), "ORC-2178"),
        ("no length", lie(b"path=a\n"), "ORC-2178"),
        ("negative", lie(b"-9 path=a\n"), "ORC-2178"),
        ("huge", lie(b"99999999999999999999 path=a\n"), "ORC-2178"),
        ("size", lie(b"26 size=99999999999999999\n"), "ORC-2178"),
        ("sparse", lie(b"22 GNU.sparse.major=1\n"), "ORC-2178"),
        ("link", lie(b"24 linkpath=/etc/passwd\n"), "ORC-2178"),
        ("two records", lie(b"9 path=a\n9 path=b\n"), "ORC-2178"),
        ("empty", lie(b""), "ORC-2178"),
        ("endless", lie(&record(&[b'a'; 4000])), "ORC-2178"),
        ("a chain", chain, "ORC-2176"),
        (
            "not needed",
            archive(&[pax(&record(b"short"), b"short")]),
            "ORC-2183",
        ),
        (
            "another name beneath",
            archive(&[pax(&record(&[b'a'; 200]), b"b")]),
            "ORC-2183",
        ),
    ]);
}

#[test]
fn names_that_meet() {
    let entries = |names: &[&str]| {
        let files: Vec<_> = names.iter().map(|name| file(name, b"")).collect();
        archive(&files)
    };
    refused(&[
        ("twice", entries(&["a", "a"]), "ORC-2179"),
        ("case", entries(&["README", "readme"]), "ORC-2180"),
        ("folders", entries(&["Bin/a", "bin/b"]), "ORC-2180"),
        ("file, folder", entries(&["a", "a/b"]), "ORC-2181"),
        ("unsorted", entries(&["b", "a"]), "ORC-2182"),
    ]);
}

#[test]
fn headers_of_another_form() {
    type Change = fn(&mut tar::Header);
    let changes: &[(&str, Change)] = &[
        ("time", |header| header.set_mtime(1)),
        ("user", |header| header.set_uid(1)),
        ("group", |header| header.set_gid(1)),
        ("mode", |header| header.set_mode(0o600)),
        ("set-user-id", |header| header.set_mode(0o4755)),
        ("user name", |header| header.set_username("root").unwrap()),
        ("group name", |header| header.set_groupname("root").unwrap()),
        ("device", |header| header.set_device_major(1).unwrap()),
        ("link", |header| header.set_link_name_literal("x").unwrap()),
        ("prefix", |header| {
            header.as_ustar_mut().unwrap().prefix[0] = b'p'
        }),
        ("the rest", |header| header.as_mut_bytes()[511] = 1),
        ("hidden", |header| header.as_old_mut().name[50] = b'x'),
        ("magic", |header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0")
        }),
        ("old", |header| header.as_mut_bytes()[257..265].fill(0)),
        ("binary size", |header| {
            header.as_old_mut().size = [0; 12];
            header.as_old_mut().size[0] = 0x80;
        }),
        ("blank size", |header| {
            header.as_old_mut().size = *b"          0\0"
        }),
        ("no size", |header| {
            header.as_old_mut().size = *b"what is this"
        }),
    ];
    for (what, change) in changes {
        refused(&[(what, archive(&[changed(b"a", 0, change)]), "ORC-2183")]);
    }
    let mut wrong = changed(b"a", 0, |_| {});
    wrong[148] ^= 1;
    refused(&[("checksum", archive(&[wrong]), "ORC-2173")]);
}

#[test]
fn what_is_between_and_after() {
    let tar = |parts: &[&[u8]]| sealed(gzip(&parts.concat()));
    let (a, zeros) = (file("a", b"x"), [0; 1024]);
    let mut padded = a.clone();
    padded[512 + 1] = 1;
    let two_members = sealed([gzip(&[&a, &zeros[..]].concat()), gzip(&a)].concat());
    let trailing = sealed([gzip(&[&a, &zeros[..]].concat()), vec![0; 512]].concat());
    refused(&[
        ("padding", archive(&[padded]), "ORC-2184"),
        (
            "half an end",
            tar(&[&a, &zeros[..512], &file("b", b"")]),
            "ORC-2185",
        ),
        ("an entry", tar(&[&a, &zeros, &file("b", b"")]), "ORC-2185"),
        ("zeros", tar(&[&a, &zeros, &zeros]), "ORC-2185"),
        ("one byte", tar(&[&a, &zeros, b"x"]), "ORC-2185"),
        ("a second archive", two_members, "ORC-2185"),
        ("raw bytes", trailing, "ORC-2185"),
        ("no end", tar(&[&a]), "ORC-2186"),
        ("half an end", tar(&[&a, &zeros[..512]]), "ORC-2186"),
        (
            "in a header",
            tar(&[&a, &file("b", b"")[..100]]),
            "ORC-2186",
        ),
        (
            "in a file",
            tar(&[&with_content(&changed(b"a", 600, |_| {}), b"x")]),
            "ORC-2186",
        ),
        ("nothing", tar(&[]), "ORC-2186"),
    ]);
}

#[test]
fn sizes_that_lie_or_are_too_large() {
    let size = |size: u64| archive(&[changed(b"a", size, |_| {})]);
    let deep = "d/".repeat(17) + "f";
    let long = ["l".repeat(200), "l".repeat(200), "l".repeat(200)].join("/");
    refused(&[
        ("8 GiB", size(8 << 30), "ORC-2187"),
        ("8 EiB", size(u64::MAX >> 1), "ORC-2187"),
        ("16 EiB", size(u64::MAX), "ORC-2187"),
        ("3 GiB and a byte", size((3 << 30) + 1), "ORC-2187"),
        ("deep", archive(&[file(&deep, b"")]), "ORC-2177"),
        (
            "long",
            archive(&[pax(&record(long.as_bytes()), long.as_bytes())]),
            "ORC-2177",
        ),
    ]);
    let bomb = archive(&[with_content(
        &changed(b"a", 64 << 20, |_| {}),
        &vec![0; 64 << 20],
    )]);
    assert!(bomb.len() < 70_000, "{}", bomb.len());
    refused(&[("a bomb", bomb, "ORC-2188")]);
}

#[test]
fn limits_can_be_lowered() {
    let dest = tempfile::tempdir().unwrap();
    let bytes = archive(&[file("a/b", &[1; 100]), file("a/c", &[2; 100])]);
    let all = Limits {
        entries: 3,
        bytes: 200,
        file_bytes: 100,
        depth: 1,
        path_bytes: 3,
        ratio: 0,
    };
    let outcome = |limits| outcome_code(&archive::unpack_within(&bytes[..], dest.path(), limits));
    assert_eq!(outcome(all), "2 files");
    for lower in [
        Limits { entries: 2, ..all },
        Limits { bytes: 199, ..all },
        Limits {
            file_bytes: 99,
            ..all
        },
        Limits { depth: 0, ..all },
        Limits {
            path_bytes: 2,
            ..all
        },
    ] {
        assert_eq!(outcome(lower), "ORC-2187", "{lower:?}");
    }
}

/// Swaps a folder that was just made for a link, before it is used again.
struct Swapping<'a> {
    archive: &'a [u8],
    dest: &'a Path,
    outside: &'a Path,
}

impl Read for Swapping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let staged = super::names(self.dest).pop().unwrap();
        let folder = self.dest.join(staged).join("package/b");
        if folder.join("c").exists() && !folder.is_symlink() {
            fs::rename(&folder, folder.with_extension("old"))?;
            std::os::unix::fs::symlink(self.outside, &folder)?;
        }
        self.archive.read(buffer)
    }
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let [dest, outside] = ["dest", "outside"].map(|name| root.path().join(name));
    fs::create_dir(&dest).unwrap();
    fs::create_dir(&outside).unwrap();
    // Too much of it to be read at once.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(300_000).collect();
    let bytes = archive(&[file("b/c", &noise), file("b/d", b"evil")]);
    let source = Swapping {
        archive: &bytes,
        dest: &dest,
        outside: &outside,
    };
    let outcome = archive::unpack(source, &dest);
    assert_eq!(outcome_code(&outcome), "ORC-2190");
    for folder in [&dest, &outside] {
        assert_eq!(super::names(folder), [] as [&str; 0]);
    }
    let honest = archive::unpack(&bytes[..], &dest);
    assert_eq!(outcome_code(&honest), "2 files");
}

/// A piece of a deflate stream that can be followed by any other.
fn piece(content: &[u8], level: Compression) -> Vec<u8> {
    let mut deflate = Compress::new(level, false);
    let mut bytes = Vec::with_capacity(content.len() + 1024);
    deflate
        .compress_vec(content, &mut bytes, FlushCompress::Full)
        .unwrap();
    assert_eq!(deflate.total_in(), content.len() as u64);
    bytes
}

/// An archive that starts with `head` and goes on with `again` forever.
struct Endless {
    ready: io::Cursor<Vec<u8>>,
    again: Vec<u8>,
}

impl Endless {
    fn new(head: &[u8], again: &[u8], level: Compression) -> Self {
        let start = [&gzip(&[])[..10], &piece(head, level)].concat();
        let again = piece(again, level);
        Self {
            ready: io::Cursor::new(start),
            again: again.repeat((1 << 16) / again.len() + 1),
        }
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.position() == self.ready.get_ref().len() as u64 {
            self.ready = io::Cursor::new(self.again.clone());
        }
        self.ready.read(buffer)
    }
}

#[test]
fn endless_archives_end() {
    let dest = tempfile::tempdir().unwrap();
    let refused = |archive: &mut dyn Read| {
        let error = archive::unpack(archive, dest.path()).unwrap_err();
        assert_eq!(super::names(dest.path()), [] as [&str; 0]);
        code(&error)
    };
    let zeros = vec![0; 1 << 20];
    let entry = file("a", b"");
    let large = changed(b"a", 200 << 20, |_| {});
    let (stored, small) = (Compression::none(), Compression::default());
    for (mut archive, expected) in [
        (Endless::new(&large, &zeros, small), "ORC-2188"),
        (Endless::new(&large, &zeros, stored), "ORC-2185"),
        (Endless::new(&entry, &entry, small), "ORC-2179"),
        (Endless::new(&[], &[], small), "ORC-2171"),
    ] {
        assert_eq!(refused(&mut archive), expected);
    }
    assert_eq!(refused(&mut io::repeat(0x1f)), "ORC-2172");
}

#[test]
fn a_million_empty_files_are_too_many() {
    let entry = |index: u32| header(format!("{index:06}").as_bytes(), 0);
    let distinct: Vec<_> = (0..20_000)
        .flat_map(|index| *entry(index).as_bytes())
        .collect();
    let same = entry(20_000).as_bytes().repeat(1_000);
    let level = Compression::default();
    let more = piece(&same, level).repeat(980);
    let bytes = [&gzip(&[])[..10], &piece(&distinct, level), &more].concat();
    refused(&[("a million", sealed(bytes), "ORC-2187")]);
}
