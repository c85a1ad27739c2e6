//! `agentshim probe`: what of a sandbox can be had on this machine, tried for real.
//!
//! Trials and judgements are apart: what a finding means and what to do about it is decided by
//! pure functions.

use crate::apply::probe as trial;
use crate::error::SandboxError;
use crate::plan::{Overlay, Plan, Scratch, Stdio};
use crate::run::RunError;
use crate::sandbox::{Ended, Sandbox};
use crate::signals::Signals;
use crate::spec::Spec;
use agentfs_api::Workspace;
use agentfs_api::types::{Check, ScratchOwner, StartedRun, Verdict};
use agentfs_core::config::Span;
use agentfs_core::machine::Exit;
use agentfs_core::process_rules::ProcessRules;
use agentfs_core::{AgentName, RelPath, RunId};
use procfs::process::Process;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whom root becomes in the sandbox that is tried: `nobody`.
const NOBODY: (u32, u32) = (65_534, 65_534);

/// The control groups that limits are made of.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Tries everything, in the order in which a sandbox is built. Takes about as long as one run of
/// `true`. Call it on the main thread, before there are others.
pub fn all() -> Vec<Check> {
    let root = nix::unistd::geteuid().is_root();
    vec![
        landlock(trial::landlock_version()),
        if root {
            ok("user namespaces", "not needed by root")
        } else {
            user_namespaces(trial::user_namespaces(), &Settings::of_this_machine())
        },
        seccomp(trial::seccomp()),
        cgroups(&hierarchies()),
        scratch(try_scratch()),
        sandbox(try_sandbox()),
    ]
}

fn ok(name: &str, finding: impl Into<String>) -> Check {
    check(name, Verdict::Ok, finding, None)
}

fn check(
    name: &str,
    verdict: Verdict,
    finding: impl Into<String>,
    remedy: Option<String>,
) -> Check {
    Check { name: name.to_owned(), verdict, finding: finding.into(), remedy }
}

/// What is missing, by an error's sentence: what failed; what to do.
fn missing(name: &str, error: &impl ToString) -> Check {
    let sentence = error.to_string();
    let (finding, remedy) = match sentence.split_once("; ") {
        Some((finding, remedy)) => (finding, Some(remedy.to_owned())),
        None => (sentence.as_str(), None),
    };
    check(name, Verdict::Missing, finding, remedy)
}

fn landlock(version: i64) -> Check {
    let (verdict, means) = match version {
        0 => (Verdict::Missing, "not there: nothing guards files beside the mounts".to_owned()),
        old if old < trial::LANDLOCK_REQUIRED => (
            Verdict::Missing,
            format!("version {old}: it can't allow renaming from one directory to another"),
        ),
        old if old < trial::LANDLOCK_FOR_ALL => (
            Verdict::Limited,
            format!("version {old}: files are guarded, abstract sockets and signals are not"),
        ),
        new => (Verdict::Ok, format!("version {new}: guards files, abstract sockets and signals")),
    };
    let remedy = match verdict {
        Verdict::Ok => None,
        Verdict::Limited => Some("use Linux 6.12 or newer"),
        Verdict::Missing => {
            Some("use Linux 5.19 or newer with `landlock` in the boot parameter `lsm=`")
        }
    };
    check("Landlock", verdict, means, remedy.map(str::to_owned))
}

/// The settings that keep users from having namespaces of their own.
#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    /// `user.max_user_namespaces`.
    max: Option<i64>,
    /// `kernel.unprivileged_userns_clone`, of Debian's kernels.
    clone: Option<i64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu's kernels.
    apparmor: Option<i64>,
}

impl Settings {
    fn of_this_machine() -> Self {
        let read = |name: &str| {
            let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
            text.trim().parse().ok()
        };
        Self {
            max: read("user/max_user_namespaces"),
            clone: read("kernel/unprivileged_userns_clone"),
            apparmor: read("kernel/apparmor_restrict_unprivileged_userns"),
        }
    }

    /// The commands that allow namespaces, as far as they are known to be needed.
    fn remedy(self) -> Option<String> {
        let commands: Vec<&str> = [
            (self.max == Some(0)).then_some("user.max_user_namespaces=10000"),
            (self.clone == Some(0)).then_some("kernel.unprivileged_userns_clone=1"),
            (self.apparmor == Some(1)).then_some("kernel.apparmor_restrict_unprivileged_userns=0"),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!commands.is_empty())
            .then(|| format!("`sudo sysctl {}`, or run agentshim as root", commands.join(" ")))
    }
}

