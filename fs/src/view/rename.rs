//! Renaming: what a lower layer has is copied up first, a directory with all below it.

use super::error::FsError;
use super::layers::{Entry, Place, Which};
use super::move_dir::Lower;
use super::{View, notices, sys};
use crate::gate::Permit;
use agentfs_core::RelPath;
use rustix::fs::{self, RenameFlags};

/// What a rename moves.
#[derive(Clone, Debug)]
pub struct Moves {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// What lower layers have below it: each is changed by the move, and copied up for it.
    pub below: Vec<Lower>,
}

impl View {
    /// Renames `from` to `to`. `WHITEOUT` leaves a character device 0:0 at the old name, which a daemon
    /// without privileges can't make.
    pub fn rename(
        &self,
        from: &RelPath,
        to: &RelPath,
        flags: RenameFlags,
        _permit: &Permit,
    ) -> Result<(), FsError> {
        notices::refuse(from)?;
        notices::refuse(to)?;
        let exchange = flags == RenameFlags::EXCHANGE;
        self.check_flags(flags)?;
        if from != to && (from.contains(to) || (exchange && to.contains(from))) {
            return Err(FsError::Invalid);
        }
        let was_dir = loop {
            let names = self.write_names();
            let source = self.movable(from)?;
            let target = self.layers.place(to)?.entry()?;
            if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
                return Err(FsError::Exists);
            }
            if from == to {
                return Ok(());
            }
            if !exchange && let Some(target) = &target {
                self.check_replaced(sys::is_dir(&source.stat), to, target)?;
            }
            let mut to_copy = self.to_copy(from, &source)?;
            if exchange {
                to_copy.extend(self.to_copy(to, &self.movable(to)?)?);
            }
            // Data is copied without the lock, so all is looked at again.
            if !to_copy.is_empty() {
                drop(names);
                self.copy_all(&to_copy)?;
                continue;
            }
            if exchange {
                self.exchange(from, to)?;
            } else {
                self.replace(from, &source, to, target.as_ref())?;
            }
            if flags.contains(RenameFlags::WHITEOUT) {
                let place = self.layers.place(from)?;
                let dir = place.dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
                self.delta.put_zero_device(dir, &place.name)?;
            }
            break sys::is_dir(&source.stat);
        };
        self.forget_if_as_in_base(from, was_dir);
        Ok(())
    }

    /// Fails as [`View::rename`] would, without doing anything: so that nothing is claimed for
    /// what can't be. Says what is moved, so that all of it can be.
    pub fn check_rename(
        &self,
        from: &RelPath,
        to: &RelPath,
        flags: RenameFlags,
    ) -> Result<Moves, FsError> {
        notices::refuse(from)?;
        notices::refuse(to)?;
        let _names = self.read_names();
        self.check_flags(flags)?;
        let exchange = flags == RenameFlags::EXCHANGE;
        let source = self.movable(from)?;
        let target = self.layers.entry(to)?;
        match &target {
            _ if exchange => {
                self.movable(to)?;
            }
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(FsError::Exists),
            Some(target) if !exchange && from != to => {
                self.check_replaced(sys::is_dir(&source.stat), to, target)?;
            }
            _ => {}
        }
        let mut below = self.moved_below(from, &source)?;
        if let Some(target) = target.filter(|_| exchange) {
            below.extend(self.moved_below(to, &target)?);
        }
        Ok(Moves { is_dir: sys::is_dir(&source.stat), below })
    }

    fn moved_below(&self, path: &RelPath, entry: &Entry) -> Result<Vec<Lower>, FsError> {
        let lower = entry.merged || entry.top != Which::Delta;
        if lower && sys::is_dir(&entry.stat) { self.lower_below(path) } else { Ok(Vec::new()) }
    }

    fn check_flags(&self, flags: RenameFlags) -> Result<(), FsError> {
        let plain = flags - RenameFlags::NOREPLACE - RenameFlags::WHITEOUT;
        let whiteout = flags.contains(RenameFlags::WHITEOUT);
        let known = flags == RenameFlags::EXCHANGE || plain.is_empty();
        if known && (!whiteout || self.delta.privileged()) { Ok(()) } else { Err(FsError::Invalid) }
    }

    /// The entry at `path`, unless it is a directory with which a mount would move to where it is not
    /// scratch.
    fn movable(&self, path: &RelPath) -> Result<Entry, FsError> {
        let entry = self.layers.place(path)?.entry()?.ok_or(FsError::NotFound)?;
        let mounts = sys::is_dir(&entry.stat) && self.holds_mounts(path);
        if mounts { Err(FsError::MovesMounts) } else { Ok(entry) }
    }

    /// Moves an entry of the delta. The names are locked for writing.
    fn replace(
        &self,
        from: &RelPath,
        source: &Entry,
        to: &RelPath,
        target: Option<&Entry>,
    ) -> Result<(), FsError> {
        let is_dir = sys::is_dir(&source.stat);
        if let Some(target) = target {
            let same = (source.stat.st_dev, source.stat.st_ino)
                == (target.stat.st_dev, target.stat.st_ino);
            if same {
                return Ok(());
            }
        }
        let parent = to.parent().ok_or(FsError::Invalid)?;
        self.delta.ensure_dir(&self.layers, &parent)?;
        let merged = source.merged;
        let (source, place) = (self.layers.place(from)?, self.layers.place(to)?);
        let orphan = match target {
            Some(target) => self.keep_open(to, &place, target)?,
            None => None,
        };
        if is_dir {
            self.clear_for_dir(&source, merged, &place)?;
        }
        move_name(&source, &place)?;
        self.layers.forget(from);
        self.layers.forget(to);
        let mut nodes = self.nodes();
        nodes.detach(to, orphan);
        nodes.rename(from, to);
        drop(nodes);
        // The kernel unmounts what was mounted on a directory that is replaced.
        self.forget_mount(to);
        Ok(())
    }

    fn check_replaced(&self, is_dir: bool, to: &RelPath, target: &Entry) -> Result<(), FsError> {
        match (is_dir, sys::is_dir(&target.stat)) {
            (true, false) => Err(FsError::NotDirectory),
            (false, true) => Err(FsError::IsDirectory),
            (true, true) if !self.layers.dir(to)?.is_empty()? => Err(FsError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Makes room for a directory of the delta: what it is moved over goes, and what a lower
    /// layer has at that name must not merge with it.
    fn clear_for_dir(&self, source: &Place, merged: bool, target: &Place) -> Result<(), FsError> {
        let (Some(from), Some(to)) =
            (source.dir.layer(Which::Delta), target.dir.layer(Which::Delta))
        else {
            return Err(FsError::NotFound);
        };
        self.set_apart(&sys::dir_at(from, &source.name)?, merged)?;
        let Some(stat) = sys::stat_at(to, &target.name)? else { return Ok(()) };
        if sys::is_dir(&stat) {
            // Empty in the view: in the delta it holds whiteouts at most.
            let dir = sys::dir_at(to, &target.name)?;
            self.delta.set_opaque(&dir)?;
            for (name, _) in sys::names(&dir)? {
                sys::remove_all(&dir, &name)?;
            }
        } else {
            // A whiteout: no rename puts a directory over it.
            let (staged, ()) = self.delta.stage(|work, temp| {
                fs::mkdirat(work, temp, fs::Mode::RWXU)?;
                self.delta.set_opaque(sys::dir_at(work, temp)?)
            })?;
            staged.exchange(to, &target.name)?;
        }
        Ok(())
    }

    /// Lets two entries of the delta change places. The names are locked for writing.
    fn exchange(&self, a: &RelPath, b: &RelPath) -> Result<(), FsError> {
        let places = [self.layers.place(a)?, self.layers.place(b)?];
        for place in &places {
            let dir = place.dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
            let entry = place.entry()?.ok_or(FsError::NotFound)?;
            if sys::is_dir(&entry.stat) {
                self.set_apart(&sys::dir_at(dir, &place.name)?, entry.merged)?;
            }
        }
        let [at_a, at_b] = &places;
        let (Some(dir_a), Some(dir_b)) =
            (at_a.dir.layer(Which::Delta), at_b.dir.layer(Which::Delta))
        else {
            return Err(FsError::NotFound);
        };
        fs::renameat_with(dir_a, &at_a.name, dir_b, &at_b.name, RenameFlags::EXCHANGE)?;
        self.layers.forget(a);
        self.layers.forget(b);
        self.nodes().exchange(a, b);
        Ok(())
    }
}

/// One rename in the delta, which leaves a whiteout where a lower layer has the old name.
fn move_name(source: &Place, target: &Place) -> Result<(), FsError> {
    let (Some(from), Some(to)) = (source.dir.layer(Which::Delta), target.dir.layer(Which::Delta))
    else {
        return Err(FsError::NotFound);
    };
    let flags = if source.dir.lower_entry(&source.name)?.is_some() {
        RenameFlags::WHITEOUT
    } else {
        RenameFlags::empty()
    };
    fs::renameat_with(from, &source.name, to, &target.name, flags)?;
    Ok(())
}
