//! Who an agent's commits are by: the user. Its private home begins with the name and the address
//! that the user's own git has for the workspace, and with nothing else of the user's settings,
//! which may hold credentials and name programs to run.

use crate::git;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where git looks for it, below a home.
const FILE: &str = ".gitconfig";

/// What is taken over from the user's settings, as a pattern of git-config(1).
const TAKEN: &str = "^user\\.(name|email)$";

/// Gives the home a git identity, owned by `owner`, unless the agent has settings of its own.
/// Where the user has none, or no git, there is nothing to give. Blocks for one run of git.
pub fn seed(home: &Path, root: &Path, owner: (u32, u32)) -> io::Result<()> {
    if home.join(FILE).symlink_metadata().is_ok() {
        return Ok(());
    }
    let lines: String = git::settings(root, TAKEN, false)
        .iter()
        .filter_map(|(key, value)| {
            Some(format!("\t{} = {}\n", key.strip_prefix("user.")?, quoted(value)))
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    write(home, &format!("[user]\n{lines}"), owner)
}

/// A value as git-config(1) wants it.
fn quoted(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", value.replace('\n', "\\n").replace('\t', "\\t"))
}

/// Makes the file. Never through a link: the home is the agent's.
fn write(home: &Path, text: &str, (uid, gid): (u32, u32)) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let mut file = File::from(rustix::fs::open(home.join(FILE), flags, mode)?);
    file.write_all(text.as_bytes())?;
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::Command;

    /// A repository with an identity of its own, so that the machine's does not matter.
    fn repository(identity: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q"]);
        for (key, value) in identity {
            git(dir.path(), &["config", key, value]);
        }
        dir
    }

    fn git(dir: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git").arg("-C").arg(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn me() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    #[test]
    fn a_new_home_has_the_users_identity_and_nothing_else() {
        let name = "Ada \"the \\ Countess\" L\u{f6}velace; #1";
        let repository = repository(&[
            ("user.name", name),
            ("user.email", "ada@example.org"),
            ("credential.helper", "store --file /secret"),
        ]);
        let home = tempfile::tempdir().unwrap();
        let owner = if me().0 == 0 { (4242, 4343) } else { me() };
        seed(home.path(), repository.path(), owner).unwrap();
        let file = home.path().join(FILE);
        let found = file.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), owner);
        let file = file.to_str().unwrap();
        let get = |key| git(Path::new("/"), &["config", "--file", file, key]);
        assert_eq!(
            (get("user.name").as_str(), get("user.email").as_str()),
            (name, "ada@example.org")
        );
        let all = git(Path::new("/"), &["config", "--file", file, "--list", "--name-only"]);
        assert_eq!(all, "user.email\nuser.name");
    }

    #[test]
    fn what_the_agent_has_put_there_stays_and_is_not_followed() {
        let repository = repository(&[("user.name", "Ada")]);
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(FILE);
        std::fs::write(&file, "[user]\n\tname = own\n").unwrap();
        seed(home.path(), repository.path(), me()).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "[user]\n\tname = own\n");
        std::fs::remove_file(&file).unwrap();
        symlink(home.path().join("elsewhere"), &file).unwrap();
        seed(home.path(), repository.path(), me()).unwrap();
        assert!(write(home.path(), "x", me()).is_err(), "a link was followed");
        assert!(!home.path().join("elsewhere").exists());
    }
}
