//! From what operators grant to what the kernel is told, and who holds a plugin to which.

use std::ffi::OsString;

use orchestrator_manifest::{Capability, Destination, Scope, Token};
use orchestrator_sandbox::{Grants, Layer, Layers, Network};

/// What the kernel shall allow a plugin.
#[derive(Clone)]
pub(super) struct Allowed {
    pub(super) grants: Grants,
    pub(super) reach: Reach,
}

/// What of the network a plugin reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Nothing,
    /// These, by the proxy.
    Granted(Vec<Destination>),
    /// Everything, which was granted.
    Everything,
    /// Everything, though less was granted.
    MoreThanGranted,
}

/// Who holds a plugin to one of its grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Kernel,
    /// It has only what the host gives it.
    Host,
    /// The plugin could do more.
    Nobody,
}

impl Allowed {
    /// Adds `capabilities` to what a program `needs`.
    pub(super) fn new(needs: Grants, capabilities: &[Capability]) -> Self {
        let reach = reach(capabilities);
        let grants = needs.network(match reach {
            Reach::Nothing => Network::None,
            Reach::Granted(_) => Network::Gateway,
            Reach::Everything | Reach::MoreThanGranted => Network::Unrestricted,
        });
        let add = |grants: Grants, capability: &Capability| {
            match (capability.token(), capability.path()) {
                (Token::FileRead, Some(path)) => grants.read(path),
                (Token::FileWrite, Some(path)) => grants.write(path),
                (Token::ProcessSpawn, Some(path)) => grants.execute(path),
                (Token::ProcessSpawn, None) => grants.execute_anything(),
                (Token::SystemInfo, _) => grants.system_information(),
                // The network is above; the host gives the others, or keeps them.
                _ => grants,
            }
        };
        Self {
            grants: capabilities.iter().fold(grants, add),
            reach,
        }
    }

    /// The same on a host that has no network to give which is not its own.
    pub(super) fn without_proxy(self) -> Self {
        Self {
            grants: self.grants.network(Network::Unrestricted),
            reach: Reach::MoreThanGranted,
        }
    }
}

fn reach(capabilities: &[Capability]) -> Reach {
    let granted: Vec<_> = capabilities
        .iter()
        .filter_map(destination)
        .cloned()
        .collect();
    match () {
        () if granted.is_empty() => Reach::Nothing,
        () if granted.iter().any(Destination::is_everything) => Reach::Everything,
        () => Reach::Granted(granted),
    }
}

/// Who holds a plugin to `capability` while `layers` are in force.
pub(super) fn holder(capability: &Capability, layers: Layers) -> Holder {
    let files = layers.contains(Layer::Landlock) || layers.contains(Layer::Root);
    let calls = layers.contains(Layer::Seccomp);
    let (holds, who) = match capability.token() {
        Token::FileRead | Token::FileWrite => (files, Holder::Kernel),
        // A filter of system calls sees no path, and no path tells of files in memory.
        Token::ProcessSpawn => (files && calls, Holder::Kernel),
        // Without a network of its own it has the host's, whatever was granted of that.
        Token::NetworkAccess if is_whole_network(capability) => (calls, Holder::Kernel),
        Token::NetworkAccess => (layers.contains(Layer::Network), Holder::Kernel),
        Token::SystemInfo => (calls, Holder::Kernel),
        // Whoever reads the host's files or its `/proc` needs not ask the host.
        _ => (files, Holder::Host),
    };
    if holds { who } else { Holder::Nobody }
}

/// Those of the host's environment that were granted and are set.
pub(super) fn variables(capabilities: &[Capability]) -> Vec<(String, OsString)> {
    let granted = capabilities.iter().filter_map(Capability::scope);
    let granted = granted.filter_map(|scope| match scope {
        Scope::Variable(name) => Some((name.clone(), std::env::var_os(name)?)),
        _ => None,
    });
    granted.collect()
}

fn is_whole_network(capability: &Capability) -> bool {
    destination(capability).is_some_and(Destination::is_everything)
}

fn destination(capability: &Capability) -> Option<&Destination> {
    match capability.scope() {
        Some(Scope::Host(destination)) => Some(destination),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(texts: &[&str]) -> Vec<Capability> {
        let parse = |text: &&str| Capability::parse_grant(text).unwrap();
        texts.iter().map(parse).collect()
    }

    fn reached(texts: &[&str]) -> Reach {
        reach(&granted(texts))
    }

    #[test]
    fn what_is_reached_is_what_was_granted() {
        assert_eq!(reached(&["file:read=/usr"]), Reach::Nothing);
        assert_eq!(reached(&["network:access=*:*"]), Reach::Everything);
        for part in [
            "api.example.com:443",
            "*:443",
            "*.example.com:*",
            "192.0.2.1:*",
            "10.0.0.0/8:8000-8099",
            "[2001:db8::1]:80",
        ] {
            let grant = format!("network:access={part}");
            let destination = part.parse().unwrap();
            assert_eq!(reached(&[&grant]), Reach::Granted(vec![destination]));
            let both = [&*grant, "network:access=*:*"];
            assert_eq!(reached(&both), Reach::Everything);
        }
    }

    #[test]
    fn nobody_holds_a_plugin_to_anything_without_layers() {
        let all = [
            "file:read=/data",
            "file:write=/data",
            "process:spawn=/bin/sh",
            "network:access=*:*",
            "system:info",
            "env:read=NAME",
            "storage:read",
            "event:publish=a.*",
        ];
        use Holder::{Host, Kernel, Nobody};
        let filters = [Kernel, Kernel, Kernel, Kernel, Kernel, Host, Host, Host];
        let landlock = Layers::NONE.with(Layer::Landlock);
        let files = [Kernel, Kernel, Nobody, Nobody, Nobody, Host, Host, Host];
        for (layers, expected) in [
            (Layers::NONE, [Nobody; 8]),
            (Layers::NONE.with(Layer::Processes), [Nobody; 8]),
            (landlock, files),
            (Layers::NONE.with(Layer::Root), files),
            (Layers::FILTERS, filters),
            (Layers::ALL, filters),
        ] {
            let holders = granted(&all);
            let holders: Vec<_> = holders.iter().map(|it| holder(it, layers)).collect();
            assert_eq!(holders, expected, "{layers:?}");
        }
        let part = granted(&["network:access=api.example.com:443"]);
        assert_eq!(holder(&part[0], Layers::ALL), Kernel);
        assert_eq!(holder(&part[0], Layers::FILTERS), Nobody);
    }

    #[test]
    fn of_the_environment_only_what_was_granted_and_is_set() {
        let granted = granted(&["env:read=PATH", "env:read=ORCHESTRATOR_NOT_SET_ANYWHERE"]);
        let names: Vec<_> = variables(&granted).into_iter().map(|it| it.0).collect();
        assert_eq!(names, ["PATH"]);
    }
}
