//! The table by itself: overlap, order, circles, and its indexes against full scans.

use super::*;
use proptest::prelude::*;

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

fn unit(text: &str) -> WorkUnit {
    text.parse().unwrap()
}

fn lease(token: u64, who: &str, what: &str, mode: Mode) -> Lease {
    Lease {
        token: Token(token),
        unit: unit(what),
        mode,
        agent: agent(who),
        run: None,
        since: Timestamp(0),
        origin: Origin::Asked,
        ttl: None,
        by_operator: false,
    }
}

fn claim(id: u64, who: &str, what: &[&str]) -> Claim {
    Claim {
        id: ClaimId(id),
        agent: agent(who),
        run: None,
        wants: what.iter().map(|u| Want::exclusive(unit(u))).collect(),
        rank: Rank::of(Timestamp(0), Priority::Normal),
        since: Timestamp(0),
        deadline: Some(Timestamp(9)),
        cause: "open".into(),
        origin: Origin::Write,
        asks: false,
        by_operator: false,
        moves: None,
    }
}

fn in_the_way(table: &LockTable, who: &str, what: &str) -> Vec<String> {
    let found = table.obstacles(&agent(who), &[Want::exclusive(unit(what))], None);
    found.into_iter().map(|o| format!("{} {}", o.agent, o.unit)).collect()
}

#[test]
fn a_directory_is_in_the_way_of_all_below_it_and_the_other_way_round() {
    let mut table = LockTable::default();
    table.insert(lease(1, "alice", "src/", Mode::Exclusive));
    assert_eq!(in_the_way(&table, "bob", "src/a/b.rs"), ["alice src/"]);
    assert_eq!(in_the_way(&table, "bob", "src2/a.rs"), [""; 0]);
    assert_eq!(in_the_way(&table, "alice", "src/a/b.rs"), [""; 0]);
    table.insert(lease(2, "carol", "doc/x/y", Mode::Exclusive));
    assert_eq!(in_the_way(&table, "bob", "doc/"), ["carol doc/x/y"]);
    assert_eq!(in_the_way(&table, "bob", "./"), ["carol doc/x/y", "alice src/"]);
    table.remove(Token(1));
    assert_eq!(in_the_way(&table, "bob", "src/a/b.rs"), [""; 0]);
}

#[test]
fn shared_leases_tolerate_each_other_only() {
    let mut table = LockTable::default();
    table.insert(lease(1, "alice", "src/", Mode::Shared));
    let want = |mode| Want { unit: unit("src/a"), mode };
    let wants = |mode| table.obstacles(&agent("bob"), &[want(mode)], None).len();
    assert_eq!((wants(Mode::Shared), wants(Mode::Exclusive)), (0, 1));
    assert!(table.held(&agent("alice"), &want(Mode::Shared)).is_some());
    assert!(table.held(&agent("alice"), &want(Mode::Exclusive)).is_none());
}

#[test]
fn an_earlier_claim_is_ahead_unless_it_waits_for_the_one_who_asks() {
    let mut table = LockTable::default();
    table.insert(lease(1, "alice", "src/a", Mode::Exclusive));
    table.enqueue(claim(1, "bob", &["src/"]));
    assert_eq!(in_the_way(&table, "carol", "src/b"), ["bob src/"]);
    assert_eq!(in_the_way(&table, "alice", "src/b"), [""; 0], "bob waits for alice");
}

#[test]
fn a_circle_of_waits_is_named() {
    let mut table = LockTable::default();
    table.insert(lease(1, "alice", "a", Mode::Exclusive));
    table.insert(lease(2, "bob", "b", Mode::Exclusive));
    table.insert(lease(3, "carol", "c", Mode::Exclusive));
    table.enqueue(claim(1, "alice", &["b"]));
    table.enqueue(claim(2, "bob", &["c"]));
    let circle = table.deadlock(&agent("carol"), &[Want::exclusive(unit("a"))], None).unwrap();
    assert_eq!(circle, [agent("alice"), agent("bob"), agent("carol")]);
    assert_eq!(table.deadlock(&agent("dan"), &[Want::exclusive(unit("a"))], None), None);
}

fn any_unit() -> impl Strategy<Value = WorkUnit> {
    let component = prop::sample::select(vec!["a", "a-", "a0", "b"]);
    (prop::collection::vec(component, 0..4), 0..3).prop_map(|(parts, kind)| {
        let path = parts.join("/");
        match kind {
            0 if !path.is_empty() => unit(&path),
            1 => unit("res:x"),
            _ => unit(&format!("./{path}/")),
        }
    })
}

proptest! {
    /// The indexes against the obvious: look at every lease.
    #[test]
    fn overlapping_finds_what_a_full_scan_finds(
        held in prop::collection::vec(any_unit(), 0..12), gone in 0usize..12, asked in any_unit()
    ) {
        let mut table = LockTable::default();
        for (at, unit) in held.iter().enumerate() {
            let mut one = lease(at as u64, "alice", "x", Mode::Shared);
            one.unit = unit.clone();
            table.insert(one);
        }
        table.remove(Token(gone as u64));
        let mut found: Vec<Token> = table.overlapping(&asked).map(|l| l.token).collect();
        found.sort();
        let obvious: Vec<Token> =
            table.leases().filter(|l| l.unit.overlaps(&asked)).map(|l| l.token).collect();
        prop_assert_eq!(found, obvious);
    }
}
