//! The program in the background: what it keeps of whoever started it, and how its end looks.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test by panicking")]

use agentfs_api::{Client, Workspace};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A repository and all that belongs to it; its daemon ends with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(place.repository().join(".git")).unwrap();
        place
    }

    fn repository(&self) -> std::path::PathBuf {
        self.0.path().canonicalize().unwrap().join("repo")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("AGENTFS_STATE_DIR", self.0.path().join("state"))
            .env("AGENTFS_RUNTIME_DIR", self.0.path().join("run"))
            .current_dir(self.repository())
            .stdin(Stdio::null());
        command
    }

    fn agentfs(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_agentfs")).args(arguments).output().unwrap()
    }

    fn daemon(&self) -> u32 {
        self.client().status().unwrap().pid
    }

    fn client(&self) -> Client {
        // The test's environment differs from the program's, but not in the name of the workspace.
        let name = Workspace::at(&self.repository()).unwrap().runtime_dir;
        let runtime = self.0.path().join("run").join(name.file_name().unwrap());
        Client::on_socket(&runtime.join("operator.sock"), &self.repository()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.agentfs(&["unmount", "--force"]);
    }
}

fn show(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The number in the name that /proc has for an open pipe.
fn open_pipes(process: u32) -> Vec<String> {
    let links = Path::new("/proc").join(process.to_string()).join("fd").read_dir().unwrap();
    let targets = links.flatten().filter_map(|link| link.path().read_link().ok());
    targets.map(|to| to.display().to_string()).filter(|to| to.starts_with("pipe:")).collect()
}

#[test]
fn the_daemon_holds_no_pipe_of_whoever_started_it() {
    let place = Place::new();
    // As a runner does whose steps write to a descriptor with a number of their own.
    let script = "exec 9>&1; readlink /proc/self/fd/9; exec \"$0\" mount >/dev/null";
    let mut shell = place.command("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_agentfs")]).stderr(Stdio::null());
    let mut shell = shell.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
    let mut pipe = String::new();
    std::io::BufRead::read_line(&mut output, &mut pipe).unwrap();
    assert!(pipe.starts_with("pipe:"), "{pipe:?}");
    assert!(shell.wait().unwrap().success());
    let held = open_pipes(place.daemon());
    assert!(!held.iter().any(|held| held == pipe.trim_end()), "{held:?} have {pipe}");
}

#[test]
fn a_log_ends_when_the_daemon_is_killed() {
    let place = Place::new();
    let mounted = place.agentfs(&["mount"]);
    assert!(mounted.status.success(), "{}", show(&mounted));
    let (client, daemon) = (place.client(), place.daemon());
    let mut log = client.follow_log(0).unwrap();
    let killed = Command::new("kill").args(["-KILL", &daemon.to_string()]).status().unwrap();
    assert!(killed.success());
    let left = log.find_map(Result::err);
    assert!(left.is_none(), "{left:?}");
}
