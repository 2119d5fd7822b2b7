//! The filter, interpreted as the kernel would, for every number and class of argument.

mod documented;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

use super::{
    Execution, Filters, Rules, Start,
    bpf::{Action, Decision, Word, X86_64},
    calls::{FIRST_UNKNOWN, FIRST_X32, OBSERVED, decisions},
};
use crate::Network;

const START: Start = Start {
    image: 7,
    token: 0x1122_3344_5566_7788,
    memory_files: true,
};
const I386: u32 = 0x4000_0003;

#[derive(Clone, Copy)]
struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

fn call(number: i64, arguments: [u64; 6]) -> Call {
    Call {
        architecture: X86_64,
        number: number as u32,
        arguments,
    }
}

/// A filter that others have had before, with another token.
fn filter(rules: Rules, start: Start) -> Vec<sock_filter> {
    let filters = Filters::new(rules);
    let image = start.image ^ 1;
    for earlier in [Start { image, ..start }, Start { token: 1, ..start }] {
        filters.of(earlier);
    }
    filters.of(start)
}

/// What the kernel does with the program, instruction by instruction. Panics where the
/// kernel would not take it.
fn interpret(program: &[sock_filter], call: Call) -> u32 {
    let mut data = [0_u8; 64];
    data[0..4].copy_from_slice(&call.number.to_ne_bytes());
    data[4..8].copy_from_slice(&call.architecture.to_ne_bytes());
    for (index, argument) in call.arguments.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_ne_bytes());
    }
    const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
    const AND: u32 = BPF_ALU | BPF_AND | BPF_K;
    const ALWAYS: u32 = BPF_JMP | BPF_JA;
    const EQUAL: u32 = BPF_JMP | BPF_JEQ | BPF_K;
    const AT_LEAST: u32 = BPF_JMP | BPF_JGE | BPF_K;
    const RETURN: u32 = BPF_RET | BPF_K;
    let (mut at, mut loaded) = (0_usize, 0_u32);
    loop {
        let step = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match u32::from(step.code) {
            LOAD => {
                let from = step.k as usize;
                loaded = u32::from_ne_bytes(data[from..from + 4].try_into().expect("four bytes"));
            }
            AND => loaded &= step.k,
            ALWAYS => at += step.k as usize,
            EQUAL => at += jump(loaded == step.k),
            AT_LEAST => at += jump(loaded >= step.k),
            RETURN => return step.k,
            other => panic!("an instruction {other:#x} that is not used"),
        }
    }
}

/// What the decisions say, without any program.
fn decided(mut decision: &Decision, arguments: [u64; 6]) -> Action {
    loop {
        match decision {
            Decision::Return(action) => return *action,
            Decision::If {
                word,
                mask,
                value,
                then,
                otherwise,
            } => {
                let word = match word {
                    Word::Low(argument) => arguments[*argument as usize] as u32,
                    Word::High(argument) => (arguments[*argument as usize] >> 32) as u32,
                };
                decision = if word & mask == *value {
                    then
                } else {
                    otherwise
                };
            }
        }
    }
}

fn every_rule() -> impl Iterator<Item = Rules> {
    let executions = [Execution::Nothing, Execution::Files, Execution::Anything];
    let networks = [Network::None, Network::Gateway, Network::Unrestricted];
    let both = move |execution| networks.map(|network| (execution, network));
    executions
        .into_iter()
        .flat_map(both)
        .flat_map(|(execution, network)| {
            (0..4).map(move |bits| Rules {
                execution,
                network,
                writes: bits & 1 > 0,
                system_information: bits & 2 > 0,
                observed: false,
            })
        })
        .chain([OBSERVING])
}

/// All that there is of an observed process.
const OBSERVING: Rules = Rules {
    execution: Execution::Anything,
    network: Network::Unrestricted,
    writes: true,
    system_information: true,
    observed: true,
};

const NOTHING: Rules = Rules {
    execution: Execution::Nothing,
    network: Network::None,
    writes: false,
    system_information: false,
    observed: false,
};

