//! Which commands change who may do what, and what is recorded of them.

use std::ffi::OsString;

use clap::{ArgAction, ArgMatches, CommandFactory as _, parser::ValueSource};
use orchestrator_signing::audit::{AuditEvent, Kind, Outcome};

use crate::args::Cli;

/// Commands that are recorded, by group and name.
const RECORDED: &[(&str, &str, Kind)] = &[
    ("key", "generate", Kind::KeyChange),
    ("key", "import", Kind::KeyChange),
    ("key", "passphrase", Kind::KeyChange),
    ("key", "revoke", Kind::KeyChange),
    ("key", "rotate", Kind::KeyChange),
    ("trust", "add", Kind::RootChange),
    ("trust", "init", Kind::RootChange),
    ("trust", "remove", Kind::RootChange),
    ("trust", "revoke", Kind::RootChange),
    ("trust", "rotate", Kind::RootChange),
    ("trust", "sign", Kind::Sign),
    ("trust", "update", Kind::RootChange),
    ("plugin", "disable", Kind::ConfigChange),
    ("plugin", "enable", Kind::ConfigChange),
    ("plugin", "gc", Kind::Remove),
    ("plugin", "grant", Kind::Grant),
    ("plugin", "install", Kind::Install),
    ("plugin", "learn", Kind::Sandbox),
    ("plugin", "limits", Kind::ConfigChange),
    ("plugin", "lock", Kind::LockChange),
    ("plugin", "reload", Kind::Load),
    ("plugin", "remove", Kind::Remove),
    ("plugin", "restart", Kind::Spawn),
    ("plugin", "revoke", Kind::Revoke),
    ("plugin", "rollback", Kind::Install),
    ("plugin", "sign", Kind::Sign),
    ("plugin", "update", Kind::Install),
];

/// Commands that change nothing here and are recorded when something is refused.
const REFUSALS: &[(&str, &str, Kind)] = &[
    ("plugin", "attach", Kind::Verify),
    ("plugin", "pack", Kind::Verify),
    ("plugin", "unpack", Kind::Verify),
    ("plugin", "verify", Kind::Verify),
];

/// Commands that take away what somebody may do. A new root may do that too, and
/// enough of its keys have signed it.
const TAKES_AWAY: &[(&str, &str)] = &[
    ("key", "revoke"),
    ("plugin", "disable"),
    ("plugin", "remove"),
    ("plugin", "revoke"),
    ("trust", "remove"),
    ("trust", "revoke"),
    ("trust", "update"),
];

/// Options with which such a command changes nothing here, by group and name.
const ONLY_LOOKS: &[(&str, &str, &str)] = &[
    ("key", "rotate", "check"),
    ("plugin", "gc", "dry_run"),
    ("plugin", "lock", "locked"),
    ("trust", "add", "out"),
    ("trust", "remove", "out"),
    ("trust", "revoke", "out"),
    ("trust", "rotate", "out"),
];

/// Commands that only look unless they are told what to change, by group and name.
const LOOKS_OR_CHANGES: &[(&str, &str)] = &[("plugin", "limits")];

/// What is to be recorded of a command.
pub(super) enum Recorded {
    /// What it is about to change, and how that went.
    Change { event: AuditEvent, takes_away: bool },
    /// What it was refused, if it is.
    Refusal(AuditEvent),
}

/// What is to be recorded of this command line, if it is one of those. The
/// arguments are read a second time, without what they are turned into, so
/// that no command has to speak of the log.
pub(super) fn recorded(arguments: &[OsString]) -> Option<Recorded> {
    let cli = Cli::command();
    let matches = cli.clone().try_get_matches_from(arguments).ok()?;
    let (group, matches) = matches.subcommand()?;
    let (name, matches) = matches.subcommand()?;
    let is_it = |it: &&(&str, &str, Kind)| (it.0, it.1) == (group, name);
    let change = RECORDED.iter().find(is_it);
    let (_, _, kind) = change.or_else(|| REFUSALS.iter().find(is_it))?;
    let command = cli.find_subcommand(group)?.find_subcommand(name)?;
    let mut event = AuditEvent::new(*kind, Outcome::Ok);
    event.action = Some(format!("{group} {name}"));
    let mut options = Vec::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let Some(text) = text(matches, id) else {
            continue;
        };
        let text = match (group, id) {
            ("plugin", "source") => without_query(&text),
            _ => text,
        };
        if ONLY_LOOKS.contains(&(group, name, id)) {
            return None;
        }
        if matches!(argument.get_action(), ArgAction::SetTrue) {
            // By its name, because the name of a secret would hide that it was given.
            options.extend(argument.get_long());
            continue;
        }
        match (group, id) {
            // A path or an address is no name.
            ("plugin", "plugin" | "name") if !text.contains('/') => {
                let (name, version) = match text.split_once('@') {
                    Some((name, version)) => (name, Some(version)),
                    None => (&*text, None),
                };
                event.version = version.map(str::to_owned);
                event.plugin = Some(name.to_owned());
            }
            ("plugin", "capabilities") => event.capability = Some(text),
            ("plugin", "plugin" | "name" | "source" | "package" | "dir" | "file")
            | ("trust", "file")
                if event.resource.is_none() =>
            {
                event.resource = Some(text);
            }
            ("key" | "trust", "key" | "name") | ("plugin", "key") => event.key = Some(text),
            _ => event = event.with(id, text),
        }
    }
    if LOOKS_OR_CHANGES.contains(&(group, name)) && event.context.is_empty() {
        return None;
    }
    if !options.is_empty() {
        event = event.with("options", options.join(" "));
    }
    Some(match change {
        Some(_) => Recorded::Change {
            event,
            takes_away: TAKES_AWAY.contains(&(group, name)),
        },
        None => Recorded::Refusal(event),
    })
}

