//! Many agents on one workspace at the same time.

use agentfs_tests::{World, in_both_worlds};
use std::collections::BTreeSet;

in_both_worlds!(fifty_agents_work_at_once, views_need_little_memory);

const AGENTS: usize = 50;

fn fifty_agents_work_at_once(world: &World) {
    world.fs("mount").ok();
    // All are there before the first of them goes on.
    let script = |n: usize| {
        format!("cat src/a.txt >/dev/null; echo {n} >own-{n}.txt; tell ready; await all; exit 0")
    };
    let mut agents: Vec<_> =
        (0..AGENTS).map(|n| world.agent(&format!("agent{n}")).start(&script(n))).collect();
    for agent in &mut agents {
        agent.hears("ready");
    }
    assert_eq!(world.status().live_runs, AGENTS);
    assert_eq!(world.mounted_views().len(), AGENTS);
    let limits = world.cmd(["cat", &format!("/proc/{}/limits", world.status().pid)]).ok().out();
    let open = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let numbers: BTreeSet<&str> = open.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers.len(), 1, "as many open files as may be: {open}");
    for agent in &agents {
        agent.tells("all");
    }
    for agent in agents {
        let done = agent.finish().exits(0);
        assert!(done.err().contains("applied"), "{done}");
    }
    for n in 0..AGENTS {
        assert_eq!(world.base(&format!("own-{n}.txt")), format!("{n}\n"));
    }
    assert_eq!(world.status().base_version.0, AGENTS as u64);
    assert!(world.locks().is_empty() && world.recover().is_empty());
}

/// In KiB: a view's threads and tables, and much less than the buffers that the FUSE library has.
const MOST_FOR_A_VIEW: u64 = 1 << 10;

fn resident(world: &World) -> u64 {
    let all = world.cmd(["cat", &format!("/proc/{}/smaps_rollup", world.status().pid)]).as_root();
    let all = all.ok().out();
    let line = all.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_else(|_| panic!("no Rss: {all}"))
}

fn views_need_little_memory(world: &World) {
    const VIEWS: u64 = 20;
    world.fs("mount").ok();
    // Once a view's buffers were freed, the allocator would like to keep the next ones itself.
    world.agent("first").run("true").exits(0);
    world.cmd(["fusermount3", "-u"]).arg(world.view("first")).ok();
    let before = resident(world);
    let mut agents: Vec<_> = (0..VIEWS)
        .map(|n| world.agent(&format!("agent{n}")).start("cat src/a.txt; tell ready; await all"))
        .collect();
    for agent in &mut agents {
        agent.hears("ready");
    }
    let grown = resident(world).saturating_sub(before);
    for agent in &agents {
        agent.tells("all");
    }
    for agent in agents {
        agent.finish().exits(0);
    }
    assert!(grown < VIEWS * MOST_FOR_A_VIEW, "{VIEWS} views need {grown} KiB");
}
