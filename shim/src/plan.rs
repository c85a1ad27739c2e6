//! From what to confine to a list of steps. Pure: no system call, no environment; what the
//! sandbox will be can be read, compared and tested as a value.
//!
//! Two rules make the order of mounts simple. A mount comes after all that contain it, because
//! they are sorted by depth; of two at one path the later in this file wins, because the sort is
//! stable. And nothing is ever shown that is not named here: the new root is an empty tmpfs.

use crate::env::SOCKET_INSIDE;
use crate::spec::{Identity, Spec, SystemEntry};
use agentfs_api::types::ScratchOwner;
use agentfs_core::RelPath;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// All that the inner process does, in the order in which it does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// For errors: whose sandbox it is.
    pub agent: String,
    /// Map this user and group to themselves in a new user namespace; none if root starts it.
    pub user_namespace: Option<(u32, u32)>,
    /// Build the new root by these, in order.
    pub steps: Vec<Step>,
    /// What is mounted over the view after that, in a namespace of its own.
    pub scratch: Option<Scratch>,
    /// Become this user and group; none if the caller is already who it shall be.
    pub become_user: Option<(u32, u32)>,
    /// What Landlock allows, beside reading and executing everything that is mounted.
    pub writable: Vec<PathBuf>,
    /// How the command meets the terminal.
    pub stdio: Stdio,
    /// Whether the outer process hears of every exec, and decides about it.
    pub execs_are_heard: bool,
    /// The working directory.
    pub cwd: PathBuf,
    /// The command.
    pub argv: Vec<OsString>,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
}

/// Scratch directories, to be mounted over the view where they are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Base outside, and the view inside: both are at the repository's own path.
    pub root: PathBuf,
    /// Where the upper layers are: see [`agentfs_api::types::ScratchMounts`].
    pub layers: PathBuf,
    /// Whether the format's attributes are those that everyone may set.
    pub user_format: bool,
    /// Whose files are to be shown as whose.
    pub owner: Option<ScratchOwner>,
    /// The directories.
    pub directories: Vec<Overlay>,
}

/// One scratch directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Where.
    pub path: RelPath,
    /// Which work directory is its own.
    pub number: usize,
    /// Whether base's directory shows below the delta's.
    pub over_base: bool,
}

/// One step of building the new root. Paths named `at` are inside, `from` outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// An empty private file system.
    Tmpfs {
        /// Where.
        at: PathBuf,
        /// The permissions of its top directory.
        mode: u32,
    },
    /// Something of the host, with all that is mounted below it.
    Bind {
        /// What.
        from: PathBuf,
        /// Where.
        at: PathBuf,
        /// What may be done with it.
        access: Access,
        /// What to do where it can't be had.
        otherwise: Otherwise,
    },
    /// A new /proc of the new pid namespace.
    Proc {
        /// Where.
        at: PathBuf,
    },
    /// A new set of pseudo-terminals.
    Devpts {
        /// Where.
        at: PathBuf,
    },
    /// A symbolic link, unless something is there.
    Link {
        /// Where.
        at: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// Hides what is there, if something is.
    Mask {
        /// Where.
        at: PathBuf,
    },
    /// Makes the new root itself read-only.
    SealRoot,
}

/// What may be done below a bind mount. None gives set-user-id programs their effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Reading and executing; no devices.
    ReadOnly,
    /// Everything but devices.
    Writable,
    /// A device node.
    Device,
}

/// What to do where a bind mount's source is missing, or its place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Otherwise {
    /// No sandbox.
    Refuse,
    /// Go on without it.
    Skip,
}

/// How the command meets the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// A pseudo-terminal of the sandbox's own, relayed by the outer process.
    Terminal {
        /// Whether the command's errors go there too, rather than where they went before.
        errors: bool,
    },
    /// The descriptors 0, 1 and 2 as they are.
    Inherited,
}

/// The device nodes that programs count on.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The links in /dev that programs count on.
const DEVICE_LINKS: [(&str, &str); 6] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

impl Plan {
    /// The plan for `spec`.
    pub fn of(spec: &Spec, stdio: Stdio) -> Self {
        let (user_namespace, become_user) = match spec.identity {
            Identity::Rootless { uid, gid } => (Some((uid, gid)), None),
            Identity::Become { uid, gid } => (None, Some((uid, gid))),
        };
        let steps = steps(spec);
        Self {
            agent: spec.agent.to_string(),
            user_namespace,
            scratch: scratch(spec, &steps),
            steps,
            become_user,
            writable: writable(spec),
            stdio,
            execs_are_heard: false,
            cwd: spec.cwd.clone(),
            argv: spec.argv.clone(),
            env: spec.env.clone(),
        }
    }
}

