//! Names: made, moved, removed, listed.

use super::*;

#[test]
fn names_are_made_moved_and_removed_as_on_any_file_system() {
    let m = mounted(&[("a", "a"), ("d/x", "x"), ("d/y", "y"), ("e/z", "z")]);
    // Replace a file of base by rename, the way editors save.
    fs::write(m.at("a.tmp"), "saved").unwrap();
    let saved = fs::metadata(m.at("a.tmp")).unwrap().ino();
    fs::rename(m.at("a.tmp"), m.at("a")).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "saved");
    assert_eq!(fs::metadata(m.at("a")).unwrap().ino(), saved);
    assert!(m.gate.forgotten.lock().unwrap().contains(&"a.tmp".to_owned()));

    fs::create_dir(m.at("n")).unwrap();
    fs::write(m.at("n/1"), "1").unwrap();
    let mut open = fs::File::open(m.at("n/1")).unwrap();
    fs::rename(m.at("n"), m.at("moved")).unwrap();
    assert_eq!(fs::read_to_string(m.at("moved/1")).unwrap(), "1");
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1");
    assert_eq!(errno(fs::remove_dir(m.at("moved"))), libc::ENOTEMPTY);

    // A directory of base, emptied, removed and made again, is empty.
    fs::remove_file(m.at("d/x")).unwrap();
    fs::remove_file(m.at("d/y")).unwrap();
    fs::remove_dir(m.at("d")).unwrap();
    assert!(!m.at("d").exists());
    fs::create_dir(m.at("d")).unwrap();
    assert_eq!(fs::read_dir(m.at("d")).unwrap().count(), 0);
    fs::remove_dir_all(m.at("e")).unwrap();
    fs::rename(m.at("moved"), m.at("e")).unwrap();
    assert_eq!(m.run("ls e"), "1\n", "base's e/z stays hidden");

    fs::hard_link(m.at("a"), m.at("a2")).unwrap();
    let (one, two) = (fs::metadata(m.at("a")).unwrap(), fs::metadata(m.at("a2")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    fs::write(m.at("a2"), "both").unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "both");

    symlink("e/1", m.at("link")).unwrap();
    assert_eq!(fs::read_to_string(m.at("link")).unwrap(), "1");
    assert_eq!(fs::read_link(m.at("link")).unwrap(), PathBuf::from("e/1"));
    m.run("mkfifo p && test -p p && rm p");
}

#[test]
fn a_device_0_0_is_a_device_and_no_whiteout() {
    let m = mounted(&[("a", "a"), ("b", "b")]);
    let number = |name: &str| fs::symlink_metadata(m.at(name)).unwrap().rdev();
    m.run("rm a && mknod a c 0 0 && mknod null c 1 3 && mknod w c 0 0 && mv w v && ln v x");
    let (whiteout, same) = (rustix::fs::RenameFlags::WHITEOUT, rustix::fs::CWD);
    rustix::fs::renameat_with(same, m.at("b"), same, m.at("c"), whiteout).unwrap();
    assert_eq!(m.run("stat -c '%n %F' *").matches("character special file").count(), 5);
    assert_eq!([number("a"), number("b"), number("v"), number("null")], [0, 0, 0, 0x103]);
    assert_eq!(fs::read_to_string(m.at("c")).unwrap(), "b");
    m.run("rm a b && test ! -e a && test ! -e b && ls | wc -l");
    let taken = Command::new("mknod").arg(m.at("w")).args(["c", "0", "1048575"]).output().unwrap();
    assert!(!taken.status.success());
}

#[test]
fn directories_of_base_are_moved_with_all_below_them() {
    let m = mounted(&[("d/x", "x"), ("d/y", "y"), ("d/in/z", "z"), ("e/f", "f"), ("other", "o")]);
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(m.base("d/in/z")).unwrap().set_modified(long_ago).unwrap();
    m.run("rm d/x && echo new >d/in/new");
    let mut open = fs::File::open(m.at("d/in/z")).unwrap();
    let number = |path: &str| fs::symlink_metadata(m.at(path)).unwrap().ino();
    let before = [number("d"), number("d/in"), number("d/in/z")];
    fs::rename(m.at("d"), m.at("e/d")).unwrap();
    assert_eq!([number("e/d"), number("e/d/in"), number("e/d/in/z")], before);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs::metadata(m.at("e/d/in/z")).unwrap().mtime()), ("z", 5));
    assert_eq!(m.gate.units(), ["d/x", "d/in/new", "d/", "e/d/"]);
    let noted = m.gate.asked.lock().unwrap().last().unwrap().paths.clone();
    let mut noted: Vec<_> = noted.iter().map(ToString::to_string).collect();
    noted.sort();
    assert_eq!(noted, ["d", "d/in", "d/in/z", "d/y", "e/d"]);
    // Its place is free, what was there does not come back, nor into what is moved there.
    fs::create_dir(m.at("d")).unwrap();
    assert_eq!(fs::read_dir(m.at("d")).unwrap().count(), 0);
    fs::rename(m.at("e"), m.at("d")).unwrap();
    assert_eq!(m.run("find d -type f | sort | tr '\\n' ' '"), "d/d/in/new d/d/in/z d/d/y d/f ");
    assert!(m.base("d/x").exists() && m.base("e/f").exists());
    let left = m.run("cd \"$HOME/delta\"; find . -type c | sort | tr '\\n' ' '");
    assert_eq!(left, "./e ", "no whiteout that speaks of another place");
}

