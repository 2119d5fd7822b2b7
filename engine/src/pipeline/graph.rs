//! The order of steps.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

/// Orders steps so that each comes after those it depends on (Kahn 1962,
/// "Topological sorting of large networks"). Among those that could come next
/// the one that was written first does.
///
/// # Errors
///
/// Cycles, each as the steps along it; every step is on at most one of them.
/// There is one for each knot, not one for each way around it.
pub(super) fn order(dependencies: &[BTreeSet<usize>]) -> Result<Vec<usize>, Vec<Vec<usize>>> {
    let dependents = dependents(dependencies);
    let mut waiting: Vec<_> = dependencies.iter().map(BTreeSet::len).collect();
    let mut ready: BinaryHeap<_> = (0..waiting.len())
        .filter(|step| waiting[*step] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(step)) = ready.pop() {
        order.push(step);
        for dependent in &dependents[step] {
            waiting[*dependent] -= 1;
            if waiting[*dependent] == 0 {
                ready.push(Reverse(*dependent));
            }
        }
    }
    if order.len() == waiting.len() {
        Ok(order)
    } else {
        Err(cycles(dependencies, &waiting))
    }
}

/// For each step the steps that depend on it, ascending.
pub(super) fn dependents(dependencies: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let mut dependents = vec![Vec::new(); dependencies.len()];
    for (step, needed) in dependencies.iter().enumerate() {
        for dependency in needed {
            dependents[*dependency].push(step);
        }
    }
    dependents
}

/// Every step that still waits has a dependency that still waits, so following
/// those must come back to where it has been.
fn cycles(dependencies: &[BTreeSet<usize>], waiting: &[usize]) -> Vec<Vec<usize>> {
    let mut seen = vec![false; waiting.len()];
    let mut cycles = Vec::new();
    for first in (0..waiting.len()).filter(|step| waiting[*step] > 0) {
        let mut path: Vec<usize> = Vec::new();
        let mut step = Some(first);
        while let Some(at) = step.filter(|at| !seen[*at]) {
            seen[at] = true;
            path.push(at);
            step = dependencies[at]
                .iter()
                .copied()
                .find(|next| waiting[*next] > 0);
        }
        let again = step.and_then(|at| path.iter().position(|other| *other == at));
        if let Some(start) = again {
            let mut cycle = path.split_off(start);
            // Dependencies point backwards; people read in the order of time.
            cycle.reverse();
            let least = cycle.iter().enumerate().min_by_key(|(_, step)| **step);
            let least = least.map_or(0, |(at, _)| at);
            cycle.rotate_left(least);
            cycles.push(cycle);
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(edges: &[&[usize]]) -> Vec<BTreeSet<usize>> {
        edges
            .iter()
            .map(|needed| needed.iter().copied().collect())
            .collect()
    }

    #[test]
    fn independent_steps_keep_the_order_they_were_written_in() {
        assert_eq!(order(&graph(&[&[], &[], &[]])), Ok(vec![0, 1, 2]));
        assert_eq!(order(&graph(&[&[2], &[], &[]])), Ok(vec![1, 2, 0]));
    }

    #[test]
    fn cycles_are_told_as_people_read_them() {
        // 1 needs 0, 2 needs 1, 0 needs 2: so 0 -> 1 -> 2 -> 0.
        assert_eq!(order(&graph(&[&[2], &[0], &[1]])), Err(vec![vec![0, 1, 2]]));
        let two = graph(&[&[1], &[0], &[3], &[2], &[0]]);
        assert_eq!(order(&two), Err(vec![vec![0, 1], vec![2, 3]]));
        assert_eq!(order(&graph(&[&[0]])), Err(vec![vec![0]]));
        // A step behind a cycle is not on it.
        assert_eq!(order(&graph(&[&[1], &[2], &[1]])), Err(vec![vec![1, 2]]));
    }

    #[test]
    fn a_thousand_steps_in_a_row_are_no_trouble() {
        let row: Vec<BTreeSet<usize>> = (0..1_000)
            .map(|step| BTreeSet::from_iter((step < 999).then_some(step + 1)))
            .collect();
        assert_eq!(order(&row), Ok((0..1_000).rev().collect()));
        let mut ring = row;
        ring[999].insert(0);
        assert_eq!(order(&ring).unwrap_err()[0].len(), 1_000);
    }

    proptest! {
        /// Edges only ever point from later to earlier in a random
        /// permutation, so there is an order, and it must be kept.
        #[test]
        fn random_graphs_without_cycles_are_ordered(
            permutation in Just((0..40).collect::<Vec<usize>>()).prop_shuffle(),
            edges in prop::collection::vec((0_usize..40, 0_usize..40), 0..200),
        ) {
            let mut dependencies = vec![BTreeSet::new(); 40];
            for (a, b) in edges {
                if a != b {
                    dependencies[permutation[a.max(b)]].insert(permutation[a.min(b)]);
                }
            }
            let order = order(&dependencies).unwrap();
            let mut place = vec![0; 40];
            for (at, step) in order.iter().enumerate() {
                place[*step] = at;
            }
            prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 40);
            for (step, needed) in dependencies.iter().enumerate() {
                prop_assert!(needed.iter().all(|dependency| place[*dependency] < place[step]));
            }
        }

        /// A graph is refused exactly when what is told as a cycle is one.
        #[test]
        fn random_graphs_are_ordered_or_have_a_real_cycle(
            edges in prop::collection::vec((0_usize..12, 0_usize..12), 0..30),
        ) {
            let mut dependencies = vec![BTreeSet::new(); 12];
            for (a, b) in edges {
                dependencies[a].insert(b);
            }
            if let Err(cycles) = order(&dependencies) {
                prop_assert!(!cycles.is_empty());
                for cycle in cycles {
                    for (at, step) in cycle.iter().enumerate() {
                        let next = cycle[(at + 1) % cycle.len()];
                        prop_assert!(dependencies[next].contains(step));
                    }
                }
            }
        }
    }
}
