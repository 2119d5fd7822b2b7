//! `orchestrator trust check`

use jiff::{SignedDuration, Timestamp};
use orchestrator_signing::{Delegation, KeyStatus, NamePattern, TrustLevel, TrustRoot, TrustStore};
use serde::Serialize;
use serde_json::{Value, json};

use super::{change::installed_by, patterns};
use crate::{
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    output::harmless,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many days ahead an end is worth a word
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u16,

    /// Fail when there is anything to say
    #[arg(long)]
    strict: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Severity {
    Warning,
    Problem,
}

/// Something that is wrong, or soon will be.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    /// For programs; never renamed.
    kind: &'static str,
    message: String,
    help: String,
    /// Where a package does not load, its own error.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

impl Finding {
    fn warning(kind: &'static str, message: String, help: &str) -> Self {
        Self {
            severity: Severity::Warning,
            kind,
            message,
            help: help.to_owned(),
            error: None,
        }
    }

    fn problem(kind: &'static str, message: String, help: &str) -> Self {
        Self {
            severity: Severity::Problem,
            ..Self::warning(kind, message, help)
        }
    }
}

impl Args {
    pub(super) fn execute(self, context: &Context, store: &TrustStore) -> Result {
        let root = store.root();
        let (publishers, refused) = installed_by(context, &root)?;
        let installed = publishers.len() + refused.len();
        let now = Timestamp::now();
        let soon = now + SignedDuration::from_hours(24 * i64::from(self.days));
        let mut findings = of_root(&root, soon);
        if root.version() > 0 && root.expires().is_none() && !store.signs_its_own_root() {
            findings.push(Finding::warning(
                "root_never_expires",
                "the trust root has no end: a host that is kept from newer ones does not notice"
                    .to_owned(),
                "give the next one an end with `orchestrator trust propose --expires TIME`",
            ));
        }
        for delegation in root.delegations() {
            findings.extend(of_key(delegation, now, soon));
            findings.extend(of_threshold(delegation, root.delegations(), now));
            findings.extend(of_undercut(delegation, root.delegations(), now));
            let id = delegation.key.id().to_string();
            if delegation.status == KeyStatus::Active && !publishers.contains(&id) {
                let name = delegation.key.name();
                findings.push(Finding::warning(
                    "key_unused",
                    format!("no installed plugin needs the key {name}"),
                    "if nothing is to come from it, `orchestrator trust remove` it",
                ));
            }
        }
        findings.extend(refused.into_iter().map(|it| {
            let message = it.error["message"].as_str().unwrap_or_default();
            let help = it.error["help"].as_str().unwrap_or_default();
            Finding {
                error: Some(it.error.clone()),
                ..Finding::problem("does_not_load", format!("{}: {message}", it.plugin), help)
            }
        }));
        show(context, &root, installed, &findings)?;
        let is_problem = |finding: &Finding| finding.severity == Severity::Problem;
        match (findings.iter().any(is_problem), findings.is_empty()) {
            (true, _) => Err(Failure::silent(Exit::Trust)),
            (false, false) if self.strict => Err(Failure::silent(Exit::Failed)),
            _ => Ok(()),
        }
    }
}

fn of_root(root: &TrustRoot, soon: Timestamp) -> Vec<Finding> {
    const UPDATE: &str = "apply a newer root with `orchestrator trust update`";
    let mut findings = Vec::new();
    let has_expired = root.check_not_expired();
    if let (Ok(()), Some(end)) = (&has_expired, root.expires().filter(|end| *end < soon)) {
        let message = format!("the trust root expires on {end}");
        findings.push(Finding::warning("root_expires_soon", message, UPDATE));
    }
    if let Err(expired) = &has_expired {
        let message = expired.to_string();
        findings.push(Finding::problem("root_expired", message, UPDATE));
    }
    // The one that tells of the end comes first, if any does.
    for warning in root
        .warnings()
        .into_iter()
        .skip(usize::from(has_expired.is_err()))
    {
        findings.push(Finding::warning("clock", warning, "set this host's clock"));
    }
    let keys = root.root_keys().len();
    if root.root_threshold() == 1 && keys > 1 {
        findings.push(Finding::warning(
            "weak_threshold",
            format!("any one of {keys} root keys decides alone whom this host trusts"),
            "raise it with `orchestrator trust propose --threshold 2 --out FILE`",
        ));
    }
    findings
}

fn of_key(delegation: &Delegation, now: Timestamp, soon: Timestamp) -> Option<Finding> {
    let end = delegation.not_after.filter(|end| *end < soon)?;
    if delegation.status != KeyStatus::Active {
        return None;
    }
    let name = delegation.key.name();
    let (kind, message) = match end < now {
        true => (
            "key_expired",
            format!("the key {name} has expired on {end}"),
        ),
        false => (
            "key_expires_soon",
            format!("the key {name} expires on {end}"),
        ),
    };
    let help = "what is installed goes on loading; `orchestrator trust rotate` names a successor";
    Some(Finding::warning(kind, message, help))
}

/// Whether a key signs new releases.
fn signs(delegation: &Delegation, now: Timestamp) -> bool {
    delegation.status == KeyStatus::Active && delegation.not_after.is_none_or(|end| end >= now)
}

fn of_threshold(delegation: &Delegation, all: &[Delegation], now: Timestamp) -> Option<Finding> {
    if !signs(delegation, now) {
        return None;
    }
    let name = delegation.key.name();
    let able = |pattern: &NamePattern| {
        let counts = |it: &&Delegation| {
            signs(it, now) && it.trust_level >= delegation.trust_level && it.covers(pattern)
        };
        all.iter().filter(counts).count()
    };
    let need = delegation.threshold;
    let short = delegation
        .names
        .iter()
        .map(|pattern| (pattern, able(pattern)));
    let mut short = short.filter(|(_, able)| *able < need as usize);
    if let Some((pattern, able)) = short.next() {
        return Some(Finding::problem(
            "threshold_unreachable",
            format!(
                "{need} keys as trusted as {name} have to sign {pattern}, and there are {able}"
            ),
            "add keys, or lower the threshold with `orchestrator trust add --replace`",
        ));
    }
    let is_everything = patterns(delegation).split(", ").any(|it| it == "*");
    let is_weak = delegation.threshold == 1 && delegation.trust_level == TrustLevel::Internal;
    (is_everything && is_weak).then(|| {
        Finding::warning(
            "weak_threshold",
            format!("the key {name} alone may sign every plugin at the highest level"),
            "name what it signs with `orchestrator trust add --names … --replace`",
        )
    })
}

/// A key that needs fewer others beside it, for some of the same names and at least
/// as much trust: whoever has it need not mind the threshold.
fn of_undercut(delegation: &Delegation, all: &[Delegation], now: Timestamp) -> Option<Finding> {
    let undercuts = |it: &&Delegation| {
        signs(it, now)
            && it.threshold < delegation.threshold
            && it.trust_level >= delegation.trust_level
            && it.overlaps(delegation)
    };
    let other = all
        .iter()
        .find(undercuts)
        .filter(|_| signs(delegation, now))?;
    let (name, other_name) = (delegation.key.name(), other.key.name());
    let (need, enough) = (delegation.threshold, other.threshold);
    Some(Finding::warning(
        "threshold_undercut",
        format!(
            "{need} keys have to sign with {name}, and {enough} with {other_name} for the same names ({}; {})",
            patterns(delegation),
            patterns(other)
        ),
        "give both the same threshold, or other names, with `orchestrator trust add --replace`",
    ))
}

fn show(context: &Context, root: &TrustRoot, installed: usize, findings: &[Finding]) -> Result {
    let value = json!({
        "version": root.version(),
        "installed": installed,
        "findings": findings,
    });
    context.out.show(&value, |_| {
        if findings.is_empty() {
            return format!("nothing to say of {installed} installed plugins\n");
        }
        let lines = findings.iter().map(|finding| {
            let severity = match finding.severity {
                Severity::Warning => "warning",
                Severity::Problem => "problem",
            };
            let code = finding.error.as_ref().and_then(|it| it["code"].as_str());
            let code = code.map_or_else(String::new, |code| format!("{code}: "));
            let (message, help) = (harmless(&finding.message), harmless(&finding.help));
            format!("{severity}: {code}{message}\n  help: {help}\n")
        });
        lines.collect()
    })
}
