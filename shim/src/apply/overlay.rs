//! Scratch past the view: kernel overlayfs with base's copy below and the agent's delta above,
//! mounted over the view's own directory.
//!
//! The layers are opened while the host's root is still there, through no symbolic link, and named
//! to the kernel by descriptor: no path has to be escaped, and the mount table tells none. The
//! format on disk stays what the view, the change sets and recovery read: no redirects, no
//! metadata-only copies, no index.
//!
//! A directory that something is mounted on can't be removed or renamed (EBUSY), by a rule that
//! looks at the mount namespace of the process alone. So these mounts are in a namespace in which
//! no process of the sandbox is, though all have their root there: [`out_of_sight`]. To remove
//! such a directory is then to unmount it, and `rm -rf target` and `cargo clean` work.
//!
//! What can't be mounted is no failure: the view serves it.

use crate::plan::Scratch;
use agentfs_core::RelPath;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What decides about the format on disk, and is not left to the machine's defaults.
const FORMAT: [(&str, &str); 5] = [
    ("redirect_dir", "nofollow"),
    ("metacopy", "off"),
    ("index", "off"),
    ("nfs_export", "off"),
    ("xino", "off"),
];

/// Options that older kernels lack, and whose default there is the same.
const NEWER: [(&str, &str); 1] = [("uuid", "null")];

/// Directories that can't be mounted, each with the reason.
pub type Unmounted = Vec<(RelPath, String)>;

/// Mounts that are made, and are attached nowhere yet.
#[derive(Debug, Default)]
pub struct Made {
    root: PathBuf,
    mounts: Vec<(RelPath, OwnedFd)>,
    unmounted: Unmounted,
}

/// Makes the mounts of `scratch`. `owners` is the user namespace by which the files of the host's
/// owner are shown as the agent's. Call it while the host's root is there.
pub fn make(scratch: &Scratch, owners: Option<io::Result<OwnedFd>>) -> Made {
    let mut made = Made { root: scratch.root.clone(), ..Made::default() };
    let layers = match Layers::open(scratch, owners) {
        Ok(layers) => layers,
        Err(error) => {
            let why = format!("its layers can't be opened: {error}");
            let all = scratch.directories.iter();
            made.unmounted = all.map(|one| (one.path.clone(), why.clone())).collect();
            return made;
        }
    };
    for one in &scratch.directories {
        match layers.mount(&one.path, one.number, one.over_base, scratch.user_format) {
            Ok(mount) => made.mounts.push((one.path.clone(), mount)),
            Err(error) => made.unmounted.push((one.path.clone(), error.to_string())),
        }
    }
    made
}

impl Made {
    /// Why one of them could not be made.
    pub fn first_refusal(&self) -> Option<&str> {
        self.unmounted.first().map(|(_, why)| why.as_str())
    }

    /// Puts each over the view, which must be in place.
    pub fn attach(self) -> Unmounted {
        let Self { root, mounts, mut unmounted } = self;
        if mounts.is_empty() {
            return unmounted;
        }
        let paths: Vec<RelPath> = mounts.iter().map(|(path, _)| path.clone()).collect();
        let put = || {
            for (path, mount) in mounts {
                if let Err(error) = put_over(&root, &path, &mount) {
                    unmounted.push((path, error.to_string()));
                }
            }
        };
        if let Err(error) = out_of_sight(put) {
            let why = format!("no namespace for it: {error}");
            unmounted = paths.into_iter().map(|path| (path, why.clone())).collect();
        }
        unmounted
    }
}

/// The two directories that all layers are in.
struct Layers {
    base: OwnedFd,
    agent: OwnedFd,
    /// How many mounts of them lie on [`PLACE`].
    placed: usize,
}

/// Any directory: here the layers' own mounts are, as long as they are needed.
const PLACE: &str = "/tmp";

impl Layers {
    fn open(scratch: &Scratch, owners: Option<io::Result<OwnedFd>>) -> io::Result<Self> {
        let Some(owners) = owners.transpose()? else {
            let open = |path: &Path| {
                rustix::fs::open(
                    path,
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
            };
            return Ok(Self {
                base: open(&scratch.root)?,
                agent: open(&scratch.layers)?,
                placed: 0,
            });
        };
        let base = shown_as_theirs(&scratch.root, &owners)?;
        let agent = shown_as_theirs(&scratch.layers, &owners)?;
        let mut layers = Self { base, agent, placed: 0 };
        // A kernel before 6.15 takes no layers that are attached nowhere.
        layers.place(&layers.base.try_clone()?)?;
        layers.place(&layers.agent.try_clone()?)?;
        Ok(layers)
    }

    fn place(&mut self, mount: &OwnedFd) -> io::Result<()> {
        move_mount(mount, "", CWD, PLACE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        self.placed += 1;
        Ok(())
    }

    fn mount(
        &self,
        path: &RelPath,
        number: usize,
        over_base: bool,
        user_format: bool,
    ) -> io::Result<OwnedFd> {
        let upper = beneath(&self.agent, &Path::new("delta").join(path.to_path_buf()))?;
        let work = beneath(&self.agent, &Path::new("mounts").join(number.to_string()))?;
        let lower = if over_base {
            beneath(&self.base, &path.to_path_buf())?
        } else {
            beneath(&self.agent, Path::new("mounts/empty"))?
        };
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "scratch")?;
        for (layer, fd) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
            fsconfig_set_string(&context, layer, format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        }
        // Else the end of each mount, and so of each run, waits until the whole file system below
        // is on the disk, with whatever others are writing there.
        fsconfig_set_flag(&context, "volatile")?;
        if user_format {
            fsconfig_set_flag(&context, "userxattr")?;
        }
        for (option, value) in FORMAT {
            fsconfig_set_string(&context, option, value)?;
        }
        for (option, value) in NEWER {
            // Where it is unknown, this is what the kernel does.
            let _ = fsconfig_set_string(&context, option, value);
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        for _ in 0..self.placed {
            // The mount namespace is ours and private; what can't go stays there unseen.
            let _ = umount2(PLACE, MntFlags::MNT_DETACH);
        }
    }
}

/// A mount of `path` in which users and groups have changed places.
fn shown_as_theirs(path: &Path, owners: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    super::mounts::map_owners(&tree, owners)?;
    Ok(tree)
}

/// The directory at `path` below `root`: no symbolic link leads to it, whoever made one.
fn beneath(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

fn put_over(root: &Path, path: &RelPath, mount: &OwnedFd) -> io::Result<()> {
    let view = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let place = beneath(&view, &path.to_path_buf())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &place, "", flags)?)
}

/// Does `attach` in this process's mount namespace, and goes on in a copy that has nothing of it;
/// but with the root that it has been done in. The parent of this process keeps that namespace.
fn out_of_sight(attach: impl FnOnce()) -> io::Result<()> {
    let namespace = || std::fs::File::open("/proc/self/ns/mnt");
    let own = namespace()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let copy = namespace()?;
    setns(&own, CloneFlags::CLONE_NEWNS)?;
    attach();
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    setns(&copy, CloneFlags::CLONE_NEWNS)?;
    rustix::process::fchdir(&root)?;
    Ok(rustix::process::chroot(".")?)
}