/// Values at which some decision changes, in both halves of an argument.
fn classes() -> Vec<u64> {
    let low = [
        0,
        1,
        2,
        3,
        5,
        6,
        7,
        10,
        13,
        16,
        17,
        38,
        40,
        132,
        255,
        256,
        262,
        0o100,
        0o4755,
        0o2755,
        1024,
        1026,
        0o20_000_000,
        0x10,
        0x18,
        0x8,
        0x800,
        0x1000,
        0x5412,
        0x541c,
        0x540e,
        0x5423,
        0x541d,
        0x80802,
        0x80801,
        0x20000,
        0x1_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
        0x7e02_0000,
        0x003d_0f00,
        0x4008_6602,
        0x401c_5820,
        0x5356_4d41,
        0x5566_7788,
        0x8000_0000,
        0xffff_ffff,
    ];
    // The kernel takes most arguments from the low half alone, whatever the high one is.
    let high = [1, 0x1122_3344, 0xffff_ffff_u64];
    let odd = [0, 1, 16, 0x5412, 0x5566_7788, 0xffff_ffff];
    let both = odd.iter().flat_map(|low| high.map(|high| high << 32 | low));
    low.into_iter().chain(both).chain([START.token]).collect()
}

/// One argument after the other, the rest as in the call that starts, and others.
fn tried(classes: &[u64]) -> impl Iterator<Item = [u64; 6]> {
    let started = [7, 0, 0, 0, 0x1000, START.token];
    (0..6).flat_map(move |place| {
        classes.iter().flat_map(move |class| {
            let makes = [0, 0o101, 0o101, 0o4755, 0, 0];
            let bases = [
                started,
                [0; 6],
                [1, 1, 6, 0, 0, 0],
                [2, 2, 17, 0, 0, 0],
                makes,
            ];
            bases.map(|mut base| {
                base[place] = *class;
                base
            })
        })
    })
}

#[test]
fn the_program_decides_as_the_policy_says() {
    let classes = classes();
    for rules in every_rule() {
        let (program, all) = (filter(rules, START), decisions(rules, START));
        assert!(program.len() < 1024, "{} instructions", program.len());
        let numbers = (0..FIRST_UNKNOWN + 40).chain([
            FIRST_X32 - 1,
            FIRST_X32,
            FIRST_X32 + 59,
            FIRST_X32 + 0x200,
            u32::MAX,
        ]);
        for number in numbers {
            let (_, decision) = all.range(..=number).next_back().expect("from 0 on");
            // Arguments that nothing looks at need not all be tried.
            let every = match decision {
                Decision::Return(_) => 211,
                Decision::If { .. } => 1,
            };
            for arguments in tried(&classes).step_by(every) {
                let expected = decided(decision, arguments);
                let got = interpret(&program, call(i64::from(number), arguments));
                assert_eq!(got, expected.code(), "{number} {arguments:x?} {rules:?}");
            }
        }
    }
}

#[test]
fn another_interface_ends_the_process() {
    let program = filter(NOTHING, START);
    for number in [0, 1, 59, 102, 359] {
        for architecture in [I386, 0, 0xC000_00B7] {
            let call = Call {
                architecture,
                number,
                arguments: [0; 6],
            };
            assert_eq!(interpret(&program, call), Action::Kill.code());
        }
        let x32 = call(i64::from(FIRST_X32 + number), [0; 6]);
        assert_eq!(interpret(&program, x32), Action::Kill.code());
    }
}

fn is_allowed(rules: Rules, number: i64, arguments: [u64; 6]) -> bool {
    interpret(&filter(rules, START), call(number, arguments)) == libc::SECCOMP_RET_ALLOW
}

/// By hand, so that neither list is trusted.
#[test]
fn nothing_grants_what_reaches_beyond_the_process() {
    let dangerous = [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_fsopen,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_clock_settime,
        libc::SYS_io_uring_setup,
        libc::SYS_clone3,
        libc::SYS_shmget,
        libc::SYS_mq_open,
        libc::SYS_modify_ldt,
        libc::SYS_iopl,
        libc::SYS_mknod,
        libc::SYS_mknodat,
        libc::SYS_chown,
        libc::SYS_setuid,
        libc::SYS_capset,
        libc::SYS_seccomp,
    ];
    for rules in every_rule() {
        for number in dangerous {
            assert!(!is_allowed(rules, number, [0; 6]), "{number} {rules:?}");
        }
        let namespace = [libc::CLONE_NEWUSER as u64 | 17, 0, 0, 0, 0, 0];
        assert!(!is_allowed(rules, libc::SYS_clone, namespace));
        for family in [
            libc::AF_UNIX,
            libc::AF_NETLINK,
            libc::AF_PACKET,
            libc::AF_VSOCK,
        ] {
            let arguments = [family as u64, 1, 0, 0, 0, 0];
            assert!(!is_allowed(rules, libc::SYS_socket, arguments));
        }
        let injected = [0, 0xffff_0000_0000_5412, 0, 0, 0, 0];
        assert!(!is_allowed(rules, libc::SYS_ioctl, injected));
        assert!(!is_allowed(rules, libc::SYS_prlimit64, [1, 0, 0, 0, 0, 0]));
        let lingers = [0, 0xffff_ffff_0000_0001, 0xffff_ffff_0000_000d, 0, 8, 0];
        assert!(!is_allowed(rules, libc::SYS_setsockopt, lingers));
    }
}

