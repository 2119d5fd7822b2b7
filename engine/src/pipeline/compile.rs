//! From a [`Document`] to steps in order, with every fault found on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use orchestrator_contract::{PhaseName, PluginId, StepId};
use orchestrator_manifest::parse_duration;
use serde_json::Value;

use super::{
    Output,
    decode::plugin_and_releases,
    document::{Document, FallbackDocument, StepDocument},
    error::EvalError,
    expression::{Expression, ExpressionFault, StepRef},
    fault::{Fault, Rule},
    graph,
    interpolate::{self, Finder, InputExpr, Place},
    located::{Located, Part},
    scope::Scope,
    step::{Condition, FallbackSpec, Releases, StepSpec},
    words::{listed, pointer, quoted, suggest},
};

/// An output that is ready to be evaluated.
#[derive(Clone, Debug)]
pub(crate) struct OutputSpec {
    pub(super) name: String,
    pub(super) from: InputExpr,
    pub(crate) primary: bool,
    pub(crate) description: Option<String>,
}

impl OutputSpec {
    /// `None` when it is the output of a step that has none.
    pub(super) fn evaluate(&self, scope: &Scope) -> Result<Option<Output>, EvalError> {
        let place = format!("output `{}`: /from", self.name);
        let payload = self.from.evaluate_file(scope, &place)?;
        Ok(payload.map(|payload| Output {
            name: self.name.clone(),
            payload,
            primary: self.primary,
            description: self.description.clone(),
        }))
    }
}

/// Steps in an order in which they can run, and what depends on what.
#[derive(Clone, Debug, Default)]
pub(super) struct Compiled {
    pub(super) steps: Vec<StepSpec>,
    pub(super) dependencies: Vec<Vec<usize>>,
    pub(super) dependents: Vec<Vec<usize>>,
    pub(super) outputs: Vec<OutputSpec>,
}

pub(super) fn compile(document: &Document, located: &Located) -> (Compiled, Vec<Fault>) {
    let mut compiler = Compiler::new(document, located);
    let steps: Vec<_> = document
        .steps
        .iter()
        .enumerate()
        .map(|(position, step)| compiler.step(position, step))
        .collect();
    let outputs = document
        .outputs
        .iter()
        .map(|(name, output)| OutputSpec {
            name: name.clone(),
            from: compiler.value(&output.from, &format!("{}/from", pointer("/outputs", name))),
            primary: output.primary,
            description: output.description.clone(),
        })
        .collect();
    let order = match graph::order(&compiler.dependencies) {
        Ok(order) => order,
        Err(cycles) => {
            compiler.report(&cycles);
            Vec::new()
        }
    };
    let compiled = if compiler.faults.is_empty() {
        ordered(&steps, outputs, &order, &compiler.dependencies)
    } else {
        Compiled::default()
    };
    (compiled, compiler.faults)
}

/// Puts steps in order and counts from there.
fn ordered(
    steps: &[StepSpec],
    outputs: Vec<OutputSpec>,
    order: &[usize],
    dependencies: &[BTreeSet<usize>],
) -> Compiled {
    let mut place = vec![0; steps.len()];
    for (at, position) in order.iter().enumerate() {
        place[*position] = at;
    }
    let dependencies: Vec<BTreeSet<usize>> = order
        .iter()
        .map(|position| {
            dependencies[*position]
                .iter()
                .map(|needed| place[*needed])
                .collect()
        })
        .collect();
    Compiled {
        steps: order
            .iter()
            .map(|position| steps[*position].clone())
            .collect(),
        dependents: graph::dependents(&dependencies),
        dependencies: dependencies
            .into_iter()
            .map(|needed| needed.into_iter().collect())
            .collect(),
        outputs,
    }
}

struct Compiler<'a> {
    document: &'a Document,
    located: &'a Located,
    /// The position of every step by its id.
    positions: BTreeMap<&'a str, usize>,
    dependencies: Vec<BTreeSet<usize>>,
    /// The step that is being read; `None` for outputs.
    current: Option<usize>,
    faults: Vec<Fault>,
}

impl<'a> Compiler<'a> {
    fn new(document: &'a Document, located: &'a Located) -> Self {
        let mut compiler = Self {
            document,
            located,
            positions: BTreeMap::new(),
            dependencies: vec![BTreeSet::new(); document.steps.len()],
            current: None,
            faults: Vec::new(),
        };
        let named = document.steps.iter().enumerate();
        for (position, step) in named.filter(|(_, step)| !step.id.is_empty()) {
            if compiler.positions.contains_key(step.id.as_str()) {
                let message = format!("another step is called {} already", quoted(&step.id));
                let at = format!("/steps/{position}/id");
                let help = "give one of them another id";
                compiler.fault(&at, Part::Value, Rule::DuplicateStep, message, help);
            } else {
                compiler.positions.insert(&step.id, position);
            }
        }
        compiler
    }

    fn fault(
        &mut self,
        at: &str,
        part: Part,
        rule: Rule,
        message: String,
        help: impl Into<String>,
    ) {
        let fault = self.located.fault(at, part, rule, message, help);
        self.faults.push(fault);
    }