fn user_namespaces(tried: Result<(), SandboxError>, settings: &Settings) -> Check {
    let name = "user namespaces";
    match tried {
        Ok(()) => ok(name, "can be made and used"),
        Err(error) => {
            let mut check = missing(name, &error);
            let in_a_container =
                || "in a container, allow it user namespaces and mounts".to_owned();
            check.remedy = settings.remedy().or(check.remedy).or_else(|| Some(in_a_container()));
            check
        }
    }
}

fn seccomp(tried: Result<(), SandboxError>) -> Check {
    match tried {
        Ok(()) => ok("seccomp", "the system call filter can be installed"),
        Err(error) => missing("seccomp", &error),
    }
}

/// One hierarchy of control groups, with this process's place in it.
#[derive(Clone, Debug)]
struct Hierarchy {
    version: u8,
    controllers: Vec<String>,
    /// Whether a group could be made there.
    ours: bool,
}

/// All hierarchies that this process is in; none where /proc does not tell.
fn hierarchies() -> Vec<Hierarchy> {
    let look = || {
        let process = Process::myself()?;
        procfs::ProcResult::Ok((process.mountinfo()?, process.cgroups()?))
    };
    let Ok((mounts, groups)) = look() else { return Vec::new() };
    let places = groups.0.into_iter().filter_map(|group| {
        let version = if group.hierarchy == 0 { 2 } else { 1 };
        let mount = mounts.0.iter().find(|mount| match version {
            2 => mount.fs_type == "cgroup2",
            _ => {
                mount.fs_type == "cgroup"
                    && group.controllers.iter().all(|name| mount.super_options.contains_key(name))
            }
        })?;
        // In a container the top of what is mounted is not the top of the hierarchy.
        let group_path = Path::new(&group.pathname);
        let below = group_path.strip_prefix(&mount.root).or_else(|_| group_path.strip_prefix("/"));
        let place = mount.mount_point.join(below.ok()?);
        let controllers = match version {
            2 => std::fs::read_to_string(place.join("cgroup.controllers"))
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            _ => group.controllers,
        };
        Some((version, controllers, place))
    });
    places
        .filter(|(_, controllers, _)| controllers.iter().any(|name| CONTROLLERS.contains(&&**name)))
        .map(|(version, controllers, place)| Hierarchy {
            version,
            controllers,
            ours: can_make_a_group(&place),
        })
        .collect()
}

fn can_make_a_group(place: &Path) -> bool {
    let group = place.join(format!("agentshim-probe-{}", std::process::id()));
    std::fs::create_dir(&group).and_then(|()| std::fs::remove_dir(&group)).is_ok()
}

fn cgroups(found: &[Hierarchy]) -> Check {
    let version_for = |name: &str| {
        let has = |one: &&Hierarchy| one.ours && one.controllers.iter().any(|own| own == name);
        found.iter().find(has).map(|one| one.version)
    };
    let list = |there: bool| {
        let names = CONTROLLERS.into_iter().filter(|name| version_for(name).is_some() == there);
        names.collect::<Vec<_>>().join(", ")
    };
    let remedy = "run where they are delegated, as by `systemd-run --user --scope -p Delegate=yes agentshim run -- CMD`";
    let limited =
        |finding: String| check("cgroups", Verdict::Limited, finding, Some(remedy.to_owned()));
    match (list(true), list(false)) {
        (all, none) if none.is_empty() => {
            let version = CONTROLLERS.into_iter().filter_map(version_for).max().unwrap_or(2);
            let how = if version == 2 { "v2, delegated" } else { "v1, writable" };
            ok("cgroups", format!("{how}: a run can be limited as a whole in {all}"))
        }
        (none, all) if none.is_empty() => limited(format!(
            "none can be made: limits in {all} can hold for single processes alone (rlimits)"
        )),
        (some, others) => limited(format!(
            "a run can be limited as a whole in {some}; in {others} only its single processes can"
        )),
    }
}

