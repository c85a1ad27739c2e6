//! The environment inside: the user's own, without what would lead out of the sandbox.

use agentfs_core::{AgentName, RunId};
use std::ffi::OsString;
use std::path::Path;

/// Where the agent's control socket is inside.
pub const SOCKET_INSIDE: &str = "/run/agentfs/agent.sock";

/// Variables that name sockets and directories of the host, which do not exist inside.
const DROPPED: [&str; 6] = [
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "AGENTFS_STATE_DIR",
    "AGENTFS_RUNTIME_DIR",
    "OLDPWD",
];

/// The environment of a run's command, given the user's.
pub fn inside(
    outside: impl Iterator<Item = (OsString, OsString)>,
    agent: &AgentName,
    run: RunId,
    home: &Path,
    cwd: &Path,
) -> Vec<(OsString, OsString)> {
    let own: [(&str, OsString); 6] = [
        (agentfs_api::types::SOCKET_VARIABLE, SOCKET_INSIDE.into()),
        ("AGENTFS_AGENT", agent.as_str().into()),
        ("AGENTFS_RUN", run.to_string().into()),
        ("HOME", home.into()),
        ("PWD", cwd.into()),
        ("TMPDIR", "/tmp".into()),
    ];
    let kept = |name: &OsString| {
        !DROPPED.iter().any(|dropped| name == dropped) && !own.iter().any(|(mine, _)| name == mine)
    };
    let mut env: Vec<_> = outside.filter(|(name, _)| kept(name)).collect();
    env.extend(own.map(|(name, value)| (name.into(), value)));
    env
}

/// Has git take the repository at `worktree`, which is around the view and so on another file
/// system, for the one to use and for one of the user's own, whoever owns it.
pub fn let_git_find(env: &mut Vec<(OsString, OsString)>, worktree: &Path) {
    const ACROSS: &str = "GIT_DISCOVERY_ACROSS_FILESYSTEM";
    const COUNT: &str = "GIT_CONFIG_COUNT";
    let counted = env.iter().position(|(name, _)| name == COUNT);
    let count = counted.and_then(|at| env.swap_remove(at).1.to_str()?.parse().ok()).unwrap_or(0u32);
    env.retain(|(name, _)| name != ACROSS);
    env.push((ACROSS.into(), "1".into()));
    env.push((COUNT.into(), (count + 1).to_string().into()));
    env.push((format!("GIT_CONFIG_KEY_{count}").into(), "safe.directory".into()));
    env.push((format!("GIT_CONFIG_VALUE_{count}").into(), worktree.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_finds_one_directory_more() {
        let mut env = Vec::new();
        let_git_find(&mut env, Path::new("/a"));
        let_git_find(&mut env, Path::new("/b"));
        env.sort();
        let text: Vec<String> =
            env.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
        assert_eq!(
            text,
            [
                "GIT_CONFIG_COUNT=2",
                "GIT_CONFIG_KEY_0=safe.directory",
                "GIT_CONFIG_KEY_1=safe.directory",
                "GIT_CONFIG_VALUE_0=/a",
                "GIT_CONFIG_VALUE_1=/b",
                "GIT_DISCOVERY_ACROSS_FILESYSTEM=1",
            ]
        );
    }

    #[test]
    fn the_users_environment_passes_without_the_ways_out() {
        let outside = [
            ("PATH", "/bin"),
            ("HOME", "/other"),
            ("SSH_AUTH_SOCK", "/tmp/agent"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("AGENTFS_STATE_DIR", "/state"),
            ("AGENTFS_AGENT", "somebody"),
            ("TMPDIR", "/var/x"),
        ];
        let outside = outside.into_iter().map(|(name, value)| (name.into(), value.into()));
        let agent: AgentName = "alice".parse().unwrap();
        let env = inside(outside, &agent, RunId(3), Path::new("/home/u"), Path::new("/r"));
        let get = |name: &str| {
            let all: Vec<_> = env.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
            assert!(all.len() <= 1, "{name} is there twice");
            all.first().map(|value| value.to_str().unwrap())
        };
        assert_eq!(get("PATH"), Some("/bin"));
        assert_eq!(get("HOME"), Some("/home/u"));
        assert_eq!(get("AGENTFS_AGENT"), Some("alice"));
        assert_eq!(get("AGENTFS_RUN"), Some("r3"));
        assert_eq!(get("AGENTFS_SOCKET"), Some(SOCKET_INSIDE));
        assert_eq!(get("TMPDIR"), Some("/tmp"));
        assert_eq!(get("PWD"), Some("/r"));
        for gone in ["SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "AGENTFS_STATE_DIR"] {
            assert_eq!(get(gone), None, "{gone} is still there");
        }
    }
}
