//! Which plugins need which others, and in what order they start.

use std::collections::{BTreeMap, BTreeSet};

use miette::Diagnostic as _;
use semver::{Version, VersionReq};

use orchestrator_manifest::Channel;

use crate::{channel::distance, error::LoadError, search_path::Place};

/// A plugin as far as dependencies go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) version: Version,
}

/// What a plugin that can be used needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// Where the plugin itself was found.
    pub(crate) place: Place,
    /// Whom its publisher means it for.
    pub(crate) channel: Channel,
    /// Ids and the versions that will do.
    pub(crate) plugins: Vec<(String, VersionReq)>,
}

/// What counts when several versions of a plugin match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) place: Place,
    /// Whether it is what it claims to be.
    pub(crate) verified: bool,
    /// Whether it asks for more than the operator has granted to earlier versions.
    pub(crate) waits: bool,
    /// Whom its publisher means it for.
    pub(crate) channel: Channel,
}

/// What dependencies make of a set of plugins.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// Plugins that can start, dependencies first; the order depends on nothing but
    /// the input.
    pub(crate) order: Vec<Identity>,
    /// The plugins that each of them needs.
    pub(crate) needs: BTreeMap<Identity, Vec<Identity>>,
    /// Plugins that cannot start.
    pub(crate) refused: Vec<(Identity, LoadError)>,
}

/// The version of `id` in `plugins` that answers to `range`: of the first place of
/// the search path with a match, the highest match.
///
/// A match that is not verified may claim anything, so it keeps other versions of
/// its own place from being taken, and nothing else: the next place is asked. Only
/// development places are not asked for what was installed and cannot be verified.
/// When no place has a verified highest match, the first one decides.
///
/// Of a place's verified matches only those count that are nearest to the channel that
/// was `asked` for. What is not verified counts whatever it claims, or a channel
/// written into a broken release would bring an older one back.
///
/// A match that waits for a grant leaves its place to the next one that does not,
/// if that is verified: an upgrade that asks for more does not stop what ran before.
pub(crate) fn select<'a, T>(
    plugins: &'a BTreeMap<Identity, T>,
    id: &str,
    range: &VersionReq,
    asked: Option<Channel>,
    standing: impl Fn(&T) -> Standing,
) -> Option<(&'a Identity, &'a T)> {
    let place = |it: &(&Identity, &T)| standing(it.1).place;
    let mut matching: Vec<_> = plugins
        .iter()
        .rev()
        .filter(|(plugin, _)| plugin.id == id && range.matches(&plugin.version))
        .collect();
    // Keeps the highest version first within each place.
    matching.sort_by_key(place);
    let ready = |it: &&(&Identity, &T)| !standing(it.1).waits;
    let away = |it: &(&Identity, &T)| distance(standing(it.1).channel, asked);
    let of_place = |matches: &[(&'a Identity, &'a T)]| {
        let verified = matches.iter().filter(|it| standing(it.1).verified);
        let nearest = verified.map(away).min();
        let counts = |it: &&(&Identity, &T)| !standing(it.1).verified || Some(away(it)) == nearest;
        let matches: Vec<_> = matches.iter().filter(counts).copied().collect();
        let next = matches.iter().find(ready);
        let next = next.filter(|it| standing(it.1).verified);
        next.or(matches.first()).copied()
    };
    let same_place = |one: &_, other: &_| place(one) == place(other);
    let matching: Vec<_> = matching.chunk_by(same_place).filter_map(of_place).collect();
    let first = *matching.first()?;
    let may_replace = |it: &(&Identity, &T)| {
        place(it).development == place(&first).development && standing(it.1).verified
    };
    Some(matching.into_iter().find(may_replace).unwrap_or(first))
}

/// [`select`] among plugins that can be used.
fn usable<'a>(
    plugins: &'a BTreeMap<Identity, Needs>,
    id: &str,
    range: &VersionReq,
) -> Option<&'a Identity> {
    let standing = |needs: &Needs| Standing {
        place: needs.place,
        verified: true,
        waits: false,
        channel: needs.channel,
    };
    select(plugins, id, range, None, standing).map(|(plugin, _)| plugin)
}

