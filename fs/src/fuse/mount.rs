//! Mounting a view, and the guard that unmounts it.

use super::kernel::Kernel;
use super::workers::Workers;
use super::{Adapter, Announced, Announcing};
use crate::attendant::Trust;
use crate::view::{Cached, KernelCache, View};
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, SessionACL};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What the source of every mounted view begins with in the kernel's list of mounts. (Its type is
/// `fuse` or `fuse.agentfs`, depending on who mounted it.)
pub const SOURCE_PREFIX: &str = "agentfs:";

/// Why a view could not be mounted: what is missing, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel has no FUSE.
    #[error("/dev/fuse is missing: load the kernel module with `modprobe fuse`")]
    NoDevice,
    /// The device may not be opened.
    #[error("no permission to open /dev/fuse: run as root, or `chmod 666 /dev/fuse` as root")]
    DeviceDenied,
    /// The helper that mounts for users without root is missing.
    #[error("fusermount3 is missing, which mounts for users other than root: install fuse3")]
    NoHelper,
    /// The helper does not let the user share the mount.
    #[error("the mount at {0} was refused; the helper says: {1}")]
    HelperRefused(PathBuf, String),
    /// There is no directory to mount on.
    #[error("the mountpoint {0} is not a directory: create it")]
    NoMountpoint(PathBuf),
    /// Something is mounted there, or a mount whose daemon has died.
    #[error(
        "the mountpoint {0} is in use: unmount it with `fusermount3 -u -z {0}` or `umount -l {0}`"
    )]
    Busy(PathBuf),
    /// Anything else.
    #[error("can't mount at {path}: {source}")]
    Other {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A mounted view; dropping it unmounts.
#[derive(Debug)]
pub struct MountedView {
    view: Arc<View>,
    kernel: Arc<Kernel>,
    mountpoint: PathBuf,
    announced: Arc<Announced>,
    session: Option<BackgroundSession>,
}

impl MountedView {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The view that is served.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What announcing something to watchers in it needs.
    pub fn announcing(&self) -> Announcing {
        Announcing::new(self.view.clone(), self.mountpoint.clone(), self.announced.clone())
    }

    /// How many requests of each kind the kernel has sent.
    pub fn requests(&self) -> Vec<(&'static str, u64)> {
        self.kernel.counts.all()
    }

    /// Whether the kernel has ended the session: somebody else has unmounted it.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Unmounts. If processes still use the view it is detached: new ones can't reach it, and it
    /// is served until the last of them has let go.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        self.view.attach_kernel(None);
        self.view.attach_teller(None);
        if !session.guard.is_finished() {
            detach(&self.mountpoint)?;
        }
        // Not joined: what still holds files open in the view may do so for as long as it lives.
        drop(session);
        Ok(())
    }
}

impl Drop for MountedView {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "can't unmount");
        }
    }
}

/// Takes a mount of a view out of the tree, also while it is in use and when its daemon is dead.
pub fn detach(mountpoint: &Path) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    match unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            let status = std::process::Command::new("fusermount3")
                .args(["-u", "-q", "-z", "--"])
                .arg(mountpoint)
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::other(format!("fusermount3 -u ended with {status}")))
            }
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Mounts `view` at `mountpoint`, which must be an empty directory. Returns when it is served.
/// Who is trusted as the attendant may announce changes in it.
pub fn mount(
    view: Arc<View>,
    mountpoint: &Path,
    attendant: &Trust,
) -> Result<MountedView, MountError> {
    check_mountpoint(mountpoint)?;
    let failed = |error| explain(mountpoint, error);
    let workers = Workers::start("agentfs-view", 3).map_err(failed)?;
    let asking = Workers::start("agentfs-ask", 1).map_err(failed)?;
    let kernel = Arc::new(Kernel::default());
    let announced = Announced::new(attendant.clone());
    let adapter = Adapter::new(view.clone(), (workers, asking), kernel.clone(), announced.clone());
    let session = fuser::spawn_mount(adapter, mountpoint, &config(&view)).map_err(failed)?;
    kernel.attach(session.notifier());
    let cache = Invalidator::start(&session.notifier()).map_err(failed)?;
    view.attach_kernel(Some(Arc::new(cache)));
    let mountpoint = mountpoint.to_owned();
    Ok(MountedView { view, kernel, mountpoint, announced, session: Some(session) })
}