#[test]
fn only_the_start_executes_without_a_grant() {
    let start = [7, 0, 0, 0, 0x1000, START.token];
    assert!(is_allowed(NOTHING, libc::SYS_execveat, start));
    for (place, wrong) in [
        (0, 8),
        (4, 0),
        (5, START.token ^ 1),
        (5, START.token ^ 1 << 63),
        (5, 0),
    ] {
        let mut arguments = start;
        arguments[place] = wrong;
        assert!(!is_allowed(NOTHING, libc::SYS_execveat, arguments));
    }
    assert!(!is_allowed(NOTHING, libc::SYS_execve, [0; 6]));
    assert!(!is_allowed(NOTHING, libc::SYS_fork, [0; 6]));
    let thread = libc::CLONE_THREAD as u64 | 0x003d_0f00;
    assert!(is_allowed(
        NOTHING,
        libc::SYS_clone,
        [thread, 0, 0, 0, 0, 0]
    ));
    assert!(!is_allowed(NOTHING, libc::SYS_clone, [17, 0, 0, 0, 0, 0]));
}

#[test]
fn grants_open_what_they_name() {
    let files = Rules {
        execution: Execution::Files,
        ..NOTHING
    };
    assert!(is_allowed(files, libc::SYS_execve, [0; 6]));
    assert!(is_allowed(
        files,
        libc::SYS_memfd_create,
        [0, 0x8, 0, 0, 0, 0]
    ));
    assert!(!is_allowed(
        files,
        libc::SYS_memfd_create,
        [0, 0x18, 0, 0, 0, 0]
    ));
    assert!(!is_allowed(files, libc::SYS_memfd_create, [0; 6]));
    let online = Rules {
        network: Network::Unrestricted,
        ..NOTHING
    };
    let socket = |rules, family: i32, kind: u64, protocol| {
        let arguments = [family as u64, kind, protocol, 0, 0, 0];
        is_allowed(rules, libc::SYS_socket, arguments)
    };
    for family in [libc::AF_INET, libc::AF_INET6] {
        assert!(socket(online, family, 0x80801, 0) && socket(online, family, 1, 6));
        assert!(socket(online, family, 2, 17));
        assert!(!socket(NOTHING, family, 1, 6));
        // MPTCP, SCTP, ICMP, raw.
        assert!(!socket(online, family, 1, 262) && !socket(online, family, 1, 132));
        assert!(!socket(online, family, 2, 1) && !socket(online, family, 3, 0));
    }
    let gateway = Rules {
        network: Network::Gateway,
        ..NOTHING
    };
    assert!(socket(gateway, libc::AF_INET, 0x80801, 6) && !socket(gateway, libc::AF_INET, 2, 0));
    assert!(!socket(gateway, libc::AF_INET6, 1, 0));
    assert!(is_allowed(gateway, libc::SYS_connect, [0; 6]));
    assert!(!is_allowed(gateway, libc::SYS_bind, [0; 6]));
    let writes = Rules {
        writes: true,
        ..NOTHING
    };
    assert!(is_allowed(writes, libc::SYS_chmod, [0; 6]));
    assert!(!is_allowed(NOTHING, libc::SYS_chmod, [0; 6]));
}

/// Nobody answers before the program runs, so its start must not wait for an answer.
#[test]
fn what_is_observed_is_told_and_the_start_is_not() {
    let program = filter(OBSERVING, START);
    let start = [7, 0, 0, 0, 0x1000, START.token];
    assert!(is_allowed(OBSERVING, libc::SYS_execveat, start));
    let told = Action::Tell.code();
    let again = [7, 0, 0, 0, 0x1000, 0];
    assert_eq!(interpret(&program, call(libc::SYS_execveat, again)), told);
    for number in OBSERVED {
        assert_eq!(interpret(&program, call(*number, [0; 6])), told, "{number}");
    }
    // By these the process hands the host what tells of it.
    assert!(is_allowed(OBSERVING, libc::SYS_sendmsg, [0; 6]));
}