#[test]
fn directories_of_base_change_places() {
    let m = mounted(&[("d/x", "x"), ("e/y", "y"), ("f", "f")]);
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    for (one, other) in [("d", "e"), ("d", "f")] {
        rustix::fs::renameat_with(rustix::fs::CWD, m.at(one), rustix::fs::CWD, m.at(other), flags)
            .unwrap();
    }
    assert_eq!(m.run("find d e f -type f | sort | tr '\\n' ' '"), "d e/x f/y ");
}

#[test]
fn renameat2_has_its_flags() {
    use rustix::fs::{CWD, RenameFlags as Flags, renameat_with};

    let m = mounted(&[("a", "a"), ("b", "b")]);
    let rename = |from: &str, to: &str, flags| {
        renameat_with(CWD, m.at(from), CWD, m.at(to), flags).map_err(std::io::Error::from)
    };
    assert_eq!(errno(rename("a", "b", Flags::NOREPLACE)), libc::EEXIST);
    rename("a", "b", Flags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(m.at("a")).unwrap(), "b");
    assert_eq!(fs::read_to_string(m.at("b")).unwrap(), "a");
    rename("a", "c", Flags::NOREPLACE).unwrap();
    assert_eq!(m.run("ls"), "b\nc\n");
    assert_eq!(errno(rename("b", "c", Flags::WHITEOUT | Flags::EXCHANGE)), libc::EINVAL);
}

#[test]
fn listings_are_whole_while_entries_come_and_go() {
    let m = mounted(&[]);
    for index in 0..3000 {
        fs::write(m.base(&format!("f{index:04}")), "").unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for entry in fs::read_dir(m.at("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name.clone()), "{name} twice");
        if name.ends_with('7') {
            fs::remove_file(m.at(&name)).unwrap();
            fs::write(m.at(&format!("new{name}")), "").unwrap();
        }
    }
    assert!((0..3000).all(|index| seen.contains(&format!("f{index:04}"))));
    assert_eq!(m.run("ls | wc -l").trim(), "3000");
    m.run("rm -rf ./f* ./n*");
    assert_eq!(m.run("ls"), "");
}

#[test]
fn notices_are_made_when_they_are_opened() {
    let m = mounted(&[]);
    assert_eq!(fs::read_to_string(m.at(".agentfs/whoami")).unwrap(), "Whoami\n");
    assert_eq!(m.run("cat .agentfs/explain"), "Explain\n");
    assert_eq!(fs::read_to_string(m.at(".agentfs/.gitignore")).unwrap(), "*\n");
    assert_eq!(errno(fs::write(m.at(".agentfs/x"), "")), libc::EROFS);
    assert_eq!(errno(fs::write(m.at(".agentfs/whoami"), "")), libc::EROFS);
    assert_eq!(errno(fs::remove_dir_all(m.at(".agentfs"))), libc::EROFS);
    assert_eq!(m.run("ls -A").trim(), ".agentfs");
    assert!(!m.delta(".agentfs").exists());
}

#[test]
fn orders_are_writes_and_each_is_answered_by_its_own_errno() {
    let m = mounted(&[("src/a", "")]);
    m.run("echo src > .agentfs/claim; printf 'shared a\\nshared b\\n' > .agentfs/claim");
    m.run("echo src/a >> .agentfs/release");
    let orders = std::mem::take(&mut *m.gate.orders.lock().unwrap());
    let said: Vec<String> = orders
        .iter()
        .map(|(order, list)| format!("{order:?} {} {}", list[0].mode, list.len()))
        .collect();
    assert_eq!(said, ["Claim exclusive 1", "Claim shared 2", "Release exclusive 1"]);
    assert_eq!(orders[0].1[0].to_string(), "src/", "the view has a directory there");
    assert_eq!(errno(fs::write(m.at(".agentfs/claim"), "busy\n")), libc::EBUSY);
    assert_eq!(errno(fs::write(m.at(".agentfs/claim"), "proc:\n")), libc::EINVAL);
    assert_eq!(fs::read_to_string(m.at(".agentfs/claim")).unwrap(), "Claim\n");
    let stat = |name: &str| fs::metadata(m.at(name)).unwrap();
    assert_eq!(stat(".agentfs/claim").ino(), stat(".agentfs/claim").ino());
    let modes = [".agentfs/claim", ".agentfs/release", ".agentfs/locks"].map(|n| stat(n).mode());
    assert_eq!(modes, [0o100_666, 0o100_666, 0o100_444]);
    assert_eq!(errno(fs::remove_file(m.at(".agentfs/claim"))), libc::EROFS);
    assert_eq!(
        errno(fs::set_permissions(m.at(".agentfs/claim"), fs::Permissions::from_mode(0o000))),
        libc::EROFS
    );
}