fn sandbox(tried: Result<Ended, RunError>) -> Check {
    let name = "sandbox";
    match tried {
        Ok(Ended::Ran(Exit::Code(0))) => ok(name, "was built whole, and ran a command"),
        Ok(Ended::Ran(exit)) => {
            check(name, Verdict::Missing, format!("was built, but `true` in it {exit}"), None)
        }
        Ok(Ended::NotExecuted(errno)) => check(
            name,
            Verdict::Missing,
            format!("was built, but `true` can't be executed in it: {}", errno.desc()),
            Some("see that PATH has a directory with `true`".to_owned()),
        ),
        Err(error) => missing(name, &error),
    }
}

fn scratch(tried: io::Result<Result<(), SandboxError>>) -> Check {
    let name = "scratch";
    let limited = |why: String| {
        let finding = format!("can't be mounted ({why}): views serve it, right but slower");
        let remedy = "keep the state directory (AGENTFS_STATE_DIR) on ext4, xfs or btrfs, with Linux 5.19 or newer";
        check(name, Verdict::Limited, finding, Some(remedy.to_owned()))
    };
    match tried {
        Ok(Ok(())) => ok(name, "build directories can be mounted by kernel overlayfs"),
        Ok(Err(error)) => limited(error.to_string()),
        Err(error) => limited(error.to_string()),
    }
}

/// Makes the layers of a workspace with one scratch directory where states are kept, and mounts it.
fn try_scratch() -> io::Result<Result<(), SandboxError>> {
    let mut place = tempfile::Builder::new();
    place.prefix("agentshim-probe-");
    let here = std::env::current_dir().ok().and_then(|dir| Workspace::containing(&dir).ok());
    let states = here.and_then(|it| Some(it.state_dir.parent()?.to_owned()));
    let directory = match states.and_then(|dir| place.tempdir_in(dir).ok()) {
        Some(directory) => directory,
        None => place.tempdir()?,
    };
    let top = directory.path().canonicalize()?;
    for name in ["base/target", "layers/delta/target", "layers/mounts/0"] {
        std::fs::create_dir_all(top.join(name))?;
    }
    let root = nix::unistd::geteuid().is_root();
    let target = Overlay {
        path: RelPath::from_bytes(b"target").map_err(io::Error::other)?,
        number: 0,
        over_base: true,
    };
    let tried = trial::scratch(&Scratch {
        root: top.join("base"),
        layers: top.join("layers"),
        user_format: !root,
        owner: root.then_some(ScratchOwner { host: (0, 0), shown: NOBODY }),
        directories: vec![target],
    });
    // Overlayfs leaves directories there that nobody may read; none if it was not mounted.
    for left in ["work", "work/incompat", "work/incompat/volatile"] {
        let left = top.join("layers/mounts/0").join(left);
        let _ = std::fs::set_permissions(left, std::fs::Permissions::from_mode(0o700));
    }
    directory.close()?;
    Ok(tried)
}

/// Builds a whole sandbox and runs `true` in it; a plain directory stands for the view.
fn try_sandbox() -> Result<Ended, RunError> {
    let signals = Signals::take().map_err(RunError::Signals)?;
    let place = Place::make().map_err(RunError::CurrentDirectory)?;
    let started = place.started()?;
    let spec = Spec::gather(&started, vec!["true".into()], &[])?;
    let sandbox = Sandbox::launch(&Plan::of(&spec, Stdio::Inherited))?;
    Ok(sandbox.supervise(&signals, None, |_| {})?)
}

/// Everything that a sandbox shows of a workspace, empty; gone when dropped.
struct Place {
    directory: tempfile::TempDir,
    top: PathBuf,
    run_as: Option<(u32, u32)>,
}

