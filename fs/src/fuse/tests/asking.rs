//! What the gate is asked for, and told.

use super::*;

impl TestGate {
    /// Every intent since the last call: operation, units, paths.
    fn take(&self) -> Vec<(&'static str, String, String)> {
        let words = |items: Vec<String>| items.join(" ");
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked
            .into_iter()
            .map(|intent| {
                let units = intent.units.iter().map(ToString::to_string).collect();
                let paths = intent.paths.iter().map(ToString::to_string).collect();
                (intent.operation, words(units), words(paths))
            })
            .collect()
    }
}

fn asked(operation: &'static str, units: &str, paths: &str) -> (&'static str, String, String) {
    (operation, units.to_owned(), paths.to_owned())
}

#[test]
fn a_hard_link_is_asked_for_by_both_names_because_it_copies_the_old_one() {
    let m = mounted(&[("a", "a"), ("busy", "b"), (".gitignore", "out\n")]);
    fs::hard_link(m.at("a"), m.at("b")).unwrap();
    fs::hard_link(m.at("a"), m.at("out")).unwrap();
    assert_eq!(m.gate.take(), [asked("link", "a b", "a b"), asked("link", "a", "a")]);
    m.gate.say("busy", Say::No(Refusal::Busy));
    assert_eq!(errno(fs::hard_link(m.at("busy"), m.at("c"))), libc::EBUSY);
    assert!(!m.delta("busy").exists());
}

#[test]
fn an_access_time_alone_is_claimed_like_any_change_that_copies_the_file() {
    let m = mounted(&[("a", "a")]);
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
    };
    let follow = rustix::fs::AtFlags::empty();
    rustix::fs::utimensat(rustix::fs::CWD, m.at("a"), &times, follow).unwrap();
    assert_eq!(fs::metadata(m.at("a")).unwrap().atime(), 5);
    assert_eq!(m.gate.take(), [asked("change of attributes", "a", "a")]);
}

#[test]
fn attributes_of_a_directory_are_noted_and_not_claimed() {
    let m = mounted(&[("d/x", "x")]);
    m.run("chmod 700 d && chown 5:6 d && touch -d @7 d && touch -a -d @8 d");
    rustix::fs::setxattr(m.at("d"), "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::removexattr(m.at("d"), "user.x").unwrap();
    let change = || asked("change of attributes", "", "d");
    let xattrs = [asked("setxattr", "", "d"), asked("removexattr", "", "d")];
    let all = [[change(), change()], [change(), change()], xattrs].concat();
    assert_eq!(m.gate.take(), all);
    fs::create_dir(m.at("n")).unwrap();
    assert_eq!(m.gate.take(), [asked("mkdir", "", "")], "nothing is replaced");
}

#[test]
fn what_was_made_and_removed_again_is_forgotten_files_and_directories() {
    let m = mounted(&[("d/x", "x"), (".gitignore", "out/\n")]);
    m.run("echo > f && rm f && mkdir td && rmdir td && mkdir -p d/n/m && rmdir d/n/m d/n");
    m.run("mkdir one && mv one two && rmdir two && mkdir out && rmdir out && rm -r d");
    let forgotten = std::mem::take(&mut *m.gate.forgotten.lock().unwrap());
    assert_eq!(forgotten, ["f", "td", "d/n/m", "d/n", "one", "two"]);
}

#[test]
fn a_large_copy_up_holds_up_no_thread_that_serves_the_kernel() {
    let m = mounted(&[("small", "s"), (".git/small", "s")]);
    for large in ["large", ".git/large"] {
        fs::write(m.base(large), vec![b'x'; (1 << 20) + 1]).unwrap();
    }
    m.gate.open.store(true, Ordering::Relaxed);
    let by_worker = |name: &str| {
        m.gate.openers.lock().unwrap().clear();
        fs::OpenOptions::new().read(true).write(true).open(m.at(name)).unwrap();
        m.gate.openers.lock().unwrap()[0].starts_with("agentfs-view")
    };
    assert!(!by_worker("small"));
    assert!(by_worker("large"));
    assert!(!by_worker("large"), "there is nothing left to copy");
    assert_eq!(fs::metadata(m.delta("large")).unwrap().len(), (1 << 20) + 1);
    m.run("echo more >> .git/large && tail -c 2 .git/large | grep -q e");
}

#[test]
fn refusals_reach_the_caller_and_others_go_on() {
    let m = mounted(&[("busy", ""), ("stale", ""), ("denied", ""), ("held", "h"), ("free", "")]);
    m.gate.say("busy", Say::No(Refusal::Busy));
    m.gate.say("stale", Say::No(Refusal::Stale));
    m.gate.say("denied", Say::No(Refusal::Denied));
    m.gate.say("held", Say::Wait);
    let write = |name: &str| fs::OpenOptions::new().write(true).open(m.at(name));
    assert_eq!(errno(write("busy")), libc::EBUSY);
    assert_eq!(errno(write("stale")), libc::EAGAIN);
    assert_eq!(errno(fs::remove_file(m.at("denied"))), libc::EACCES);
    assert_eq!(errno(fs::rename(m.at("free"), m.at("denied"))), libc::EACCES);
    assert_eq!(errno(symlink("x", m.at("busy/x"))), libc::ENOTDIR);

    let held = m.at("held");
    // More than there are session threads.
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let held = held.clone();
            std::thread::spawn(move || {
                // Not the standard library's open, which tries again after EINTR.
                let flags = rustix::fs::OFlags::WRONLY;
                rustix::fs::open(held, flags, rustix::fs::Mode::empty()).map(drop)
            })
        })
        .collect();
    while m.gate.waiting.lock().unwrap().len() < 5 {
        std::thread::yield_now();
    }
    assert_eq!(fs::read_to_string(m.at("held")).unwrap(), "h");
    fs::write(m.at("other"), "o").unwrap();
    assert_eq!(fs::read_dir(m.at("")).unwrap().count(), 7);
    for (index, answer) in m.gate.waiting.lock().unwrap().drain(..).enumerate() {
        answer(if index == 0 { Err(Refusal::Interrupted) } else { Ok(Permit::granted()) });
    }
    let failed = waiting.into_iter().filter_map(|thread| thread.join().unwrap().err());
    assert_eq!(failed.map(rustix::io::Errno::raw_os_error).collect::<Vec<_>>(), [libc::EINTR]);
}

#[test]
fn scratch_is_never_asked_for() {
    let m = mounted(&[(".gitignore", "target/\n"), (".git/HEAD", "ref: refs/heads/main\n")]);
    fs::create_dir_all(m.at("target/debug")).unwrap();
    let asked = m.gate.units();
    fs::write(m.at("target/debug/x"), "x").unwrap();
    fs::write(m.at(".git/HEAD"), "x").unwrap();
    fs::rename(m.at("target/debug"), m.at("target/release")).unwrap();
    fs::remove_file(m.at("target/release/x")).unwrap();
    assert_eq!(m.gate.units(), asked);
    assert!(m.gate.read.lock().unwrap().is_empty());
    fs::write(m.at("y"), "y").unwrap();
    fs::rename(m.at("y"), m.at("target/y")).unwrap();
    assert_eq!(m.gate.units(), ["y", "y"], "only the side that counts");
}
