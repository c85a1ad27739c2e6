//! Whether views can be mounted here, found out by mounting an empty file system for a moment.

use super::mount::{MountError, SOURCE_PREFIX, check_mountpoint, explain};
use fuser::{Config, InitFlags, KernelConfig, MountOption, Request};
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// How long the kernel may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the kernel offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whether the kernel can serve file data itself, for this user.
    pub passthrough: bool,
}

/// A file system without anything in it.
struct Empty {
    found: SyncSender<Probed>,
}

impl fuser::Filesystem for Empty {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The kernel offers it to all, and lets root alone use it.
        let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        let passthrough = offered && rustix::process::geteuid().is_root();
        // Nobody listens any more only if the mount took too long.
        let _ = self.found.send(Probed { passthrough });
        Ok(())
    }
}

/// Mounts and unmounts an empty file system. Blocks for a few milliseconds.
pub fn probe() -> Result<Probed, MountError> {
    let dir = tempfile::tempdir().map_err(|error| explain(&std::env::temp_dir(), error))?;
    check_mountpoint(dir.path())?;
    let (found, answer) = sync_channel(1);
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(format!("{SOURCE_PREFIX}probe"))];
    let failed = |error| explain(dir.path(), error);
    let session = fuser::spawn_mount(Empty { found }, dir.path(), &config).map_err(failed)?;
    let probed = answer.recv_timeout(PATIENCE);
    session.umount_and_join().map_err(failed)?;
    probed.map_err(|_| failed(io::Error::other("the kernel did not answer")))
}
