//! The page about system calls says what the filter does with every number.

use std::collections::BTreeMap;

use super::*;

const PAGE: &str = include_str!("../../../../system-calls.md");
/// Numbers that are tried. Nothing is known of the last ones.
const NUMBERS: u32 = 1024;

/// The columns: nothing granted, and each grant alone.
fn columns() -> [Rules; 7] {
    let network = |network| Rules { network, ..NOTHING };
    let execution = |execution| Rules {
        execution,
        ..NOTHING
    };
    [
        NOTHING,
        Rules {
            writes: true,
            ..NOTHING
        },
        Rules {
            system_information: true,
            ..NOTHING
        },
        network(Network::Gateway),
        network(Network::Unrestricted),
        execution(Execution::Files),
        execution(Execution::Anything),
    ]
}

/// What the page says of one number.
fn cell(
    all: &BTreeMap<u32, Decision>,
    program: &[sock_filter],
    classes: &[u64],
    number: u32,
) -> &'static str {
    let (_, decision) = all.range(..=number).next_back().expect("from 0 on");
    let every = match decision {
        Decision::Return(_) => 211,
        Decision::If { .. } => 1,
    };
    let arguments = tried(classes).step_by(every);
    let mut actions: Vec<u32> = arguments
        .map(|arguments| interpret(program, call(i64::from(number), arguments)))
        .collect();
    actions.sort_unstable();
    actions.dedup();
    match *actions {
        [libc::SECCOMP_RET_ALLOW] => "yes",
        [refused] if refused == Action::Refuse(libc::EPERM).code() => "",
        [absent] if absent == Action::Refuse(libc::ENOSYS).code() => "absent",
        _ => "by arguments",
    }
}

#[test]
fn the_page_says_what_is_allowed() {
    let cells_of = |row: &'static str| row.split('|').map(str::trim).collect::<Vec<_>>();
    let rows: BTreeMap<u32, Vec<&str>> = PAGE
        .lines()
        .map(cells_of)
        .filter_map(|cells| Some((cells.get(2)?.parse().ok()?, cells)))
        .collect();
    let classes = classes();
    let columns = columns().map(|rules| (decisions(rules, START), filter(rules, START)));
    let mut wrong = String::new();
    for number in 0..NUMBERS {
        let is = columns
            .each_ref()
            .map(|(all, program)| cell(all, program, &classes, number));
        let said = rows.get(&number).and_then(|cells| cells.get(3..10));
        let expected = match number {
            FIRST_UNKNOWN.. => ["absent"; 7],
            _ if said.is_none() => [""; 7],
            _ => is,
        };
        if is != expected || said.is_some_and(|said| said != is) {
            let name = rows.get(&number).map_or("?", |cells| cells[1]);
            wrong += &format!("| {name} | {number} | {} |\n", is.join(" | "));
        }
    }
    assert!(
        wrong.is_empty(),
        "these rows should be on the page:\n{wrong}"
    );
}
