//! The daemon's own life: what it checks, the order in which it starts, and how it ends.

use super::allocator;
use super::error::CommandError;
use crate::fuse;
use crate::layout;
use crate::server::Server;
use crate::service::{Service, Setup};
use agentfs_api::{Client, Workspace};
use procfs::process::{MountInfo, Process};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long a daemon that was killed may take to be gone.
const DYING: Duration = Duration::from_secs(3);

/// What the process in the background says when it serves.
pub(super) const READY: &str = "ready";

/// Serves `workspace` until it is asked to end. In the background, says on standard output once
/// that it serves, or why not.
pub(super) fn serve(
    workspace: Workspace,
    mountpoint: PathBuf,
    background: bool,
) -> Result<ExitCode, CommandError> {
    set_up_log(background);
    allocator::map_large_buffers();
    raise_open_files();
    if background {
        // A session of its own, so that the terminal's end and its Ctrl-C do not reach it. Fails
        // only where it already leads one.
        let _ = rustix::process::setsid();
    }
    let served = prepare(&workspace, &mountpoint)
        .and_then(|lock| live(lock, workspace, mountpoint, background));
    match served {
        Err(error) if background => {
            say(&error.to_string());
            Err(error)
        }
        served => served.map(|()| ExitCode::SUCCESS),
    }
}

/// The daemon's life, from the first listening to the last answer.
fn live(
    lock: OwnedFd,
    workspace: Workspace,
    mountpoint: PathBuf,
    background: bool,
) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::io("start", "agentfs"))?;
    let ended = runtime.block_on(async {
        let daemon = Daemon::start(lock, workspace, mountpoint).await?;
        if background {
            say(READY);
            let_go_of_stdout();
        } else {
            anstream::eprintln!(
                "agentfs: serving {}; Ctrl-C ends it",
                daemon.workspace.root.display()
            );
        }
        daemon.until_ended().await
    });
    // Not waited for: a task may still hold a system call that only its own end would end.
    runtime.shutdown_background();
    ended
}

/// Every file that is open in a view is open in the daemon too.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "the limit of open files can't be raised");
    }
}

