//! `agentctl plan`: what a run declares, before it starts and after it has ended.

use super::Run;
use crate::cli::Global;
use crate::error::Error;
use crate::session::Session;
use crate::{output, report};
use agentfs_api::types::{CheckPlan, CheckedPlan, PlanConflict};
use agentfs_core::config::{self, Config};
use agentfs_core::plan::{self, Plan as Declared};
use agentfs_core::{AgentName, RunId};
use std::io;
use std::path::{Path, PathBuf};

/// Look at plans: what a run declares that it needs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A plan is YAML: steps, each with the units that it needs. Paths in it are \
    from the workspace's root. A run with a plan (`agentshim run --plan FILE`) gets all of it at \
    once, or waits before it starts.\n\n\
    Example:\n  agentctl plan check plan.yaml && agentshim run --plan plan.yaml -- claude"
)]
pub struct Plan {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Check(Check),
    Show(Show),
    Schema(Schema),
}

/// Say whether a run with this plan would start at once, and if not, what is in the way
#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is 0 if it would start at once, 8 if it would wait or a \
    policy of agentfs.toml forbids something in it, 2 if it is no plan.\n\n\
    Example:\n  agentctl plan check plan.yaml\n  agentctl plan check plan.yaml --agent alice")]
struct Check {
    /// The plan
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// Whose run it would be; else a new agent's
    #[arg(long, value_name = "AGENT")]
    agent: Option<AgentName>,
}

/// Compare a run's plan with what the run has touched
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl runs\n  agentctl plan show r7")]
struct Show {
    /// Which run
    run: RunId,
}

/// Print the JSON schema of a plan, for editors
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl plan schema >plan.schema.json")]
struct Schema {}

impl Run for Plan {
    fn run(self, global: &Global) -> Result<(), Error> {
        match self.what {
            What::Check(check) => check.run(global),
            What::Show(show) => show.run(global),
            What::Schema(_) => output::json(&plan::schema()),
        }
    }
}

impl Run for Check {
    fn run(self, global: &Global) -> Result<(), Error> {
        let plan = read(&self.file)?;
        let checked = match Session::open(global) {
            Ok(session) => session.client.check_plan(&CheckPlan { agent: self.agent, plan })?,
            // Where no agent ever ran nobody holds anything.
            Err(Error::NeverUsed(root)) => unhindered(&root, self.agent, &plan)?,
            Err(error) => return Err(error),
        };
        output::show(global, &checked, report::plan::checked)?;
        if checked.starts { Ok(()) } else { Err(Error::WouldWait) }
    }
}

impl Run for Show {
    fn run(self, global: &Global) -> Result<(), Error> {
        let planned = Session::open(global)?.client.planned(self.run)?;
        output::show(global, &planned, report::plan::planned)
    }
}

fn read(path: &Path) -> Result<Declared, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Declared::parse(&text)
        .map_err(|error| Error::Plan { path: path.to_owned(), why: error.to_string() })
}

/// The check where only `agentfs.toml` can be in the way.
fn unhindered(
    root: &Path,
    agent: Option<AgentName>,
    plan: &Declared,
) -> Result<CheckedPlan, Error> {
    let file = root.join(config::FILE_NAME);
    let config = match std::fs::read_to_string(&file) {
        Ok(text) => Config::parse(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Config::default(),
        Err(source) => return Err(Error::Read { path: file, source }),
    };
    let agent = agent.unwrap_or_else(AgentName::of_a_new_one);
    let barred = plan.barred(&agent, &config.policy().of(&agent)).into_iter();
    let conflicts: Vec<PlanConflict> = barred
        .map(|(want, why)| {
            let steps = plan.steps_with(&want.unit);
            PlanConflict { want, steps, blocker: None, why }
        })
        .collect();
    let starts = conflicts.is_empty();
    Ok(CheckedPlan { starts, wants: plan.wants(), conflicts, turns: Vec::new() })
}
