//! Names, commands and requests in few words.

use agentfs_core::config::{Span, Unclaimed};
use agentfs_core::locks::{Origin, Priority};
use agentfs_core::machine::{Asker, ClaimRequest, Command, Exit, Policy, ProcessMark, RunRequest};
use agentfs_core::{AgentName, RunId, Want, WorkUnit};
use std::time::Duration;

pub fn name(text: &str) -> AgentName {
    text.parse().expect("a name")
}

pub fn unit(text: &str) -> WorkUnit {
    text.parse().expect("a unit")
}

/// Wishes with commas between them: `d/a, shared res:s`.
pub fn wants(text: &str) -> Vec<Want> {
    let all = text.split(", ").filter(|one| !one.is_empty());
    all.map(|one| one.parse().expect("a want")).collect()
}

pub fn secs(secs: u64) -> Span {
    Span(Duration::from_secs(secs))
}

pub fn policy(priority: Priority) -> Policy {
    let unclaimed = Unclaimed::Claim;
    Policy { unclaimed, wait: secs(60), ttl: secs(600), priority, rules: vec![] }
}

pub fn run_of(agent: &str, wanted: &str) -> RunRequest {
    RunRequest {
        agent: Some(name(agent)),
        argv: vec!["x".into()],
        policy: policy(Priority::Normal),
        process: ProcessMark { pid: 1, started: 1, boot: "b".into() },
        parent: None,
        after: vec![],
        wants: wants(wanted),
        plan: None,
        wait: None,
    }
}

pub fn start(request: RunRequest) -> Command {
    Command::StartRun(Box::new(request))
}

pub fn claim(agent: &str, wanted: &str) -> Command {
    Command::Claim(ClaimRequest {
        agent: name(agent),
        wants: wants(wanted),
        wait: None,
        cause: "claim".into(),
        origin: Origin::Asked,
        by: Asker::Agent,
        touches: vec![],
        moves: None,
    })
}

pub fn end_run(run: RunId, changed: usize, code: i32) -> Command {
    Command::EndRun { run, exit: Exit::Code(code), changed, why: "kept".into() }
}

/// A command in few words.
pub fn tell(command: &Command) -> String {
    let list = |wants: &[Want]| {
        let wants: Vec<_> = wants.iter().map(ToString::to_string).collect();
        wants.join(", ")
    };
    match command {
        Command::Claim(request) => format!("{} claims {}", request.agent, list(&request.wants)),
        Command::StartRun(request) => {
            let RunRequest { agent, wants, after, parent, .. } = &**request;
            let agent = agent.as_ref().map(AgentName::as_str).unwrap_or_default();
            format!("{agent} starts with {}, part of {parent:?}, after {after:?}", list(wants))
        }
        Command::Release { agent, unit } => format!("{agent} releases {unit}"),
        other => format!("{other:?}"),
    }
}

/// Numbers that look random (`SplitMix64`), the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }
}
