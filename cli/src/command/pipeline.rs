//! `orchestrator pipeline`

use clap::Subcommand;
use orchestrator_engine::pipeline::{Pipeline, json_schema};
use serde_json::{Value, json};

use crate::{context::Context, failure::Result, named_pipeline, table::Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a pipeline: its form, expressions, plugins, phases and policies
    #[command(after_help = "Examples:
  orchestrator pipeline validate pipeline.yaml
  orchestrator pipeline validate pipeline.yaml --offline")]
    Validate {
        /// A pipeline file, or the name of a pipeline in the home's `pipelines`
        pipeline: String,

        /// Do not look whether its plugins are there and take what it asks
        #[arg(long)]
        offline: bool,
    },

    /// Show a pipeline's steps in the order they can run
    #[command(after_help = "Examples:
  orchestrator pipeline show pipeline.yaml
  orchestrator pipeline show --schema > pipeline.schema.json")]
    Show {
        /// A pipeline file, or the name of a pipeline in the home's `pipelines`
        #[arg(required_unless_present = "schema")]
        pipeline: Option<String>,

        /// Print the JSON Schema of pipeline files, for editors
        #[arg(long, conflicts_with = "pipeline")]
        schema: bool,
    },
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let dir = context.home()?.pipelines();
        match self {
            Self::Validate { pipeline, offline } => {
                let pipeline = named_pipeline::from_file_or_name(&pipeline, &dir)?;
                let mut value = json!({ "pipeline": pipeline.name(), "valid": true });
                if !offline {
                    let engine = context.engine(None).await?;
                    engine.check(&pipeline)?;
                    value["warnings"] = engine.warnings().into();
                }
                context
                    .out
                    .show(&value, |_| format!("{} is valid", pipeline.name()))
            }
            Self::Show {
                pipeline: Some(text),
                ..
            } => {
                let pipeline = named_pipeline::from_file_or_name(&text, &dir)?;
                show(context, &pipeline)
            }
            Self::Show { pipeline: None, .. } => {
                let schema = serde_json::to_string_pretty(&json_schema());
                context.out.text(&schema.map_err(std::io::Error::from)?)
            }
        }
    }
}

fn show(context: &Context, pipeline: &Pipeline) -> Result {
    let steps = pipeline.steps();
    let needs = |index: usize| -> Vec<String> {
        let before = pipeline.dependencies(index).iter();
        before.map(|before| steps[*before].id.to_string()).collect()
    };
    let rows: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            json!({
                "step": step.id,
                "plugin": step.plugin,
                "range": step.releases.to_string(),
                "phase": step.phase,
                "required": step.required,
                "needs": needs(index),
            })
        })
        .collect();
    let value = json!({ "name": pipeline.name(), "steps": rows });
    context.out.show(&value, |_| {
        let mut table = Table::new(["STEP", "PLUGIN", "PHASE", "REQUIRED", "NEEDS"]);
        for (index, step) in steps.iter().enumerate() {
            let required = if step.required { "yes" } else { "no" };
            table.row([
                step.id.to_string(),
                format!("{}@{}", step.plugin, step.releases),
                step.phase.to_string(),
                required.to_owned(),
                needs(index).join(", "),
            ]);
        }
        format!("pipeline {}\n\n{table}", pipeline.name())
    })
}