impl Plan {
    /// The same, where the outer process hears of every exec if `heard`.
    #[must_use]
    pub fn with_execs_heard(self, heard: bool) -> Self {
        Self { execs_are_heard: heard, ..self }
    }
}

fn steps(spec: &Spec) -> Vec<Step> {
    let mut steps = system(spec);
    steps.extend(private_directories());
    steps.extend(devices());
    steps.extend(spec.tools.iter().map(|tool| read_only(tool, Otherwise::Skip)));
    steps.extend(spec.resolver.iter().map(|file| read_only(file, Otherwise::Skip)));
    steps.extend(spec.secrets.iter().map(|at| Step::Mask { at: at.clone() }));
    let shown = |hidden: &&PathBuf| {
        let system = spec.system.iter().map(SystemEntry::path);
        let places = spec.places.iter().map(|place| place.at.as_path());
        let mut visible = system.chain(spec.tools.iter().map(PathBuf::as_path)).chain(places);
        visible.any(|dir| hidden.starts_with(dir)) || hidden.starts_with(&spec.root)
    };
    steps.extend(spec.hidden.iter().filter(shown).map(|at| Step::Mask { at: at.clone() }));
    steps.push(writable_bind(&spec.home, &spec.user_home));
    steps.extend(
        spec.home_alias.iter().map(|at| Step::Link { at: at.clone(), to: spec.user_home.clone() }),
    );
    steps.push(writable_bind(&spec.view, &spec.root));
    steps.extend(spec.places.iter().map(|place| {
        let (access, otherwise) = if place.writable {
            (Access::Writable, Otherwise::Refuse)
        } else {
            (Access::ReadOnly, Otherwise::Skip)
        };
        Step::Bind { from: place.from.clone(), at: place.at.clone(), access, otherwise }
    }));
    steps.push(writable_bind(&spec.socket, Path::new(SOCKET_INSIDE)));
    steps.sort_by_key(|step| step.at().components().count());
    steps.push(Step::SealRoot);
    steps
}

/// The scratch directories but for those that would cover something of the sandbox's own.
fn scratch(spec: &Spec, steps: &[Step]) -> Option<Scratch> {
    let mounts = spec.scratch.as_ref()?;
    let covers = |path: &RelPath| {
        let at = spec.root.join(path.to_path_buf());
        steps.iter().any(|step| step.at().starts_with(&at))
    };
    let all = mounts.directories.iter().enumerate().map(|(number, one)| Overlay {
        path: one.path.clone(),
        number,
        over_base: one.over_base,
    });
    Some(Scratch {
        root: spec.root.clone(),
        layers: mounts.layers.clone(),
        user_format: mounts.user_format,
        owner: mounts.owner,
        directories: all.filter(|one| !covers(&one.path)).collect(),
    })
}

fn system(spec: &Spec) -> Vec<Step> {
    let entries = spec.system.iter().map(|entry| match entry {
        SystemEntry::Dir(path) => read_only(path, Otherwise::Refuse),
        SystemEntry::Link { at, to } => Step::Link { at: at.clone(), to: to.clone() },
    });
    entries.chain([read_only(Path::new("/sys"), Otherwise::Skip)]).collect()
}

fn private_directories() -> impl Iterator<Item = Step> {
    let tmpfs = |(at, mode): (&str, u32)| Step::Tmpfs { at: at.into(), mode };
    let all = [
        ("/dev", 0o755),
        ("/dev/shm", 0o1777),
        ("/run", 0o755),
        ("/tmp", 0o1777),
        ("/var/tmp", 0o1777),
    ];
    all.into_iter().map(tmpfs).chain([Step::Proc { at: "/proc".into() }])
}

fn devices() -> impl Iterator<Item = Step> {
    let nodes = DEVICES.into_iter().map(|node| Step::Bind {
        from: node.into(),
        at: node.into(),
        access: Access::Device,
        otherwise: Otherwise::Refuse,
    });
    let links =
        DEVICE_LINKS.into_iter().map(|(at, to)| Step::Link { at: at.into(), to: to.into() });
    nodes.chain([Step::Devpts { at: "/dev/pts".into() }]).chain(links)
}

