//! What gets through: the exit status, signals, bytes, the environment, the directory.

use crate::place::{everywhere, show};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

#[test]
fn the_exit_status_is_the_commands_own() {
    everywhere(|place| {
        for code in [0, 1, 7, 255] {
            assert_eq!(place.script(&format!("exit {code}")).status.code(), Some(code));
        }
        assert_eq!(place.script("kill -KILL $$").status.code(), Some(128 + 9));
    });
}

#[test]
fn a_command_that_can_not_be_executed_is_named() {
    everywhere(|place| {
        let output = place.inside(&["no-such-command"]).output().unwrap();
        assert_eq!(output.status.code(), Some(127), "{}", show(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("agentshim: no-such-command: not found"), "{said}");
        let output = place.inside(&["./file"]).output().unwrap();
        assert_eq!(output.status.code(), Some(126), "{}", show(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    });
}

#[test]
fn a_sandbox_that_can_not_be_built_is_explained() {
    everywhere(|place| {
        std::fs::remove_dir(place.path("state/views/alice/sub")).unwrap();
        let output = place.inside(&["true"]).current_dir(place.path("repo/sub")).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{}", show(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("agentshim: ") && said.lines().count() == 1, "{said}");
        assert!(said.contains("repo/sub can't be entered in the view of alice"), "{said}");
    });
}

#[test]
fn the_command_starts_where_the_user_stands() {
    everywhere(|place| {
        let mut command = place.inside(&["sh", "-c", "pwd; echo $PWD"]);
        let output = command.current_dir(place.path("repo/sub")).output().unwrap();
        let sub = place.path("repo/sub").canonicalize().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, format!("{0}\n{0}\n", sub.display()), "{}", show(&output));
    });
}

#[test]
fn the_environment_passes_without_the_ways_out() {
    everywhere(|place| {
        let output = place
            .inside(&["env"])
            .env("EDITOR", "vi")
            .env("SSH_AUTH_SOCK", "/tmp/ssh")
            .env("XDG_RUNTIME_DIR", "/run/user/0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        for expected in [
            "EDITOR=vi\n",
            "AGENTFS_AGENT=alice\n",
            "AGENTFS_RUN=r1\n",
            "AGENTFS_SOCKET=/run/agentfs/agent.sock\n",
            "TMPDIR=/tmp\n",
        ] {
            assert!(said.contains(expected), "{expected} is not in {said}");
        }
        for gone in ["SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "AGENTFS_STATE_DIR"] {
            assert!(!said.contains(gone), "{gone} is in {said}");
        }
    });
}

/// A command that says that it is ready, gets a signal through the shim, and how that ends.
fn signalled(place: &crate::place::Place, script: &str, signal: i32) -> (Option<i32>, String) {
    let mut child = place.inside(&["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), None, "the shim itself was killed");
    (status.code(), rest)
}

#[test]
fn signals_reach_the_command() {
    everywhere(|place| {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            let plain = "ulimit -c 0; echo ready; exec sleep 1000";
            assert_eq!(signalled(place, plain, signal), (Some(128 + signal), String::new()));
        }
        let caught = "trap 'echo caught; exit 9' TERM; echo ready; sleep 1000 & wait";
        assert_eq!(signalled(place, caught, libc::SIGTERM), (Some(9), "caught\n".to_owned()));
    });
}

#[test]
fn a_mebibyte_passes_unchanged() {
    let sent: Vec<u8> =
        (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    everywhere(|place| {
        let mut child =
            place.inside(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
        let mut received = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
        writer.join().unwrap();
        assert!(child.wait().unwrap().success());
        assert!(received == sent, "{} bytes came, {} were sent", received.len(), sent.len());
    });
}

#[test]
fn output_and_errors_stay_apart() {
    everywhere(|place| {
        let output = place.script("echo out; echo err >&2");
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    });
}

#[test]
fn a_file_of_the_host_as_output_can_be_opened_again() {
    everywhere(|place| {
        let path = place.path("output");
        let file = std::fs::File::create(&path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, mode).unwrap();
        let status =
            place.inside(&["sh", "-c", "echo again > /dev/stdout"]).stdout(file).status().unwrap();
        assert!(status.success());
        assert_eq!(place.read("output"), "again\n");
    });
}
