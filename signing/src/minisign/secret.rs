//! Secret keys of minisign, as files of it hold them.

use blake2::{Blake2b256, Digest as _};
use scrypt::Params;
use zeroize::Zeroizing;

use super::{ALGORITHM, ID_LEN, MinisignError, MinisignId, array, lines, parts, untrusted};
use crate::key::{SecretKey, check_comment};

const KDF_SCRYPT: &[u8] = b"Sc";
const KDF_NONE: &[u8] = &[0, 0];
const CHECKSUM: &[u8] = b"B2";
const SALT_LEN: usize = 32;
/// Number of the key, seed, public half, checksum.
const SEALED_LEN: usize = ID_LEN + 64 + 32;

/// scrypt's block size, as libsodium has it.
const BLOCK: u32 = 8;
/// 1 GiB, what minisign itself takes.
const LOG_N_MAX: u8 = 20;
const LANES_MAX: u32 = 8;
/// Twice what minisign itself takes.
const WORK_MAX: u64 = 2 << LOG_N_MAX;

impl SecretKey {
    /// Reads a secret key file of minisign. `passphrase` is asked for only when
    /// the file is encrypted; then it takes about as long as `minisign -S`, and
    /// as much memory, 1 GiB.
    ///
    /// # Errors
    ///
    /// [`MinisignError`] for files of another kind, too costly ones, altered ones,
    /// and for no passphrase or a wrong one.
    pub fn from_minisign(
        text: &str,
        name: &str,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<Self, MinisignError> {
        let [comment, key] = lines(text)?;
        let comment = untrusted(comment)?;
        let [algorithm, kdf, checksum, salt, ops, memory, sealed] =
            parts(key, [2, 2, 2, SALT_LEN, 8, 8, SEALED_LEN])?;
        if *algorithm != ALGORITHM || *checksum != CHECKSUM {
            return Err(MinisignError::Format("an unknown algorithm"));
        }
        let mut sealed: Zeroizing<[u8; SEALED_LEN]> = Zeroizing::new(array(&sealed)?);
        if *kdf == KDF_SCRYPT {
            let cost = cost(
                u64::from_le_bytes(array(&ops)?),
                u64::from_le_bytes(array(&memory)?),
            )?;
            let passphrase = passphrase().ok_or(MinisignError::PassphraseNeeded)?;
            let mut stream = Zeroizing::new([0; SEALED_LEN]);
            scrypt::scrypt(passphrase.as_bytes(), &salt, &cost, &mut *stream)
                .map_err(|_| MinisignError::Cost)?;
            for (byte, mask) in sealed.iter_mut().zip(stream.iter()) {
                *byte ^= mask;
            }
        } else if *kdf != KDF_NONE {
            return Err(MinisignError::Format("an unknown key derivation"));
        }
        let (key, checksum) = sealed.split_at(ID_LEN + 64);
        let expected = Blake2b256::new()
            .chain_update(ALGORITHM)
            .chain_update(key)
            .finalize();
        // Without a passphrase there is nothing it would tell, and it may be left out.
        let is_absent = *kdf == KDF_NONE && checksum.iter().all(|byte| *byte == 0);
        if expected[..] != *checksum && !is_absent {
            return Err(MinisignError::WrongPassphrase);
        }
        let (id, key) = key.split_at(ID_LEN);
        let (seed, public) = key.split_at(32);
        let secret = Self::from_seed(&Zeroizing::new(array(seed)?), name)?;
        if secret.public().as_bytes() != public {
            return Err(MinisignError::Format("its halves do not belong together"));
        }
        let secret = secret.with_minisign_id(MinisignId(array(id)?));
        // minisign's own says only what the file is.
        match comment.starts_with("minisign ") || check_comment(comment).is_err() {
            true => Ok(secret),
            false => Ok(secret.with_comment(comment)?),
        }
    }
}

/// The parameters that libsodium makes of the two limits in the file.
fn cost(ops: u64, memory: u64) -> Result<Params, MinisignError> {
    let ops = ops.max(32_768);
    let block = u64::from(BLOCK);
    let (n_max, lanes) = if ops < memory / 32 {
        (ops / (block * 4), None)
    } else {
        (memory / (block * 128), Some(ops / 4))
    };
    // The largest power of two that is not above the limit.
    let log_n = u8::try_from(n_max.max(2).ilog2()).map_err(|_| MinisignError::Cost)?;
    if log_n > LOG_N_MAX {
        return Err(MinisignError::Cost);
    }
    let lanes = lanes.map_or(1, |ops| (ops >> log_n) / block);
    let lanes = u32::try_from(lanes).map_err(|_| MinisignError::Cost)?;
    let work = u64::from(lanes) << log_n;
    if !(1..=LANES_MAX).contains(&lanes) || work > WORK_MAX {
        return Err(MinisignError::Cost);
    }
    Params::new(log_n, BLOCK, lanes).map_err(|_| MinisignError::Cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What minisign writes, and what it falls back to with less memory.
    #[test]
    fn the_usual_costs_are_taken_and_others_are_not() {
        const OPS: u64 = 33_554_432;
        const MEMORY: u64 = 1 << 30;
        let taken = |log_n, lanes| Params::new(log_n, BLOCK, lanes).unwrap();
        assert_eq!(cost(OPS, MEMORY), Ok(taken(20, 1)));
        assert_eq!(cost(OPS / 2, MEMORY / 2), Ok(taken(19, 1)));
        assert_eq!(cost(524_288, 16_777_216), Ok(taken(14, 1)));
        for (ops, memory) in [
            (OPS, MEMORY * 2 - 1),
            (u64::MAX, u64::MAX),
            (u64::MAX, 0),
            (u64::MAX, MEMORY),
            (OPS * 4, MEMORY),
        ] {
            let found = cost(ops, memory);
            let is_usual = found == Ok(taken(20, 1));
            assert!(
                is_usual || found == Err(MinisignError::Cost),
                "{ops} {memory}: {found:?}"
            );
        }
        assert_eq!(cost(u64::MAX, u64::MAX), Err(MinisignError::Cost));
        assert_eq!(cost(u64::MAX, 0), Err(MinisignError::Cost));
    }
}
