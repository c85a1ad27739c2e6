//! A mount and a pid namespace that live and die with a test.

use crate::requirements::SYSTEM_PATH;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the namespaces' first process does: takes an empty `/run`, for a user makes the device
/// that usual machines have (readable and writable for everybody) and one more line in passwd,
/// says its number on the host, and then collects orphans until it is killed.
const INIT: &str = r#"
set -eu
read -r pid rest </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=0755 agentfs-e2e /run
if [ -n "$1" ]; then
    mount -t tmpfs -o mode=0755 agentfs-e2e "$1"
    mknod "$1/fuse" c 10 229
    chmod 0666 "$1/fuse"
    mount --bind "$1/fuse" /dev/fuse
    mount --bind "$2" /etc/passwd
fi
echo "$pid"
exec >/dev/null
sleep infinity & wait
"#;

/// The namespaces. Dropped, every process in them is killed and every mount in them gone.
#[derive(Debug)]
pub struct Namespaces {
    unshare: Child,
    init: Pid,
}

impl Namespaces {
    /// Makes them. With `user`, a directory to make a device in and a passwd file, an
    /// unprivileged user finds a usual machine inside.
    pub fn new(user: Option<(&Path, &Path)>) -> Self {
        let (device, passwd) = user.unwrap_or((Path::new(""), Path::new("")));
        let mut unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", INIT, "init"])
            .args([device, passwd])
            .env_clear()
            .env("PATH", SYSTEM_PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare can be started");
        let mut said = String::new();
        let stdout = unshare.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut said).expect("the first process can be heard");
        let Ok(init) = said.trim().parse() else {
            let complaint = unshare.wait_with_output().map(|done| done.stderr).unwrap_or_default();
            panic!("no namespaces for the world: {}", String::from_utf8_lossy(&complaint));
        };
        // What it says when it is killed is of no interest.
        drop(unshare.stderr.take());
        Self { unshare, init: Pid::from_raw(init) }
    }

    /// The number on the host of the process that has the number `pid` inside.
    pub fn host_pid(&self, pid: u32) -> Option<Pid> {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.init.to_string())?;
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let names = processes.filter_map(|process| process.file_name().into_string().ok());
        let found =
            names.filter(|name| namespace(name).is_some_and(|it| it == own)).find(|name| {
                let status = std::fs::read_to_string(format!("/proc/{name}/status"));
                let status = status.unwrap_or_default();
                let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                numbers.and_then(|all| all.split_whitespace().last()) == Some(&pid.to_string())
            })?;
        found.parse().ok().map(Pid::from_raw)
    }

    /// The command line that enters the namespaces; what to run there follows it.
    pub fn enter(&self) -> Vec<String> {
        let init = self.init.to_string();
        ["nsenter", "--target", &init, "--mount", "--pid", "--"].map(str::to_owned).to_vec()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // The kernel kills all others with the first process; `unshare` ends when that is done.
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = self.unshare.wait();
    }
}
