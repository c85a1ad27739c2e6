//! What a command can't reach, and what it has lost.

use crate::place::{Place, Starter, everywhere, show};
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

#[test]
fn the_repository_is_at_its_own_path_and_is_the_view() {
    everywhere(|place| {
        let repo = place.path("repo").canonicalize().unwrap();
        let said = place.says("pwd; cat file; echo changed > file; mkdir new; echo x > new/y");
        assert_eq!(said, format!("{}\nview\n", repo.display()));
        assert_eq!(place.read("state/views/alice/file"), "changed\n");
        assert_eq!(place.read("state/views/alice/new/y"), "x\n");
        assert_eq!(place.read("repo/file"), "base\n");
        assert!(!place.path("repo/new").exists());
    });
}

#[test]
fn a_file_can_be_renamed_and_linked_across_directories() {
    everywhere(|place| {
        place.says("mv file sub/moved && ln sub/moved again && rm again");
        assert_eq!(place.read("state/views/alice/sub/moved"), "view\n");
    });
}

#[test]
fn nothing_else_of_the_host_is_there() {
    everywhere(|place| {
        for path in [
            "state/views/alice/file",
            "state/views/bob/file",
            "state/homes/alice",
            "state/sockets/alice.sock",
            "other/secret",
            "started.json",
        ] {
            place.refused(&format!("test -e {}", place.path(path).display()));
        }
    });
}

#[test]
fn the_users_home_is_not_there_and_the_agents_is_private() {
    everywhere(|place| {
        place.refused("cat ~/.ssh/id_ed25519");
        place.refused("cat ~/notes");
        let home = place.path("user").canonicalize().unwrap();
        let said = place.says("echo \"$HOME\"; echo mine > ~/own; mkdir -p ~/.config/x");
        assert_eq!(said, format!("{}\n", home.display()));
        assert_eq!(place.read("state/homes/alice/own"), "mine\n");
        assert!(!place.path("user/own").exists());
    });
}

#[test]
fn temporary_directories_are_private_and_empty() {
    everywhere(|place| {
        for dir in ["/tmp", "/var/tmp", "/dev/shm"] {
            let probe = tempfile::NamedTempFile::new_in(dir).unwrap();
            place.refused(&format!("test -e {}", probe.path().display()));
            let name = format!("{dir}/agentshim-test-{}", std::process::id());
            place.says(&format!("echo x > {name}; cat {name}"));
            assert!(!std::path::Path::new(&name).exists(), "{name} is on the host");
        }
    });
}

#[test]
fn system_directories_can_be_read_and_not_written() {
    everywhere(|place| {
        place.says("cat /etc/passwd /usr/bin/env > /dev/null");
        let said = place.says("touch /etc/x /usr/x /x 2>&1 || true");
        assert_eq!(said.matches("Read-only file system").count(), 3, "{said}");
        let said = place.says("echo x > /proc/sys/kernel/core_pattern; id -u; true");
        assert_ne!(said, "0\n");
    });
}

#[test]
fn every_capability_is_gone_and_none_comes_back() {
    everywhere(|place| {
        let status = place.says("cat /proc/self/status");
        for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{line}:\t0000000000000000\n")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"));
        let outside = place.outside("cat").arg("/proc/self/status").output().unwrap();
        let outside = String::from_utf8(outside.stdout).unwrap();
        assert!(!outside.contains("CapBnd:\t0000000000000000\n"), "{outside}");
        assert!(outside.contains("NoNewPrivs:\t0\n"), "{outside}");
    });
}