fn set_up_log(background: bool) {
    let filter = EnvFilter::try_from_env("AGENTFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log on a full disk is no reason to end: that is what saying so on the same disk does.
        .log_internal_errors(false)
        .with_ansi(!background)
        .with_target(false)
        .init();
}

fn say(what: &str) {
    // Whoever started this may have gone; then nobody wants to know.
    let _ = writeln!(std::io::stdout(), "{}", what.replace('\n', " "));
    let _ = std::io::stdout().flush();
}

/// So that whoever reads the pipe sees its end.
fn let_go_of_stdout() {
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::WRONLY, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

/// A daemon that serves.
struct Daemon {
    workspace: Workspace,
    service: Service,
    server: Server,
    /// Held as long as the daemon lives: one daemon per workspace, whoever's it is.
    _lock: OwnedFd,
}

impl Daemon {
    async fn start(
        lock: OwnedFd,
        workspace: Workspace,
        mountpoint: PathBuf,
    ) -> Result<Self, CommandError> {
        let service = Service::start(Setup { workspace: workspace.clone(), mountpoint })?;
        let server = Server::start(service.clone(), workspace.clone()).await?;
        tracing::info!(root = %workspace.root.display(), "serving");
        Ok(Self { workspace, service, server, _lock: lock })
    }

    /// Serves until the API or a signal asks for the end, then cleans up.
    async fn until_ended(self) -> Result<(), CommandError> {
        let listen =
            |kind| signal(kind).map_err(CommandError::io("listen to signals in", "/proc/self"));
        let (mut term, mut int) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        tokio::select! {
            () = self.server.ended() => {}
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        // Asked by the API, the owner has stopped already, and says so.
        let _ = self.service.ask(|owner| owner.stop(true)).await;
        self.server.shut_down();
        let _ = layout::forget_mountpoint(&self.workspace);
        let _ = std::fs::remove_dir_all(self.workspace.runtime_dir.join("agents"));
        let _ = std::fs::remove_file(self.workspace.operator_socket());
        tracing::info!("ended");
        Ok(())
    }
}

/// Makes sure that this daemon is the only one and that its directories are fit: with the lock
/// of the workspace in hand, what an earlier daemon left can be cleared away.
///
/// Before tokio's runtime, because it may ask other daemons, which blocks.
fn prepare(workspace: &Workspace, mountpoint: &Path) -> Result<OwnedFd, CommandError> {
    refuse_nesting(workspace)?;
    let lock = lock(workspace)?;
    for dir in [&workspace.state_dir, &workspace.runtime_dir] {
        layout::make_private(dir).map_err(CommandError::io("make the directory", dir))?;
    }
    if !workspace.runtime_dir_is_ours() {
        return Err(CommandError::NotOurs(workspace.runtime_dir.clone()));
    }
    let before = layout::noted_mountpoint(workspace).filter(|noted| noted != mountpoint);
    let left = before.iter().map(PathBuf::as_path).chain([mountpoint]).flat_map(views_under);
    for view in left {
        tracing::info!(view = %view.display(), "unmounting what an earlier daemon left");
        fuse::detach(&view).map_err(CommandError::io("unmount", &view))?;
    }
    layout::make_private(mountpoint).map_err(CommandError::io("make the directory", mountpoint))?;
    refuse_busy(mountpoint, workspace)?;
    layout::note_mountpoint(workspace, mountpoint)
        .map_err(CommandError::io("note the mountpoint in", &workspace.state_dir))?;
    Ok(lock)
}

/// Takes the lock of the workspace: a lock of its root directory itself, so that it holds among
/// all users, and ends with its holder however that ends.
fn lock(workspace: &Workspace) -> Result<OwnedFd, CommandError> {
    let root = &workspace.root;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir =
        rustix::fs::open(root, flags, Mode::empty()).map_err(CommandError::io("open", root))?;
    let asked = Instant::now();
    loop {
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(dir),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(CommandError::io("lock", root)(errno)),
        }
        let by = match Client::connect(workspace).and_then(|client| client.status()) {
            Ok(status) => {
                format!(" (process {}, views under {})", status.pid, status.mountpoint.display())
            }
            // One that was killed answers no more, and has the lock until the last of it is gone.
            Err(_) if asked.elapsed() < DYING => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(_) => " by a daemon that does not answer you (another user's?)".to_owned(),
        };
        return Err(CommandError::AlreadyServed { root: root.clone(), by });
    }
}

/// Workspaces do not overlap: a lease in one would say nothing in the other.
fn refuse_nesting(workspace: &Workspace) -> Result<(), CommandError> {
    let dir = workspace.root.clone();
    if views_around(&dir) {
        return Err(CommandError::InsideView(dir));
    }
    for served in agentfs_api::locate::served() {
        let outer = served.clone();
        if dir != served && dir.starts_with(&served) {
            return Err(CommandError::Inside { dir, outer });
        }
        if dir != served && served.starts_with(&dir) {
            return Err(CommandError::Around { dir, inner: served });
        }
    }
    Ok(())
}

/// Apart from the directories of views, which are empty now, nothing may be there.
fn refuse_busy(mountpoint: &Path, workspace: &Workspace) -> Result<(), CommandError> {
    if mountpoint == workspace.default_mountpoint() {
        return Ok(());
    }
    let refused = |why: String| CommandError::Mountpoint { path: mountpoint.to_owned(), why };
    for entry in mountpoint.read_dir().map_err(|error| refused(error.to_string()))? {
        let path = entry.map_err(|error| refused(error.to_string()))?.path();
        let empty = path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if !empty {
            return Err(refused(format!("it is not empty: {} is in it", path.display())));
        }
    }
    Ok(())
}

/// Mounts of agentfs that an earlier daemon left below `mountpoint`; with the workspace's lock in
/// hand they can't be anybody else's.
fn views_under(mountpoint: &Path) -> Vec<PathBuf> {
    let mounts = mounts_of_views();
    mounts.into_iter().filter(|at| at.starts_with(mountpoint) && at != mountpoint).collect()
}

fn views_around(dir: &Path) -> bool {
    mounts_of_views().iter().any(|at| dir.starts_with(at))
}

fn mounts_of_views() -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map(|mounts| mounts.0).unwrap_or_default();
    let is_view = |mount: &MountInfo| {
        let source = mount.mount_source.as_ref();
        mount.fs_type.starts_with("fuse")
            && source.is_some_and(|s| s.starts_with(fuse::SOURCE_PREFIX))
    };
    let views = mounts.into_iter().filter(is_view);
    views.map(|mount| mount.mount_point).collect()
}
