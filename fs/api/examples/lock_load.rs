//! Load on the control API: agents that claim and release. Part of `scripts/bench locks`; prints
//! JSON, times in microseconds.
//!
//! `lock_load ROOT hold N` holds N files for an agent and ends; they stay held.
//! `lock_load ROOT claim AGENTS ROUNDS UNITS` has each agent claim and release so many times: its
//! own file if UNITS is 0, else one of so many that all want.
#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on ends")]

use agentfs_api::types::{ClaimUnits, ReleaseUnit};
use agentfs_api::{Client, Workspace};
use agentfs_core::config::Span;
use agentfs_core::{AgentName, Want, WorkUnit};
use std::path::Path;
use std::time::{Duration, Instant};

/// How many files one claim takes.
const AT_ONCE: usize = 1_000;

fn claim(client: &Client, agent: &AgentName, wants: Vec<Want>) {
    let wait = Some(Span(Duration::from_mins(10)));
    let (agent, cause, on_behalf) = (Some(agent.clone()), None, false);
    client.claim(&ClaimUnits { agent, wants, wait, cause, on_behalf }).unwrap();
}

fn hold(client: &Client, count: usize) {
    let agent: AgentName = "keeper".parse().unwrap();
    let unit = |n: usize| Want::exclusive(format!("held/d{}/f{n}", n % 100).parse().unwrap());
    for from in (0..count).step_by(AT_ONCE) {
        claim(client, &agent, (from..count.min(from + AT_ONCE)).map(unit).collect());
    }
}

/// What one agent sees: how long each claim took, and each release.
fn work(client: &Client, number: usize, rounds: usize, units: usize) -> (Vec<u64>, Vec<u64>) {
    let agent: AgentName = format!("agent{number}").parse().unwrap();
    let micros = |begun: Instant| u64::try_from(begun.elapsed().as_micros()).unwrap();
    let (mut claims, mut releases) = (Vec::new(), Vec::new());
    // A linear congruential sequence is as good as any: agents only must not go in step.
    let mut chance = u64::try_from(number).unwrap() + 1;
    for _ in 0..rounds {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let unit: WorkUnit = match u64::try_from(units).unwrap() {
            0 => format!("own/{number}").parse().unwrap(),
            units => format!("all/{}", (chance >> 33) % units).parse().unwrap(),
        };
        let begun = Instant::now();
        claim(client, &agent, vec![Want::exclusive(unit.clone())]);
        claims.push(micros(begun));
        let begun = Instant::now();
        client.release(&ReleaseUnit { agent: Some(agent.clone()), unit }).unwrap();
        releases.push(micros(begun));
    }
    (claims, releases)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments[at].parse::<usize>().unwrap();
    let workspace = Workspace::at(Path::new(&arguments[0])).unwrap();
    let client = Client::connect(&workspace).unwrap();
    if arguments[1] == "hold" {
        return hold(&client, number(2));
    }
    let (agents, rounds, units) = (number(2), number(3), number(4));
    let begun = Instant::now();
    let threads: Vec<_> = (0..agents)
        .map(|agent| {
            let client = Client::connect(&workspace).unwrap();
            std::thread::spawn(move || work(&client, agent, rounds, units))
        })
        .collect();
    let seen: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let seconds = begun.elapsed().as_secs_f64();
    let (claims, releases): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    println!(
        "{}",
        serde_json::json!({ "seconds": seconds, "claims": claims, "releases": releases })
    );
}