/// Where Landlock allows writing.
///
/// A Landlock rule belongs to an inode, and the top of a FUSE view gets a new one when the daemon
/// mounts it again; its parent directory here does not. So the rule for the view is on the
/// parent, which is empty but for the view, read-only, or the home; so for each writable place of
/// the repository's, which is served as the view is. A repository directly below
/// `/` has the rule itself, because one on `/` would allow writing everywhere.
fn writable(spec: &Spec) -> Vec<PathBuf> {
    let places = spec.places.iter().filter(|place| place.writable).map(|place| &place.at);
    let served = std::iter::once(&spec.root).chain(places).map(|at| {
        let parent = at.parent().filter(|parent| *parent != Path::new("/"));
        parent.unwrap_or(at)
    });
    let own = ["/dev", "/proc", "/run", "/tmp", "/var/tmp"].into_iter().map(Path::new);
    let mut all: Vec<PathBuf> =
        own.chain([spec.user_home.as_path()]).chain(served).map(Path::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

fn read_only(path: &Path, otherwise: Otherwise) -> Step {
    Step::Bind { from: path.into(), at: path.into(), access: Access::ReadOnly, otherwise }
}

fn writable_bind(from: &Path, at: &Path) -> Step {
    Step::Bind {
        from: from.into(),
        at: at.into(),
        access: Access::Writable,
        otherwise: Otherwise::Refuse,
    }
}

impl Step {
    /// Where it puts something.
    pub fn at(&self) -> &Path {
        match self {
            Self::Tmpfs { at, .. }
            | Self::Bind { at, .. }
            | Self::Proc { at }
            | Self::Devpts { at }
            | Self::Link { at, .. }
            | Self::Mask { at } => at,
            Self::SealRoot => Path::new("/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentfs_api::types::{ScratchDirectory, ScratchMounts};
    use agentfs_core::RunId;

    fn spec(root: &str) -> Spec {
        Spec {
            agent: "alice".parse().unwrap(),
            run: RunId(1),
            root: root.into(),
            view: "/state/views/alice".into(),
            home: "/state/homes/alice".into(),
            user_home: "/home/u".into(),
            home_alias: None,
            socket: "/state/alice.sock".into(),
            identity: Identity::Rootless { uid: 1000, gid: 1000 },
            cwd: root.into(),
            argv: vec!["true".into()],
            env: Vec::new(),
            system: vec![
                SystemEntry::Dir("/usr".into()),
                SystemEntry::Link { at: "/bin".into(), to: "usr/bin".into() },
                SystemEntry::Dir("/opt".into()),
            ],
            resolver: None,
            tools: vec!["/home/u/.cargo".into()],
            secrets: vec!["/home/u/.cargo/credentials.toml".into()],
            hidden: vec!["/state".into()],
            scratch: None,
            places: Vec::new(),
        }
    }

    fn position(steps: &[Step], wanted: &str) -> usize {
        let found = steps.iter().rposition(|step| step.at() == Path::new(wanted));
        found.unwrap_or_else(|| panic!("nothing is mounted at {wanted}: {steps:#?}"))
    }

    #[test]
    fn a_mount_comes_after_all_that_contain_it() {
        for root in ["/home/u/repo", "/tmp/a/b/repo", "/usr/src/repo", "/repo", "/home/u/.cargo/x"]
        {
            let plan = Plan::of(&spec(root), Stdio::Inherited);
            for (at, step) in plan.steps.iter().enumerate() {
                let later = plan.steps[at + 1..].iter().find(|later| {
                    **later != Step::SealRoot
                        && later.at() != step.at()
                        && step.at().starts_with(later.at())
                });
                assert_eq!(later, None, "covers {step:?}");
            }
            assert_eq!(plan.steps.last(), Some(&Step::SealRoot));
        }
    }

    #[test]
    fn the_view_is_what_is_seen_at_the_repositorys_path() {
        for root in ["/home/u/repo", "/home/u", "/tmp/repo", "/usr/src/repo"] {
            let plan = Plan::of(&spec(root), Stdio::Inherited);
            assert!(
                matches!(&plan.steps[position(&plan.steps, root)],
                    Step::Bind { from, access: Access::Writable, .. }
                        if from == Path::new("/state/views/alice")),
                "{root}"
            );
        }
    }

    #[test]
    fn nothing_of_the_host_is_writable_but_view_home_and_socket() {
        let plan = Plan::of(&spec("/home/u/repo"), Stdio::Inherited);
        let mut writable: Vec<&Path> = plan
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Bind { from, access: Access::Writable, .. } => Some(from.as_path()),
                _ => None,
            })
            .collect();
        writable.sort();
        let expected = ["/state/alice.sock", "/state/homes/alice", "/state/views/alice"];
        assert_eq!(writable, expected.map(Path::new));
    }

    #[test]
    fn scratch_never_covers_what_the_sandbox_shows() {
        let mut spec = spec("/repo");
        spec.user_home = "/repo/homes/u".into();
        let directory =
            |path: &str| ScratchDirectory { path: path.parse().unwrap(), over_base: true };
        spec.scratch = Some(ScratchMounts {
            layers: "/state/agents/alice".into(),
            user_format: false,
            owner: None,
            directories: ["target", "homes", "a/b"].map(directory).into(),
        });
        let scratch = Plan::of(&spec, Stdio::Inherited).scratch.unwrap();
        let mounted: Vec<(String, usize)> =
            scratch.directories.iter().map(|one| (one.path.to_string(), one.number)).collect();
        assert_eq!(mounted, [("target".to_owned(), 0), ("a/b".to_owned(), 2)]);
    }

    #[test]
    fn secrets_are_masked_after_the_tool_that_has_them() {
        let plan = Plan::of(&spec("/home/u/repo"), Stdio::Inherited);
        let mask = Step::Mask { at: "/home/u/.cargo/credentials.toml".into() };
        let at = plan.steps.iter().position(|step| *step == mask).unwrap();
        assert!(position(&plan.steps, "/home/u/.cargo") < at);
    }

    #[test]
    fn the_daemons_directories_are_masked_only_where_something_would_show_them() {
        let masks = |hidden: &str, root: &str| {
            let mut spec = spec(root);
            spec.hidden = vec![hidden.into()];
            let plan = Plan::of(&spec, Stdio::Inherited);
            plan.steps.contains(&Step::Mask { at: hidden.into() })
        };
        assert!(!masks("/state", "/repo"));
        assert!(masks("/opt/agentfs", "/repo"));
        assert!(masks("/home/u/.cargo/state", "/repo"));
        assert!(masks("/repo/.state", "/repo"));
    }

    #[test]
    fn landlock_allows_the_views_parent_but_never_everything() {
        let writable = |root: &str| Plan::of(&spec(root), Stdio::Inherited).writable;
        assert!(writable("/srv/repo").contains(&"/srv".into()));
        assert!(writable("/repo").contains(&"/repo".into()));
        for root in ["/repo", "/srv/repo", "/home/u/repo"] {
            assert!(!writable(root).contains(&"/".into()), "{root}");
        }
    }

    #[test]
    fn a_repository_around_the_workspace_is_read_only_but_for_its_git_directory() {
        let mut spec = spec("/srv/repo/sub");
        let place = |from: &str, at: &str, writable| agentfs_api::types::Place {
            from: from.into(),
            at: at.into(),
            writable,
        };
        spec.places = vec![
            place("/srv/repo", "/srv/repo", false),
            place("/state/views/alice/.git-above", "/srv/repo/.git", true),
        ];
        spec.hidden = vec!["/srv/repo/state".into()];
        let plan = Plan::of(&spec, Stdio::Inherited);
        let access = |at: &str| match &plan.steps[position(&plan.steps, at)] {
            Step::Bind { access, .. } => *access,
            other => panic!("{other:?}"),
        };
        assert_eq!(access("/srv/repo"), Access::ReadOnly);
        assert_eq!(access("/srv/repo/.git"), Access::Writable);
        assert_eq!(access("/srv/repo/sub"), Access::Writable);
        let around = position(&plan.steps, "/srv/repo");
        assert!(
            ["/srv/repo/.git", "/srv/repo/sub"]
                .iter()
                .all(|inner| around < position(&plan.steps, inner))
        );
        assert!(plan.steps.contains(&Step::Mask { at: "/srv/repo/state".into() }));
        assert!(plan.writable.contains(&"/srv/repo".into()));
    }

    #[test]
    fn root_becomes_another_user_and_needs_no_user_namespace() {
        let mut spec = spec("/repo");
        let plan = Plan::of(&spec, Stdio::Inherited);
        assert_eq!((plan.user_namespace, plan.become_user), (Some((1000, 1000)), None));
        spec.identity = Identity::Become { uid: 65534, gid: 65534 };
        let plan = Plan::of(&spec, Stdio::Inherited);
        assert_eq!((plan.user_namespace, plan.become_user), (None, Some((65534, 65534))));
    }

    #[test]
    fn a_plan_survives_its_way_to_the_inner_process() {
        use std::os::unix::ffi::OsStringExt;
        let mut spec = spec("/repo");
        spec.argv.push(OsString::from_vec(vec![0xff, b'a']));
        spec.env.push(("X".into(), OsString::from_vec(vec![0xfe])));
        let plan = Plan::of(&spec, Stdio::Terminal { errors: true });
        let json = serde_json::to_vec(&plan).unwrap();
        assert_eq!(serde_json::from_slice::<Plan>(&json).unwrap(), plan);
    }
}
