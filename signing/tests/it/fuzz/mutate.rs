//! What is done to a good input.

use arbtest::arbitrary::{Result, Unstructured};

/// What parsers stumble over.
const TOKENS: &[&[u8]] = &[
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\xed\xa0\x80",
    b"\n",
    b"\r\n",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"1e999",
    b"0x",
    b"18446744073709551616",
    b"99999999999999999999999999999999",
    b"7777777777",
    b"null",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":",
    b"&a [*a, *a]",
    b"!!binary",
    b"<<: ",
    b"../",
    b"/",
    b"\\",
];

/// The largest input.
const SIZE_MAX: usize = 256 * 1024;

/// One of the seeds, changed a few times.
pub(super) fn mutated(seeds: &[&[u8]], random: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = random.choose(seeds)?.to_vec();
    for _ in 0..random.int_in_range(1..=8)? {
        change(&mut bytes, seeds, random)?;
        bytes.truncate(SIZE_MAX);
    }
    Ok(bytes)
}

fn change(bytes: &mut Vec<u8>, seeds: &[&[u8]], random: &mut Unstructured<'_>) -> Result<()> {
    let start = random.int_in_range(0..=bytes.len())?;
    let end = (start + random.int_in_range(0..=600)?).min(bytes.len());
    match random.int_in_range(0..=8)? {
        0 if start < bytes.len() => bytes[start] ^= 1 << random.int_in_range(0..=7)?,
        1 if start < bytes.len() => bytes[start] = random.arbitrary()?,
        2 => bytes.truncate(start),
        3 => drop(bytes.drain(start..end)),
        4 => {
            let token = random.choose(TOKENS)?;
            let times = random.int_in_range(1..=100)?;
            let inserted = token.repeat(if random.ratio(1, 10)? { times * 100 } else { 1 });
            drop(bytes.splice(start..start, inserted));
        }
        5 => {
            let token = random.choose(TOKENS)?.to_vec();
            drop(bytes.splice(start..end, token));
        }
        // A piece twice, or where it does not belong.
        6 => {
            let piece = bytes[start..end].to_vec();
            let target = random.int_in_range(0..=bytes.len())?;
            drop(bytes.splice(target..target, piece));
        }
        7 => {
            let other = random.choose(seeds)?;
            let from = random.int_in_range(0..=other.len())?;
            bytes.truncate(start);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let block = (start / 512 * 512).min(bytes.len());
            let end = (block + 512).min(bytes.len());
            let piece = bytes[block..end].to_vec();
            drop(bytes.splice(block..block, piece));
        }
    }
    Ok(())
}