/// The values of an argument that stands on the command line.
fn text(matches: &ArgMatches, id: &str) -> Option<String> {
    let values = matches.try_get_raw(id).ok()??;
    let is_given = matches.value_source(id) == Some(ValueSource::CommandLine);
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    is_given.then(|| values.join(" "))
}

/// An address without what it asks with, which may be a secret whatever it is called.
fn without_query(text: &str) -> String {
    let shown = match text.contains("://") {
        true => text.split('?').next().unwrap_or_default(),
        false => text,
    };
    shown.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<AuditEvent> {
        let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
        recorded(&arguments).map(|recorded| match recorded {
            Recorded::Change { event, .. } | Recorded::Refusal(event) => event,
        })
    }

    #[test]
    fn what_changes_something_is_recorded_with_its_arguments() {
        let grant = of("orchestrator --json plugin grant greeter file:read=/a env:read=B").unwrap();
        assert_eq!(grant.kind, Kind::Grant);
        assert_eq!(grant.action.as_deref(), Some("plugin grant"));
        assert_eq!(grant.plugin.as_deref(), Some("greeter"));
        assert_eq!(grant.capability.as_deref(), Some("file:read=/a env:read=B"));
        assert!(grant.context.is_empty(), "{grant:?}");
        let trust = of("orchestrator trust add release --level 3 --names a,b").unwrap();
        assert_eq!(trust.key.as_deref(), Some("release"));
        assert_eq!(trust.context["level"], "3");
        let key = of("orchestrator key generate other --no-passphrase").unwrap();
        assert_eq!(key.context["options"], "no-passphrase");
        assert_eq!(key.context.len(), 1, "{key:?}");
        assert_eq!(of("orchestrator plugin list"), None);
        assert_eq!(of("orchestrator trust list"), None);
        assert_eq!(of("orchestrator plugin grant"), None);
    }

    #[test]
    fn what_only_looks_or_proposes_is_not_recorded() {
        for (line, looks) in [
            ("key rotate release", "--check r.json"),
            ("plugin gc", "--dry-run"),
            ("plugin lock", "--locked"),
            ("trust add release --level 3 --names a", "--out r.json"),
            ("trust remove release", "--out r.json"),
            ("trust revoke release --reason r", "--out r.json"),
            ("trust rotate release new", "--out r.json"),
        ] {
            let line = format!("orchestrator {line}");
            assert!(of(&line).is_some(), "{line}");
            assert_eq!(of(&format!("{line} {looks}")), None, "{line} {looks}");
        }
        assert_eq!(of("orchestrator plugin limits a"), None);
        let limits = of("orchestrator plugin limits a --memory-mb 9").unwrap();
        assert_eq!(limits.context["memory_mb"], "9");
        // What is locked there is what is installed.
        assert!(of("orchestrator plugin install ./a --locked").is_some());
    }

    #[test]
    fn what_an_address_asks_with_is_not_recorded() {
        let install = of("orchestrator plugin install https://h/a.opkg?X-Amz-Signature=S").unwrap();
        assert_eq!(install.resource.as_deref(), Some("https://h/a.opkg"));
        let install = of("orchestrator plugin install ./a?b").unwrap();
        assert_eq!(install.resource.as_deref(), Some("./a?b"));
        let grant = of("orchestrator plugin grant a file:read=/b?").unwrap();
        assert_eq!(grant.capability.as_deref(), Some("file:read=/b?"));
    }

    #[test]
    fn every_recorded_command_exists() {
        let cli = Cli::command();
        for taking in TAKES_AWAY {
            assert!(
                RECORDED.iter().any(|it| (it.0, it.1) == *taking),
                "{taking:?}"
            );
        }
        for (group, name, _) in RECORDED.iter().chain(REFUSALS) {
            let group = cli.find_subcommand(group).unwrap();
            assert!(group.find_subcommand(name).is_some(), "{name}");
        }
    }
}
