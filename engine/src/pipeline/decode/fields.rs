//! Keys of tables, with the faults that any key can have.

use orchestrator_manifest::located::{Entry, Node, NodeKind};

use crate::pipeline::{
    document::DESCRIPTION_MAX,
    fault::{FAULTS_MAX, Fault, Rule},
    located::{Located, Part},
    words::{listed, pointer, quoted, suggest},
};

/// Faults are gathered up to a few times what is shown, so that the count of
/// the rest means something and a hostile file costs no memory.
const GATHERED_MAX: usize = 10 * FAULTS_MAX;

pub(super) struct Decoder<'a> {
    located: &'a Located,
    faults: Vec<Fault>,
}

/// A table and where it stands.
pub(super) struct Table<'a> {
    entries: &'a [Entry],
    pointer: String,
}

impl<'a> Table<'a> {
    /// The value of a key. A key without a value is as good as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.node.kind, NodeKind::Null)).then_some(&entry.node)
    }

    /// The JSON pointer to a key.
    pub(super) fn at(&self, key: &str) -> String {
        pointer(&self.pointer, key)
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn new(located: &'a Located) -> Self {
        Self {
            located,
            faults: Vec::new(),
        }
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    pub(super) fn fault(
        &mut self,
        at: &str,
        part: Part,
        rule: Rule,
        message: String,
        help: impl Into<String>,
    ) {
        if self.faults.len() < GATHERED_MAX {
            let fault = self.located.fault(at, part, rule, message, help);
            self.faults.push(fault);
        }
    }

    /// Reports a key's value unless `right`; returns `right`.
    pub(super) fn require(
        &mut self,
        right: bool,
        table: &Table<'_>,
        key: &str,
        rule: Rule,
        message_and_help: impl FnOnce() -> (String, String),
    ) -> bool {
        if !right {
            let (message, help) = message_and_help();
            self.fault(&table.at(key), Part::Value, rule, message, help);
        }
        right
    }

    pub(super) fn wrong_type(&mut self, at: &str, node: &Node, wanted: &str) {
        let message = format!("{} where {wanted} belongs", node.type_name());
        let help = format!("write {wanted}");
        self.fault(at, Part::Value, Rule::WrongType, message, help);
    }

    /// Takes a table and reports its unknown keys.
    pub(super) fn table<'n>(
        &mut self,
        node: &'n Node,
        at: &str,
        known: &[&'static str],
    ) -> Option<Table<'n>> {
        let NodeKind::Table(entries) = &node.kind else {
            let wanted = format!("a table with {}", listed(known.iter().copied()));
            self.wrong_type(at, node, &wanted);
            return None;
        };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let message = format!("there is no key {}", quoted(&entry.key));
                let help = suggest(&entry.key, known.iter().copied(), || {
                    format!("the keys are {}", listed(known.iter().copied()))
                });
                let at = pointer(at, &entry.key);
                self.fault(&at, Part::Key, Rule::UnknownKey, message, help);
            }
        }
        Some(Table {
            entries,
            pointer: at.to_owned(),
        })
    }

    /// A table whose keys the author chooses: key, pointer and value of each.
    pub(super) fn entries<'n>(
        &mut self,
        table: &Table<'n>,
        key: &str,
        most: usize,
    ) -> Option<Vec<(&'n str, String, &'n Node)>> {
        let node = table.get(key)?;
        let at = table.at(key);
        let NodeKind::Table(entries) = &node.kind else {
            self.wrong_type(&at, node, "a table");
            return None;
        };
        if entries.len() > most {
            let message = format!("{} entries; at most {most} are allowed", entries.len());
            self.fault(&at, Part::Key, Rule::OutOfBounds, message, "");
        }
        let entries = entries.iter().take(most);
        Some(
            entries
                .map(|entry| (entry.key.as_str(), pointer(&at, &entry.key), &entry.node))
                .collect(),
        )
    }

    pub(super) fn required<'n>(&mut self, table: &Table<'n>, key: &str) -> Option<&'n Node> {
        let node = table.get(key);
        if node.is_none() {
            let message = format!("{} is missing", quoted(key));
            let help = format!("add `{key}: …`");
            self.fault(&table.at(key), Part::Key, Rule::Required, message, help);
        }
        node
    }

    pub(super) fn text(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let node = table.get(key)?;
        match &node.kind {
            NodeKind::String(text) => Some(text.clone()),
            _ => {
                self.wrong_type(&table.at(key), node, "text");
                None
            }
        }
    }

    pub(super) fn required_text(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        self.required(table, key)?;
        let text = self.text(table, key)?;
        self.require(!text.is_empty(), table, key, Rule::Required, || {
            (format!("{} is empty", quoted(key)), String::new())
        })
        .then_some(text)
    }

    pub(super) fn flag(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        let node = table.get(key)?;
        match node.kind {
            NodeKind::Bool(flag) => Some(flag),
            _ => {
                self.wrong_type(&table.at(key), node, "true or false");
                None
            }
        }
    }

    pub(super) fn description(&mut self, table: &Table<'_>) -> Option<String> {
        let text = self.text(table, "description")?;
        let fits = text.len() <= DESCRIPTION_MAX;
        self.require(fits, table, "description", Rule::OutOfBounds, || {
            (
                format!("a description of {} bytes", text.len()),
                format!("use at most {DESCRIPTION_MAX}"),
            )
        })
        .then_some(text)
    }
}
