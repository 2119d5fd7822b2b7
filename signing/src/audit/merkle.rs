//! The tree over the records (RFC 6962 §2): hashes, roots, proofs.
//!
//! Every complete node has a fixed place in one sequence of hashes, in the
//! order in which nodes become complete, so a tree only ever grows at its end
//! and a proof reads a handful of places.

use std::io;

use sha2::{Digest as _, Sha256};

/// The hash of a leaf, a node or a whole tree.
pub type Hash = [u8; 32];

/// The hash of one record.
pub fn leaf(record: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(record)
        .finalize()
        .into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// Where the hashes of complete nodes are read from.
pub(super) trait Nodes {
    /// The hash at a place of the sequence, from 0.
    fn node(&self, place: u64) -> io::Result<Hash>;
}

impl Nodes for [Hash] {
    fn node(&self, place: u64) -> io::Result<Hash> {
        let place = usize::try_from(place).ok();
        place
            .and_then(|place| self.get(place).copied())
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// How many nodes are complete once there are `size` leaves.
pub(super) fn nodes_of(size: u64) -> u64 {
    2 * size - u64::from(size.count_ones())
}

/// The place of the node that stands `level` above the leaves and has `index`
/// nodes before it there.
fn place(level: u32, index: u64) -> u64 {
    let completed_by = ((index + 1) << level) - 1;
    nodes_of(completed_by) + u64::from(level)
}

/// The right edge of a tree, which is all that is needed to let it grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, the largest first.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The edge as it was at `size` leaves.
    pub(super) fn read<N: Nodes + ?Sized>(nodes: &N, size: u64) -> io::Result<Self> {
        Ok(Self {
            size,
            peaks: peaks(nodes, 0, size)?,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf and hands out the nodes that it completes, in their order.
    pub(super) fn push(&mut self, leaf: Hash, mut completed: impl FnMut(&Hash)) {
        let mut hash = leaf;
        completed(&hash);
        for _ in 0..self.size.trailing_ones() {
            // A set bit of the size is a peak.
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
                completed(&hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root of the tree.
    pub(super) fn root(&self) -> Hash {
        folded(&self.peaks)
    }
}

/// The root over complete subtrees, the largest first.
fn folded(peaks: &[Hash]) -> Hash {
    let mut rest = peaks.iter().rev();
    let Some(last) = rest.next() else {
        return Sha256::digest([]).into();
    };
    rest.fold(*last, |right, left| node(left, &right))
}

/// The complete subtrees over the leaves from `start` on, which has to be a
/// place where a subtree of that size begins.
fn peaks<N: Nodes + ?Sized>(nodes: &N, start: u64, count: u64) -> io::Result<Vec<Hash>> {
    let mut peaks = Vec::new();
    let mut at = start;
    for level in (0..u64::BITS).rev().filter(|level| count >> level & 1 == 1) {
        peaks.push(nodes.node(place(level, at >> level))?);
        at += 1 << level;
    }
    Ok(peaks)
}

fn subtree<N: Nodes + ?Sized>(nodes: &N, start: u64, end: u64) -> io::Result<Hash> {
    Ok(folded(&peaks(nodes, start, end - start)?))
}

/// The root of the tree that the first `size` leaves make.
pub(super) fn root<N: Nodes + ?Sized>(nodes: &N, size: u64) -> io::Result<Hash> {
    subtree(nodes, 0, size)
}

/// The hash of leaf `index`.
pub(super) fn leaf_of<N: Nodes + ?Sized>(nodes: &N, index: u64) -> io::Result<Hash> {
    nodes.node(place(0, index))
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// Proves that leaf `index` is in the tree of `size` leaves; the hash next to
/// the leaf comes first. `index` has to be below `size`.
pub(super) fn inclusion<N: Nodes + ?Sized>(
    nodes: &N,
    index: u64,
    size: u64,
) -> io::Result<Vec<Hash>> {
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(subtree(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(subtree(nodes, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proves that the tree of `old` leaves is the beginning of the one of `new`.
/// `old` is at least 1 and at most `new`.
pub(super) fn consistency<N: Nodes + ?Sized>(
    nodes: &N,
    old: u64,
    new: u64,
) -> io::Result<Vec<Hash>> {
    let (mut start, mut end) = (0, new);
    let mut proof = Vec::new();
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(subtree(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(subtree(nodes, start, middle)?);
            start = middle;
        }
    }
    if start > 0 {
        proof.push(subtree(nodes, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that `leaf` is at `index` in the tree with this size
/// and root (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, proof: &[Hash], size: u64, root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            if at & 1 == 0 {
                let skipped = at.trailing_zeros().min(u64::BITS - 1);
                at >>= skipped;
                last >>= skipped;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the first tree is the beginning of the second
/// (RFC 9162 §2.1.4.2).
pub fn verify_consistency(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size == 0 || old_size > new_size {
        return old_size == 0 && proof.is_empty();
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    let mut rest = proof.iter();
    let first = match old_size.is_power_of_two() {
        true => Some(old_root),
        false => rest.next(),
    };
    let Some(first) = first else {
        return false;
    };
    let skipped = (old_size - 1).trailing_ones();
    let (mut at, mut last) = ((old_size - 1) >> skipped, (new_size - 1) >> skipped);
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_hash = node(sibling, &old_hash);
            new_hash = node(sibling, &new_hash);
            if at & 1 == 0 {
                let skipped = at.trailing_zeros().min(u64::BITS - 1);
                at >>= skipped;
                last >>= skipped;
            }
        } else {
            new_hash = node(&new_hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leaves of the known vectors that Certificate Transparency's
    /// implementations share.
    const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];

    /// Their roots, for one leaf to eight.
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn unhex(text: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect()
    }

    fn grown(leaves: &[Vec<u8>]) -> (Frontier, Vec<Hash>) {
        let (mut frontier, mut nodes) = (Frontier::default(), Vec::new());
        for bytes in leaves {
            frontier.push(leaf(bytes), |hash| nodes.push(*hash));
        }
        (frontier, nodes)
    }

    /// RFC 6962 §2.1 as it is written, with no thought of cost.
    fn by_definition(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => leaf(one),
            many => {
                let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn roots_are_the_known_ones() {
        let leaves = LEAVES.map(unhex);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Frontier::default().root().to_vec(), unhex(empty));
        for (many, root) in (1..).zip(ROOTS) {
            let (frontier, nodes) = grown(&leaves[..many]);
            assert_eq!(frontier.root().to_vec(), unhex(root), "{many}");
            assert_eq!(nodes.len() as u64, nodes_of(many as u64));
        }
    }

    #[test]
    fn proofs_are_the_known_ones() {
        let (_, nodes) = grown(&LEAVES.map(unhex));
        let proof = inclusion(nodes.as_slice(), 5, 8).unwrap();
        let known = [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        assert_eq!(shown(&proof), known.map(unhex));
        let proof = consistency(nodes.as_slice(), 6, 8).unwrap();
        let known = [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        assert_eq!(shown(&proof), known.map(unhex));
    }

    fn shown(proof: &[Hash]) -> Vec<Vec<u8>> {
        proof.iter().map(|hash| hash.to_vec()).collect()
    }

    /// Every proof of every tree of up to 70 leaves holds, and holds for
    /// nothing else.
    #[test]
    fn proofs_hold_and_only_for_what_they_prove() {
        let leaves: Vec<_> = (0..70_u8).map(|it| vec![it; 3]).collect();
        let (_, nodes) = grown(&leaves);
        let nodes = nodes.as_slice();
        let roots: Vec<_> = (0..=leaves.len())
            .map(|n| by_definition(&leaves[..n]))
            .collect();
        for size in 1..=leaves.len() {
            let (many, top) = (size as u64, &roots[size]);
            assert_eq!(root(nodes, many).unwrap(), *top);
            assert_eq!(
                Frontier::read(nodes, many).unwrap(),
                grown(&leaves[..size]).0
            );
            for (index, bytes) in leaves[..size].iter().enumerate() {
                let (at, own) = (index as u64, leaf(bytes));
                let proof = inclusion(nodes, at, many).unwrap();
                assert!(verify_inclusion(&own, at, &proof, many, top));
                assert!(!verify_inclusion(&own, at, &proof, many, &roots[size - 1]));
                assert!(!verify_inclusion(&leaf(b"other"), at, &proof, many, top));
                assert!(!verify_inclusion(&own, at ^ 1, &proof, many, top) || many == 1);
                assert!(!verify_inclusion(&own, many, &proof, many, top));
            }
            for old in 1..=size {
                let (was, before) = (old as u64, &roots[old]);
                let proof = consistency(nodes, was, many).unwrap();
                assert!(verify_consistency((was, before), (many, top), &proof));
                assert!(!verify_consistency(
                    (was, &roots[old - 1]),
                    (many, top),
                    &proof
                ));
                assert!(!verify_consistency(
                    (was, before),
                    (many, &roots[0]),
                    &proof
                ));
            }
        }
        assert!(!verify_consistency((2, &roots[2]), (1, &roots[1]), &[]));
        assert!(!verify_consistency((3, &roots[3]), (5, &roots[5]), &[]));
    }
}