/// What a system call answers: perl is on every Debian and calls any number.
fn errno(command: &mut std::process::Command, number: libc::c_long, arguments: &str) -> i32 {
    let script = format!("$r = syscall({number}{arguments}); print $r < 0 ? $!+0 : 0");
    let output = command.args(["-e", &script]).output().unwrap();
    assert!(output.status.success(), "{}", show(&output));
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

#[test]
fn system_calls_that_lead_out_are_refused() {
    let calls = [
        ("unshare", libc::SYS_unshare, ", 0", libc::EPERM),
        ("setns", libc::SYS_setns, ", -1, 0", libc::EPERM),
        ("mount_setattr", libc::SYS_mount_setattr, ", -1, 0, 0, 0, 1", libc::EPERM),
        ("keyctl", libc::SYS_keyctl, ", 0, -3, 1", libc::EPERM),
        ("perf_event_open", libc::SYS_perf_event_open, ", 0, 0, 0, 0, 0", libc::EPERM),
        ("vsock", libc::SYS_socket, ", 40, 9, 0", libc::EPERM),
        ("TIOCSTI", libc::SYS_ioctl, &format!(", -1, {}, 0", libc::TIOCSTI), libc::EPERM),
        ("clone3", libc::SYS_clone3, ", 0, 0", libc::ENOSYS),
        ("io_uring_setup", libc::SYS_io_uring_setup, ", 0, 0", libc::ENOSYS),
    ];
    everywhere(|place| {
        for (name, number, arguments, refusal) in calls {
            let outside = errno(&mut place.outside("perl"), number, arguments);
            assert_ne!(outside, refusal, "{name} is refused outside too: this shows nothing");
            let inside = errno(&mut place.inside(&["perl"]), number, arguments);
            assert_eq!(inside, refusal, "{name}");
        }
    });
}

#[test]
fn no_namespace_and_no_mount_can_be_made() {
    everywhere(|place| {
        place.refused("unshare --user --map-root-user true");
        if place.starter == Starter::Root {
            place.refused("unshare --mount mount -t tmpfs none /mnt");
        }
    });
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach_and_the_control_socket_is_not() {
    let name = format!("agentshim-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let connect = |address: &str| {
        format!(
            "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) or exit 1; \
             connect(S, pack(\"Sa*\", 1, {address})) or exit 2'"
        )
    };
    everywhere(|place| {
        place.refused(&connect(&format!("\"\\0{name}\"")));
        place.says(&connect("$ENV{AGENTFS_SOCKET}"));
        drop(place.socket.accept().unwrap());
    });
    drop(listener);
}

#[test]
fn no_process_of_the_host_is_seen_and_init_is_opaque() {
    everywhere(|place| {
        let said = place.says("ls -d /proc/[0-9]* | wc -l");
        assert!(said.trim().parse::<u32>().unwrap() <= 5, "{said}");
        for secret in ["/proc/1/environ", "/proc/1/mem", "/proc/1/maps"] {
            assert!(!place.script(&format!("cat {secret} > /dev/null")).status.success());
        }
        assert!(!place.script("ls -l /proc/1/root/").status.success());
        place.says("cat /proc/self/environ > /dev/null; kill -9 1; true");
    });
}

#[test]
fn descriptors_of_the_caller_do_not_get_inside() {
    everywhere(|place| {
        let arguments = place.confine(&["ls", "/proc/self/fd"]).join(" ");
        let script =
            format!("exec 9< /etc/passwd; exec {} {arguments}", place.agentshim().display());
        let output = place.outside("sh").args(["-c", &script]).output().unwrap();
        // ls itself has the directory open.
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n2\n3\n", "{}", show(&output));
    });
}

#[test]
fn the_mount_table_names_no_more_than_view_and_home() {
    everywhere(|place| {
        let table = place.says("cat /proc/self/mountinfo");
        for secret in ["bob", "other", ".ssh", "oldroot", "started.json"] {
            assert!(!table.contains(secret), "{secret} in {table}");
        }
        let of_the_daemon = place.path("state").display().to_string();
        assert!(table.matches(&of_the_daemon).count() <= 3, "{table}");
    });
}

#[test]
fn what_the_agent_puts_into_its_home_can_not_move_a_mount() {
    everywhere(|place| {
        place.write("user/.cargo/bin/tool", "");
        place.write("user/.cargo/credentials.toml", "token\n");
        let home = place.path("state/homes/alice");
        std::os::unix::fs::symlink("/etc", home.join(".cargo")).unwrap();
        let mut command = place.inside(&["sh", "-c", "ls -d ~/.cargo/passwd; cat file"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", place.path("user/.cargo/bin").display()));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", show(&output));
        assert!(!std::path::Path::new("/etc/bin").exists());
    });
}

#[test]
fn nothing_survives_the_death_of_the_shim() {
    everywhere(|place| {
        let mut child = waiting(place);
        let mut output = child.stdout.take().unwrap();
        let mut first = [0; 6];
        output.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"ready\n");
        child.kill().unwrap();
        child.wait().unwrap();
        // The end of the output comes when the last process inside has gone, and not before.
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    });
}

fn waiting(place: &Place) -> std::process::Child {
    let script = "setsid sleep 1000 & sleep 1000 & echo ready; wait";
    place.inside(&["sh", "-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap()
}

#[test]
fn nothing_survives_the_end_of_the_command() {
    everywhere(|place| {
        let output = place.script("setsid sleep 1000 & echo done");
        assert_eq!(output.stdout, b"done\n");
        assert!(output.status.success());
    });
}
