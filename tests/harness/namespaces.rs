//! A mount and a pid namespace that live and die with a test.

use crate::requirements::SYSTEM_PATH;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the namespaces' first process does: says its number on the host, makes the device that
/// usual machines have (readable and writable for everybody), knows one more user, and then
/// collects orphans until it is killed.
const INIT: &str = r#"
set -eu
read -r pid rest </proc/self/stat
mount -t proc proc /proc
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
            .spawn()
            .expect("unshare can be started");
        let mut said = String::new();
        let stdout = unshare.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut said).expect("the first process can be heard");
        let init = said.trim().parse().expect("the first process has set its namespaces up");
        Self { unshare, init: Pid::from_raw(init) }
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
