//! `orchestrator key show`

use std::fmt::Write as _;

use orchestrator_signing::{Kdf, KeyFacts, PublicKey, TrustStore};
use serde_json::{Value, json};

use crate::{context::Context, failure::Result, output::harmless};

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// A key of this home, or a public key file
    key: String,
}

impl Show {
    pub(super) fn execute(self, context: &Context) -> Result {
        let path = super::secret_file(context, &self.key)?;
        let is_secret = path.symlink_metadata().is_ok() && !super::is_file(&self.key, "pub");
        let facts = match is_secret {
            true => Some(KeyFacts::read_file(&path)?),
            false => None,
        };
        let public = match &facts {
            Some(facts) => facts.public.clone(),
            None => super::public(context, &self.key)?,
        };
        let mut value = json!({
            "name": public.name(),
            "key_id": public.id(),
            "fingerprint": public.fingerprint(),
            "minisign_id": public.minisign_id().to_string(),
            "public": public.to_line(),
            "has_secret": is_secret,
            "trust": trust(context, &public)?,
        });
        if let Some(facts) = &facts {
            value["secret_file"] = path.display().to_string().into();
            value["protection"] = protection(facts.kdf);
            value["created"] = json!(facts.created.map(|at| at.to_string()));
            value["comment"] = json!(facts.comment);
            value["revoked"] = json!(facts.revoked);
        }
        context
            .out
            .show(&value, |value| text(value, facts.as_ref()))
    }
}

fn protection(kdf: Option<Kdf>) -> Value {
    match kdf {
        None => json!({ "kind": "none" }),
        Some(kdf) => json!({
            "kind": "passphrase",
            "kdf": "argon2id",
            "memory_kib": kdf.memory_kib,
            "passes": kdf.passes,
            "lanes": kdf.lanes,
        }),
    }
}

/// What this home's trust root says about the key; null when it does not.
fn trust(context: &Context, key: &PublicKey) -> Result<Value> {
    let store = TrustStore::open(&context.home()?.trust())?;
    let mut all = store.list().iter();
    let found = all.find(|delegation| delegation.key.id() == key.id());
    Ok(found.map_or(Value::Null, |delegation| {
        json!({
            "name": delegation.key.name(),
            "status": delegation.status,
            "level": delegation.trust_level,
            "names": delegation.names,
        })
    }))
}

fn text(value: &Value, facts: Option<&KeyFacts>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12} {}", harmless(value));
    };
    let of = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    line("name", &of("name"));
    line("key", &of("key_id"));
    line("fingerprint", &of("fingerprint"));
    line("minisign", &of("minisign_id"));
    match facts {
        None => line("secret", "elsewhere"),
        Some(facts) => {
            line("secret", &of("secret_file"));
            let protection = match facts.kdf {
                None => "none: whoever reads the file can sign".to_owned(),
                Some(kdf) => format!(
                    "passphrase, argon2id with {} MiB, {} passes, {} lanes",
                    kdf.memory_kib / 1024,
                    kdf.passes,
                    kdf.lanes
                ),
            };
            line("protection", &protection);
            if let Some(at) = facts.created {
                line("created", &at.to_string());
            }
            if let Some(comment) = &facts.comment {
                line("comment", comment);
            }
            if let Some(revoked) = &facts.revoked {
                line("revoked", &format!("at {}: {}", revoked.at, revoked.reason));
            }
        }
    }
    let trust = &value["trust"];
    let words = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let names: Vec<_> = trust["names"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = names.into_iter().map(words).collect();
    match trust.is_null() {
        true => line("trust here", "not trusted"),
        false => line(
            "trust here",
            &format!(
                "{} at level {} for {}",
                words(&trust["status"]),
                words(&trust["level"]),
                names.join(", ")
            ),
        ),
    }
    line("public", &of("public"));
    text
}
