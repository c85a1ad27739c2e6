//! What deciding costs, in the core alone: a claim and its release, beside so many leases that are
//! held. Part of `scripts/bench locks`; prints JSON, times in nanoseconds.
#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on ends")]

use agentfs_core::config::Config;
use agentfs_core::locks::Origin;
use agentfs_core::machine::{
    Asker, ClaimRequest, Command, Machine, ProcessMark, Reply, RunRequest,
};
use agentfs_core::{AgentName, Mode, Timestamp, Want, WorkUnit};
use std::time::{Duration, Instant};

/// Over how many agents the leases that are held are spread.
const HOLDERS: usize = 10;

struct Bench {
    machine: Machine,
    now: Timestamp,
}

impl Bench {
    fn new(held: usize) -> Self {
        let mut bench = Self { machine: Machine::default(), now: Timestamp(1) };
        for agent in (0..HOLDERS).map(|n| format!("holder{n}")).chain(["asker".to_owned()]) {
            bench.apply(Command::StartRun(Box::new(RunRequest {
                agent: Some(agent.parse().unwrap()),
                argv: vec!["x".to_owned()],
                policy: Config::default().policy(),
                process: ProcessMark { pid: 1, started: 1, boot: String::new() },
                parent: None,
                after: vec![],
                wants: vec![],
                plan: None,
                wait: None,
            })));
        }
        for n in 0..held {
            // The one that is measured has its share.
            let holder = match n % HOLDERS {
                0 => "asker".parse().unwrap(),
                other => format!("holder{other}").parse::<AgentName>().unwrap(),
            };
            let unit = format!("held/d{}/e{}/f{n}", n % 100, n % 7).parse().unwrap();
            assert_eq!(bench.claim(&holder, &Want::exclusive(unit)), Reply::Granted);
        }
        bench
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.machine.apply(command, self.now).unwrap().0
    }

    fn claim(&mut self, agent: &AgentName, want: &Want) -> Reply {
        self.apply(Command::Claim(ClaimRequest {
            agent: agent.clone(),
            wants: vec![want.clone()],
            wait: Some(Duration::from_mins(1)),
            cause: "claim".to_owned(),
            origin: Origin::Asked,
            by: Asker::Agent,
            touches: vec![],
            moves: None,
        }))
    }

    /// The median time of a claim and its release.
    fn cost(&mut self, unit: &str, mode: Mode, rounds: usize) -> u64 {
        let agent: AgentName = "asker".parse().unwrap();
        let unit: WorkUnit = unit.parse().unwrap();
        let want = Want { unit: unit.clone(), mode };
        let mut times: Vec<u64> = (0..rounds)
            .map(|_| {
                let begun = Instant::now();
                assert_eq!(self.claim(&agent, &want), Reply::Granted);
                self.apply(Command::Release { agent: agent.clone(), unit: unit.clone() });
                u64::try_from(begun.elapsed().as_nanos()).unwrap()
            })
            .collect();
        times.sort_unstable();
        times[rounds / 2]
    }
}

fn main() {
    let rows: Vec<serde_json::Value> = [0, 10, 100, 1_000, 10_000, 100_000]
        .into_iter()
        .map(|held| {
            let mut bench = Bench::new(held);
            let mut cost = |unit, mode| bench.cost(unit, mode, 4_000);
            serde_json::json!({
                "held": held,
                "file_far_away": cost("free/a/b", Mode::Exclusive),
                "file_beside": cost("held/d0/e0/new", Mode::Exclusive),
                "directory": cost("free/dir/", Mode::Exclusive),
                "directory_shared": cost("free/dir/", Mode::Shared),
                "named": cost("proc:test", Mode::Exclusive),
            })
        })
        .collect();
    println!("{}", serde_json::Value::from(rows));
}