/// Finds for every plugin the ones it needs. `unusable` holds plugins that were
/// found but not loaded, with code and reason.
pub(crate) fn resolve(
    mut plugins: BTreeMap<Identity, Needs>,
    mut unusable: BTreeMap<Identity, (String, String)>,
) -> Resolution {
    let mut resolution = Resolution::default();
    // A refusal may take away what another plugin needs, so until nothing changes.
    loop {
        let mut refused: Vec<_> = plugins
            .iter()
            .filter_map(|(plugin, needs)| {
                let error = needs
                    .plugins
                    .iter()
                    .find_map(|(id, range)| unmet(&plugins, &unusable, id, range))?;
                Some((plugin.clone(), error))
            })
            .collect();
        if refused.is_empty() {
            refused = cycles(&plugins);
        }
        if refused.is_empty() {
            break;
        }
        for (plugin, error) in refused {
            plugins.remove(&plugin);
            let code = error
                .code()
                .map_or_else(String::new, |code| code.to_string());
            unusable.insert(plugin.clone(), (code, error.to_string()));
            resolution.refused.push((plugin, error));
        }
    }
    for plugin in plugins.keys() {
        let needs = needs_of(&plugins, plugin);
        resolution.needs.insert(plugin.clone(), needs);
    }
    resolution.order = sorted(&resolution.needs);
    resolution
}

fn unmet(
    plugins: &BTreeMap<Identity, Needs>,
    unusable: &BTreeMap<Identity, (String, String)>,
    id: &str,
    range: &VersionReq,
) -> Option<LoadError> {
    if usable(plugins, id, range).is_some() {
        return None;
    }
    let dependency = id.to_owned();
    let mut refused = unusable.iter().rev();
    let refused = refused.find(|(plugin, _)| plugin.id == id && range.matches(&plugin.version));
    if let Some((_, (code, reason))) = refused {
        let (code, reason) = (code.clone(), reason.clone());
        return Some(LoadError::DependencyUnusable {
            dependency,
            code,
            reason,
        });
    }
    let available: Vec<_> = plugins
        .keys()
        .chain(unusable.keys())
        .filter(|plugin| plugin.id == id)
        .map(|plugin| plugin.version.clone())
        .collect();
    if available.is_empty() {
        return Some(LoadError::MissingDependency { dependency });
    }
    let range = range.clone();
    Some(LoadError::DependencyOutOfRange {
        dependency,
        range,
        available,
    })
}

fn needs_of(plugins: &BTreeMap<Identity, Needs>, plugin: &Identity) -> Vec<Identity> {
    plugins[plugin]
        .plugins
        .iter()
        .filter_map(|(id, range)| usable(plugins, id, range))
        .cloned()
        .collect()
}

/// Every plugin that lies on a cycle, with the cycle as a path from itself to itself.
fn cycles(plugins: &BTreeMap<Identity, Needs>) -> Vec<(Identity, LoadError)> {
    plugins
        .keys()
        .filter_map(|plugin| {
            let path = way_back(plugins, plugin)?;
            Some((plugin.clone(), LoadError::DependencyCycle { path }))
        })
        .collect()
}

/// The shortest way from `start` over its needs back to `start`.
fn way_back(plugins: &BTreeMap<Identity, Needs>, start: &Identity) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<Identity, Identity> = BTreeMap::new();
    let mut reached = BTreeSet::new();
    let mut front = vec![start.clone()];
    while !front.is_empty() {
        let mut next = Vec::new();
        for plugin in front {
            for needed in needs_of(plugins, &plugin) {
                if needed == *start {
                    return Some(path_to(&came_from, start, plugin));
                }
                if reached.insert(needed.clone()) {
                    came_from.insert(needed.clone(), plugin.clone());
                    next.push(needed);
                }
            }
        }
        front = next;
    }
    None
}

fn path_to(
    came_from: &BTreeMap<Identity, Identity>,
    start: &Identity,
    last: Identity,
) -> Vec<String> {
    let mut path = vec![start.id.clone()];
    let mut at = last;
    while at != *start {
        path.push(at.id.clone());
        at = came_from[&at].clone();
    }
    path.push(start.id.clone());
    path.reverse();
    path
}

