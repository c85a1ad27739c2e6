//! Programs that PATH finds: also those in the user's home, without its secrets.

use crate::place::{everywhere, show};
use std::os::unix::fs::symlink;

#[test]
fn a_program_in_the_users_home_runs_and_can_not_be_changed() {
    everywhere(|place| {
        place.write_script("user/bin/hello", "echo hello from $0");
        let program = place.path("user/bin/hello");
        assert_eq!(place.says("hello"), format!("hello from {}\n", program.display()));
        assert!(!place.script("echo x >> ~/bin/hello").status.success());
        assert!(!place.script("touch ~/bin/other").status.success());
    });
}

#[test]
fn a_program_that_is_a_link_has_what_is_behind_it() {
    everywhere(|place| {
        place.write("user/.local/share/pipx/venvs/tool/lib/data", "data\n");
        place.write_script(
            "user/.local/share/pipx/venvs/tool/bin/tool",
            "cat \"$(dirname \"$(readlink -f \"$0\")\")/../lib/data\"",
        );
        place.write("user/.local/share/keyrings/login", "secret\n");
        std::fs::create_dir_all(place.path("user/.local/bin")).unwrap();
        symlink("../share/pipx/venvs/tool/bin/tool", place.path("user/.local/bin/tool")).unwrap();
        let path = format!("{}:/usr/bin:/bin", place.path("user/.local/bin").display());
        let output = place.inside(&["tool"]).env("PATH", &path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "data\n", "{}", show(&output));
        let keyring = ["cat", "../user/.local/share/keyrings/login"];
        assert!(place.outside("cat").arg(keyring[1]).output().unwrap().status.success());
        let output = place.inside(&keyring).env("PATH", &path).output().unwrap();
        assert!(!output.status.success(), "{}", show(&output));
        // The agent can still make its own files beside the mounts in its home.
        let own = ["sh", "-c", "mkdir -p ~/.local/share/own && echo x > ~/.local/share/own/f"];
        let output = place.inside(&own).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{}", show(&output));
        assert_eq!(place.read("state/homes/alice/.local/share/own/f"), "x\n");
    });
}

#[test]
fn a_tools_secrets_are_hidden() {
    everywhere(|place| {
        place.write_script("user/.cargo/bin/cargo-x", "echo x");
        place.write("user/.cargo/credentials.toml", "token\n");
        place.write("user/.cargo/config.toml", "[build]\n");
        let path = format!("{}:/usr/bin:/bin", place.path("user/.cargo/bin").display());
        let script = "cargo-x; cat ~/.cargo/config.toml ~/.cargo/credentials.toml";
        let output = place.inside(&["sh", "-c", script]).env("PATH", &path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n[build]\n", "{}", show(&output));
    });
}

#[test]
fn a_directory_of_programs_outside_the_home_is_shown_alone() {
    everywhere(|place| {
        place.write_script("tools/bin/tool", "echo tool");
        place.write("tools/secret", "secret\n");
        let path = format!("{}:/usr/bin:/bin", place.path("tools/bin").display());
        let script = format!("tool; cat {}", place.path("tools/secret").display());
        let output = place.inside(&["sh", "-c", &script]).env("PATH", &path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "tool\n", "{}", show(&output));
        assert!(!output.status.success());
    });
}

#[test]
fn a_path_that_names_too_much_shows_nothing_more() {
    everywhere(|place| {
        let wide = ["", "user", "state", "state/views", "other/.."].map(|dir| place.path(dir));
        let wide = wide.map(|dir| dir.display().to_string()).join(":");
        for secret in ["user/notes", "state/views/bob/file", "other/secret"] {
            let file = place.path(secret).display().to_string();
            assert!(place.outside("cat").arg(&file).output().unwrap().status.success());
            let mut command = place.inside(&["cat", &file]);
            let output = command.env("PATH", format!("{wide}:/:/tmp:/usr/bin")).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{file}: {}", show(&output));
        }
    });
}

#[test]
fn names_of_hosts_are_looked_up_as_outside() {
    everywhere(|place| {
        let outside = std::fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(place.says("cat /etc/resolv.conf"), outside);
    });
}
