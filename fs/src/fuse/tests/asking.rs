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