/// Dependencies before dependants; among equals the smaller identity first.
fn sorted(needs: &BTreeMap<Identity, Vec<Identity>>) -> Vec<Identity> {
    let mut order = Vec::with_capacity(needs.len());
    let mut done = BTreeSet::new();
    while order.len() < needs.len() {
        let ready: Vec<_> = needs
            .iter()
            .filter(|(plugin, needed)| {
                !done.contains(*plugin) && needed.iter().all(|needed| done.contains(needed))
            })
            .map(|(plugin, _)| plugin.clone())
            .collect();
        // There is no cycle, so something is always ready.
        if ready.is_empty() {
            break;
        }
        done.extend(ready.iter().cloned());
        order.extend(ready);
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(id: &str, version: &str) -> Identity {
        Identity {
            id: id.to_owned(),
            version: version.parse().unwrap(),
        }
    }

    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

    fn plugins(list: &[Row<'_>]) -> BTreeMap<Identity, Needs> {
        list.iter()
            .map(|(id, version, needs)| {
                let needs = needs
                    .iter()
                    .map(|(id, range)| ((*id).to_owned(), range.parse().unwrap()));
                let needs = Needs {
                    plugins: needs.collect(),
                    ..Needs::default()
                };
                (identity(id, version), needs)
            })
            .collect()
    }

    fn refused(resolution: &Resolution) -> Vec<String> {
        let mut shown: Vec<_> = resolution
            .refused
            .iter()
            .map(|(plugin, error)| format!("{}: {error}", plugin.id))
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn dependencies_come_first_and_the_highest_match_is_taken() {
        let set = plugins(&[
            ("app", "1.0.0", &[("lib", "^1"), ("base", "*")]),
            ("lib", "1.0.0", &[]),
            ("lib", "1.5.0", &[("base", "^2")]),
            ("lib", "2.0.0", &[]),
            ("base", "2.1.0", &[]),
        ]);
        let resolution = resolve(set, BTreeMap::new());
        assert!(resolution.refused.is_empty());
        let needs = &resolution.needs[&identity("app", "1.0.0")];
        assert_eq!(
            needs,
            &[identity("lib", "1.5.0"), identity("base", "2.1.0")]
        );
        let place = |plugin| resolution.order.iter().position(|at| *at == plugin);
        assert!(place(identity("base", "2.1.0")) < place(identity("lib", "1.5.0")));
        assert!(place(identity("lib", "1.5.0")) < place(identity("app", "1.0.0")));
    }

    #[test]
    fn what_is_missing_out_of_range_or_unusable_is_named_and_passed_on() {
        let set = plugins(&[
            ("a", "1.0.0", &[("gone", "*")]),
            ("b", "1.0.0", &[("a", "*")]),
            ("c", "1.0.0", &[("d", "^2")]),
            ("d", "1.0.0", &[]),
            ("e", "1.0.0", &[("bad", "*")]),
        ]);
        let bad = (
            identity("bad", "1.0.0"),
            ("ORC-2001".to_owned(), "unsigned".to_owned()),
        );
        let resolution = resolve(set, BTreeMap::from([bad]));
        assert_eq!(
            refused(&resolution),
            [
                "a: it depends on gone, which is not there",
                "b: it depends on a, which is not usable: it depends on gone, which is not there",
                "c: it depends on d ^2, and there is 1.0.0",
                "e: it depends on bad, which is not usable: unsigned",
            ]
        );
        assert_eq!(resolution.order, [identity("d", "1.0.0")]);
    }

    #[test]
    fn a_cycle_is_named_as_a_path_and_others_go_on() {
        let set = plugins(&[
            ("a", "1.0.0", &[("b", "*")]),
            ("b", "1.0.0", &[("c", "*")]),
            ("c", "1.0.0", &[("a", "*")]),
            ("self", "1.0.0", &[("self", "*")]),
            ("user", "1.0.0", &[("a", "*")]),
            ("other", "1.0.0", &[]),
        ]);
        let resolution = resolve(set, BTreeMap::new());
        let shown = refused(&resolution);
        assert_eq!(shown[0], "a: dependency cycle detected: a -> b -> c -> a");
        assert_eq!(shown[1], "b: dependency cycle detected: b -> c -> a -> b");
        assert_eq!(shown[3], "self: dependency cycle detected: self -> self");
        assert!(shown[4].starts_with("user: it depends on a, which is not usable"));
        assert_eq!(resolution.order, [identity("other", "1.0.0")]);
    }

    /// Rows of version, development, position and whether it is verified.
    fn selected(rows: &[(&str, bool, usize, bool)], range: &str) -> String {
        let rows = rows
            .iter()
            .map(|(version, development, position, verified)| {
                let standing = Standing {
                    place: Place {
                        development: *development,
                        position: *position,
                    },
                    verified: *verified,
                    waits: false,
                    channel: Channel::Stable,
                };
                (identity("p", version), standing)
            });
        let rows: BTreeMap<_, _> = rows.collect();
        let found = select(&rows, "p", &range.parse().unwrap(), None, |it| *it);
        found.unwrap().0.version.to_string()
    }

    #[test]
    fn what_is_not_verified_blocks_only_its_own_place() {
        let rows = [
            ("9.0.0", true, 9, false),
            ("8.0.0", false, 3, false),
            ("1.0.0", false, 2, true),
            ("1.5.0", false, 2, true),
        ];
        assert_eq!(selected(&rows, "*"), "1.5.0");
        assert_eq!(selected(&rows, "=9.0.0"), "9.0.0");
        let tampered = [
            ("2.0.0", false, 2, false),
            ("1.0.0", false, 2, true),
            ("1.5.0", true, 9, true),
        ];
        assert_eq!(selected(&tampered, "*"), "2.0.0");
        assert_eq!(selected(&tampered, "=1.0.0"), "1.0.0");
        let later = [("2.0.0", false, 1, false), ("1.0.0", false, 2, true)];
        assert_eq!(selected(&later, "*"), "1.0.0");
    }

    #[test]
    fn the_search_path_decides_between_places() {
        let rows = [("1.0.0", false, 2, true), ("2.0.0", true, 8, true)];
        assert_eq!(selected(&rows, "*"), "1.0.0");
        assert_eq!(selected(&rows, "^2"), "2.0.0");
        let among_development = [("9.0.0", true, 8, false), ("1.0.0", true, 9, true)];
        assert_eq!(selected(&among_development, "*"), "1.0.0");
    }

    /// Rows of version, channel and whether it is verified.
    fn of_channels(rows: &[(&str, Channel, bool)], range: &str, asked: Option<Channel>) -> String {
        let rows = rows.iter().map(|(version, channel, verified)| {
            let standing = Standing {
                place: Place::default(),
                verified: *verified,
                waits: false,
                channel: *channel,
            };
            (identity("p", version), standing)
        });
        let rows: BTreeMap<_, _> = rows.collect();
        let found = select(&rows, "p", &range.parse().unwrap(), asked, |it| *it);
        found.unwrap().0.version.to_string()
    }

    #[test]
    fn stable_is_meant_unless_a_channel_or_a_version_is_asked_for() {
        use Channel::{Beta, Deprecated, Stable};
        let mut rows = vec![
            ("1.0.0", Deprecated, true),
            ("1.5.0", Stable, true),
            ("2.0.0", Beta, true),
        ];
        assert_eq!(of_channels(&rows, "*", None), "1.5.0");
        assert_eq!(of_channels(&rows, "*", Some(Beta)), "2.0.0");
        assert_eq!(of_channels(&rows, "*", Some(Deprecated)), "1.0.0");
        assert_eq!(of_channels(&rows, "=1.0.0", None), "1.0.0");
        assert_eq!(of_channels(&rows, "^2", None), "2.0.0");
        assert_eq!(of_channels(&rows, "<1.5", Some(Beta)), "1.0.0");
        rows.push(("2.1.0", Stable, true));
        assert_eq!(of_channels(&rows, "*", Some(Beta)), "2.1.0");
        // Whatever it claims to be, what does not verify is not passed over.
        rows.push(("2.2.0", Beta, false));
        assert_eq!(of_channels(&rows, "*", None), "2.2.0");
    }

    proptest! {
        /// Edges lead to smaller numbers only, so there is no cycle: everything is
        /// ordered, dependencies first.
        #[test]
        fn random_graphs_without_cycles_are_ordered(
            edges in proptest::collection::vec((1usize..12, 0usize..12), 0..40)
        ) {
            let name = |number: usize| format!("p{number:02}");
            let mut set: BTreeMap<Identity, Needs> =
                (0..12).map(|number| (identity(&name(number), "1.0.0"), Needs::default())).collect();
            for (from, to) in edges {
                let needs = set.get_mut(&identity(&name(from), "1.0.0")).unwrap();
                needs.plugins.push((name(to % from), VersionReq::STAR));
            }
            let resolution = resolve(set, BTreeMap::new());
            prop_assert_eq!(resolution.order.len(), 12);
            for (plugin, needs) in &resolution.needs {
                let place = |of| resolution.order.iter().position(|at| at == of);
                prop_assert!(needs.iter().all(|needed| place(needed) < place(plugin)));
            }
        }
    }
}