    fn step(&mut self, position: usize, step: &StepDocument) -> StepSpec {
        self.current = Some(position);
        let at = format!("/steps/{position}");
        for (index, needed) in step.needs.iter().enumerate() {
            self.need(needed, &format!("{at}/needs/{index}"), Part::Value);
        }
        // What is wrong with these was reported when they were read.
        let (plugin, releases) = plugin_and_releases(&step.plugin).unwrap_or(("", Releases::ANY));
        let spec = StepSpec {
            id: StepId::new(step.id.as_str()),
            plugin: PluginId::new(plugin),
            releases,
            phase: PhaseName::new(step.phase.as_str()),
            input: self.value(&step.input, &format!("{at}/input")),
            timeout: step.timeout.as_deref().and_then(timeout),
            policy: step.policy.clone(),
            fallback: step
                .fallback
                .as_ref()
                .map(|fallback| self.fallback(fallback, &format!("{at}/fallback/value"))),
            required: step.required,
            when: self.condition(step.when.as_ref(), &format!("{at}/when")),
            position,
        };
        self.current = None;
        spec
    }

    fn value(&mut self, value: &Value, at: &str) -> InputExpr {
        InputExpr::parse(value, at, self)
    }

    fn fallback(&mut self, fallback: &FallbackDocument, at: &str) -> FallbackSpec {
        match fallback {
            FallbackDocument::Value { value } => FallbackSpec::Value(self.value(value, at)),
            FallbackDocument::Phase { plugin, phase } => {
                // What is wrong with it was reported when it was read.
                let (plugin, releases) = plugin_and_releases(plugin).unwrap_or(("", Releases::ANY));
                FallbackSpec::Phase {
                    plugin: PluginId::new(plugin),
                    releases,
                    phase: PhaseName::new(phase.as_str()),
                }
            }
            FallbackDocument::LastGood { .. } => FallbackSpec::LastGood,
        }
    }

    fn condition(&mut self, when: Option<&Value>, at: &str) -> Option<Condition> {
        let text = match when? {
            Value::Bool(fixed) => return Some(Condition::Fixed(*fixed)),
            Value::String(text) => text,
            _ => return None,
        };
        let before = self.faults.len();
        let expression = interpolate::condition(text, at, self);
        if expression.is_none() && self.faults.len() == before {
            let message = "a condition is one expression and nothing else".to_owned();
            let help = format!("write `when: ${{{{ {} }}}}`", text.trim());
            self.fault(at, Part::Value, Rule::WrongType, message, help);
        }
        expression.map(Condition::Expression)
    }

    /// Notes that the current step must wait for `id`.
    fn need(&mut self, id: &str, at: &str, part: Part) {
        // What is no text was reported when it was read.
        if id.is_empty() {
            return;
        }
        match (self.positions.get(id), self.current) {
            (Some(position), Some(current)) if *position == current => {
                let message = format!("step {} waits for itself", quoted(id));
                let help = "a step can use the steps before it alone";
                self.fault(at, part, Rule::Cycle, message, help);
            }
            (Some(position), Some(current)) => {
                self.dependencies[current].insert(*position);
            }
            (Some(_), None) => (),
            (None, _) => {
                let message = format!("there is no step {}", quoted(id));
                let help = suggest(id, self.positions.keys().copied(), || {
                    format!("the steps are {}", listed(self.positions.keys().copied()))
                });
                self.fault(at, part, Rule::UnknownStep, message, help);
            }
        }
    }

    fn report(&mut self, cycles: &[Vec<usize>]) {
        for cycle in cycles {
            let steps = &self.document.steps;
            let mut path: Vec<_> = cycle.iter().map(|step| steps[*step].id.as_str()).collect();
            path.push(path[0]);
            let message = format!("steps wait for each other: {}", path.join(" -> "));
            let at = format!("/steps/{}/id", cycle[0]);
            let help =
                "an arrow leads to a step that uses, or `needs`, the one before it; take one away";
            self.fault(&at, Part::Value, Rule::Cycle, message, help);
        }
    }
}

fn timeout(text: &str) -> Option<Duration> {
    parse_duration(text).ok()
}

impl Finder for Compiler<'_> {
    fn expression(&mut self, place: Place, expression: &Expression) {
        let references = expression.references();
        for StepRef { id, range, .. } in &references.steps {
            let part = Part::Expression(place.number, range.start, range.end);
            self.need(id, &place.pointer, part);
        }
        let Some(fields) = &self.document.input else {
            return;
        };
        for (field, range) in &references.fields {
            if fields.contains_key(field) {
                continue;
            }
            let message = format!("the pipeline declares no input {}", quoted(field));
            let help = suggest(field, fields.keys().map(String::as_str), || {
                "declare it under `input`".to_owned()
            });
            let part = Part::Expression(place.number, range.start, range.end);
            self.fault(&place.pointer, part, Rule::UnknownInput, message, help);
        }
    }

    fn fault(&mut self, place: Place, fault: ExpressionFault) {
        let part = Part::Expression(place.number, fault.range.start, fault.range.end);
        let ExpressionFault {
            rule,
            message,
            help,
            ..
        } = fault;
        Self::fault(self, &place.pointer, part, rule, message, help);
    }
}