impl Place {
    /// Makes it, and stands in its repository.
    fn make() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("agentshim-probe-").tempdir()?;
        let top = directory.path().canonicalize()?;
        let run_as = nix::unistd::geteuid().is_root().then_some(NOBODY);
        for name in ["repository", "views", "homes", "sockets", "views/probe", "homes/probe"] {
            std::fs::create_dir(top.join(name))?;
        }
        std::fs::write(top.join("sockets/probe"), "")?;
        if let Some((uid, gid)) = run_as {
            for name in ["views/probe", "homes/probe"] {
                chown(top.join(name), Some(uid), Some(gid))?;
            }
        }
        std::env::set_current_dir(top.join("repository"))?;
        Ok(Self { directory, top, run_as })
    }

    fn started(&self) -> Result<StartedRun, RunError> {
        let agent: AgentName = "probe".parse().map_err(|error| RunError::Description {
            path: self.directory.path().to_owned(),
            why: format!("{error}"),
        })?;
        Ok(StartedRun {
            run: RunId(0),
            agent,
            root: self.top.join("repository"),
            view: self.top.join("views/probe"),
            home: self.top.join("homes/probe"),
            socket: self.top.join("sockets/probe"),
            run_as: self.run_as,
            heartbeat: Span(Duration::from_secs(10)),
            scratch: None,
            places: Vec::new(),
            processes: ProcessRules::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn hierarchy(version: u8, controllers: &[&str], ours: bool) -> Hierarchy {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Hierarchy { version, controllers, ours }
    }

    #[test]
    fn landlock_is_judged_by_its_version() {
        use Verdict::{Limited, Missing, Ok};
        let verdicts = [0, 1, 2, 5, 6, 9].map(|version| landlock(version).verdict);
        assert_eq!(verdicts, [Missing, Missing, Limited, Limited, Ok, Ok]);
        assert!(landlock(6).remedy.is_none() && landlock(5).remedy.is_some());
    }

    #[test]
    fn the_setting_that_forbids_namespaces_is_named() {
        let refused = |settings| {
            let error = SandboxError::Namespaces { cause: Errno::EPERM };
            user_namespaces(Err(error), &settings).remedy.unwrap()
        };
        let ubuntu = Settings { max: Some(127_000), apparmor: Some(1), ..Settings::default() };
        let debian = Settings { clone: Some(0), ..Settings::default() };
        let none = Settings { max: Some(0), ..Settings::default() };
        assert!(refused(ubuntu).contains("sysctl kernel.apparmor_restrict_unprivileged_userns=0`"));
        assert!(refused(debian).contains("sysctl kernel.unprivileged_userns_clone=1`"));
        assert!(refused(none).contains("sysctl user.max_user_namespaces=10000`"));
        // Where no setting is to blame the error's own remedy stays.
        assert!(refused(Settings::default()).starts_with("allow user namespaces with"));
        let check = user_namespaces(Ok(()), &Settings::default());
        assert_eq!((check.verdict, check.remedy), (Verdict::Ok, None));
    }

    #[test]
    fn a_failed_step_is_the_finding_and_what_to_do_the_remedy() {
        let check = sandbox(Err(SandboxError::Seccomp("no".to_owned()).into()));
        assert_eq!(check.verdict, Verdict::Missing);
        assert_eq!(check.finding, "the system call filter could not be installed: no");
        assert_eq!(check.remedy.unwrap(), "use a kernel with CONFIG_SECCOMP_FILTER");
    }

    #[test]
    fn a_sandbox_counts_only_if_the_command_in_it_succeeds() {
        let verdict = |ended| sandbox(Ok(ended)).verdict;
        assert_eq!(verdict(Ended::Ran(Exit::Code(0))), Verdict::Ok);
        assert_eq!(verdict(Ended::Ran(Exit::Signal(31))), Verdict::Missing);
        assert_eq!(verdict(Ended::NotExecuted(Errno::ENOENT)), Verdict::Missing);
    }

    #[test]
    fn limits_are_what_the_writable_hierarchies_have() {
        let all = ["memory", "cpu", "pids", "io"];
        let finding = |found: &[Hierarchy]| {
            let Check { verdict, finding, .. } = cgroups(found);
            (verdict, finding)
        };
        let (verdict, said) = finding(&[hierarchy(2, &all, true)]);
        assert_eq!(verdict, Verdict::Ok);
        assert!(said.starts_with("v2, delegated"), "{said}");
        let v1 = [["memory"], ["cpu"], ["pids"]].map(|one| hierarchy(1, &one, true));
        let (verdict, said) = finding(&v1);
        assert_eq!(verdict, Verdict::Ok);
        assert!(said.starts_with("v1, writable"), "{said}");
        let (verdict, said) = finding(&v1[..1]);
        assert_eq!(verdict, Verdict::Limited);
        assert!(said.contains("in memory; in cpu, pids only"), "{said}");
        for none in [&[][..], &[hierarchy(2, &all, false)]] {
            let (verdict, said) = finding(none);
            assert_eq!(verdict, Verdict::Limited);
            assert!(said.starts_with("none can be made"), "{said}");
        }
    }
}
