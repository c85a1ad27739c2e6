//! What the suites need of the machine. What is missing is a failure, never a skipped test.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where programs are looked for, by the harness and inside every world.
pub const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// The programs that the harness and the scenarios use, and the Debian packages that have them.
const TOOLS: [(&str, &str); 16] = [
    ("bash", "bash"),
    ("bindfs", "bindfs"),
    ("env", "coreutils"),
    ("fusermount3", "fuse3"),
    ("git", "git"),
    ("inotifywait", "inotify-tools"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("pgrep", "procps"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
];

/// Panics with a sentence if the end-to-end suites can't run on this machine. Looks once.
pub fn demand() {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    if let Some(missing) = MISSING.get_or_init(find_missing) {
        panic!("the end-to-end suites can't run here: {missing}");
    }
}

fn find_missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(
            "they test agentfs both as root and as an unprivileged user, so root must start them \
             (`sudo scripts/test`)"
                .to_owned(),
        );
    }
    for (tool, package) in TOOLS {
        if !SYSTEM_PATH.split(':').any(|dir| Path::new(dir).join(tool).is_file()) {
            return Some(format!("{tool} is missing; install the package {package}"));
        }
    }
    let device = Path::new("/dev/fuse");
    if !device.metadata().is_ok_and(|found| found.file_type().is_char_device()) {
        return Some(
            "/dev/fuse is missing; `modprobe fuse`, or give the container --device /dev/fuse"
                .to_owned(),
        );
    }
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
        return Some(format!(
            "root can't open /dev/fuse ({error}); a container needs --device /dev/fuse"
        ));
    }
    let namespaces = |arguments: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(arguments).arg("true").stdin(Stdio::null());
        unshare.output().is_ok_and(|done| done.status.success())
    };
    if !namespaces(&["--mount", "--pid", "--fork"]) {
        return Some(
            "no mount and pid namespaces can be made; a container needs CAP_SYS_ADMIN".to_owned(),
        );
    }
    if !namespaces(&["--user", "--map-root-user", "--mount"]) {
        return Some(
            "no user namespaces can be made; see `sysctl user.max_user_namespaces \
             kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns`"
                .to_owned(),
        );
    }
    None
}