fn config(view: &View) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("{SOURCE_PREFIX}{}", view.agent())),
        MountOption::Subtype("agentfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    // Without root the mount serves its own user only, which is who the agent runs as.
    config.acl =
        if rustix::process::geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(2);
    config
}

pub(super) fn check_mountpoint(path: &Path) -> Result<(), MountError> {
    match std::fs::metadata(path) {
        Ok(stat) if stat.is_dir() => {}
        Ok(_) => return Err(MountError::NoMountpoint(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::NoMountpoint(path.to_owned()));
        }
        // A mount whose daemon has died answers ENOTCONN.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            return Err(MountError::Busy(path.to_owned()));
        }
        Err(source) => return Err(MountError::Other { path: path.to_owned(), source }),
    }
    let is_mountpoint = rustix::fs::statx(
        rustix::fs::CWD,
        path,
        rustix::fs::AtFlags::empty(),
        rustix::fs::StatxFlags::BASIC_STATS,
    )
    .is_ok_and(|stat| stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT));
    if is_mountpoint { Err(MountError::Busy(path.to_owned())) } else { Ok(()) }
}

pub(super) fn explain(mountpoint: &Path, source: io::Error) -> MountError {
    let device = Path::new("/dev/fuse");
    let helper_said = source.to_string();
    match source.kind() {
        _ if !device.exists() => MountError::NoDevice,
        io::ErrorKind::NotFound => MountError::NoHelper,
        io::ErrorKind::PermissionDenied if helper_said.contains("fusermount") => {
            MountError::HelperRefused(mountpoint.to_owned(), helper_said.trim().to_owned())
        }
        io::ErrorKind::PermissionDenied => MountError::DeviceDenied,
        _ if helper_said.contains("fusermount") => {
            MountError::HelperRefused(mountpoint.to_owned(), helper_said.trim().to_owned())
        }
        _ => MountError::Other { path: mountpoint.to_owned(), source },
    }
}

/// Tells the kernel what to forget, on threads of its own: for a name the kernel takes the lock of
/// its directory, and the operation that has that lock may be waiting at the gate. What needs no
/// such lock must not wait behind that.
struct Invalidator {
    /// Attributes and pages: nothing that the kernel needs for these is held for long.
    inodes: Sender<Order>,
    entries: Sender<Order>,
}

enum Order {
    Forget(Vec<Cached>),
    /// Say when all orders before this one are done.
    Say(Sender<()>),
}

impl Invalidator {
    /// How long [`KernelCache::settle`] waits. An operation that waits at the gate in one of the
    /// directories lasts longer; then the rest is forgotten when that operation has ended.
    const PATIENCE: Duration = Duration::from_millis(200);

    fn start(notifier: &Notifier) -> io::Result<Self> {
        let start = || {
            let (queue, orders) = channel();
            let notifier = notifier.clone();
            std::thread::Builder::new()
                .name("agentfs-inval".to_owned())
                .spawn(move || invalidate_all(&notifier, &orders))?;
            io::Result::Ok(queue)
        };
        Ok(Self { inodes: start()?, entries: start()? })
    }
}

fn invalidate_all(notifier: &Notifier, orders: &Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        let what = match order {
            Order::Forget(what) => what,
            Order::Say(done) => {
                // The caller may have lost its patience.
                let _ = done.send(());
                continue;
            }
        };
        for cached in what {
            let told = match &cached {
                Cached::Inode(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
                Cached::Attributes(ino) => notifier.inval_inode(INodeNo(*ino), -1, 0),
                Cached::Entry(parent, name) => notifier.inval_entry(INodeNo(*parent), name),
            };
            if let Err(error) = told {
                tracing::debug!(?cached, %error, "the kernel did not take an invalidation");
            }
        }
    }
}

impl KernelCache for Invalidator {
    fn invalidate(&self, what: Vec<Cached>) {
        let is_entry = |cached: &Cached| matches!(cached, Cached::Entry(..));
        let (entries, inodes): (Vec<_>, Vec<_>) = what.into_iter().partition(is_entry);
        // The threads end only with these senders.
        let _ = self.inodes.send(Order::Forget(inodes));
        let _ = self.entries.send(Order::Forget(entries));
    }

    fn settle(&self) {
        let deadline = Instant::now() + Self::PATIENCE;
        for queue in [&self.inodes, &self.entries] {
            let (done, finished) = channel();
            if queue.send(Order::Say(done)).is_ok() {
                let _ = finished.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }
}
