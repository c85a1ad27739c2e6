//! Renaming: files are copied up first; directories move only if no lower layer has them, as in
//! overlayfs without redirects. Programs answer EXDEV by copying, file by file, through the gate.

use super::delta::Content;
use super::error::FsError;
use super::layers::{Entry, Place, Which};
use super::{View, notices, sys};
use crate::gate::Permit;
use agentfs_core::RelPath;
use rustix::fs::{self, RenameFlags};

impl View {
    /// Renames `from` to `to`. `EXCHANGE` and `NOREPLACE` are the flags that are known.
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
        if !exchange && !(flags - RenameFlags::NOREPLACE).is_empty() {
            return Err(FsError::Invalid);
        }
        if from != to && (from.contains(to) || (exchange && to.contains(from))) {
            return Err(FsError::Invalid);
        }
        let was_dir = loop {
            let names = self.write_names();
            let source = self.movable(from)?;
            let target = self.layers.place(to)?.entry()?;
            if flags == RenameFlags::NOREPLACE && target.is_some() {
                return Err(FsError::Exists);
            }
            let below = if exchange {
                target.as_ref().ok_or(FsError::NotFound)?;
                self.movable(to)?.top != Which::Delta
            } else {
                false
            };
            // Data is copied without the lock, so all is looked at again.
            if source.top != Which::Delta || below {
                drop(names);
                self.copy_up(from, Content::Keep)?;
                if below {
                    self.copy_up(to, Content::Keep)?;
                }
                continue;
            }
            if exchange {
                self.exchange(from, to)?;
            } else {
                self.replace(from, &source, to, target.as_ref())?;
            }
            break sys::is_dir(&source.stat);
        };
        self.forget_if_as_in_base(from, was_dir);
        Ok(())
    }

    /// Fails as [`View::rename`] would, without doing anything: so that nothing is claimed for
    /// what can't be. Says whether `from` is a directory.
    pub fn check_rename(
        &self,
        from: &RelPath,
        to: &RelPath,
        flags: RenameFlags,
    ) -> Result<bool, FsError> {
        let _names = self.read_names();
        if flags == RenameFlags::EXCHANGE {
            self.movable(to)?;
        } else if !(flags - RenameFlags::NOREPLACE).is_empty() {
            return Err(FsError::Invalid);
        }
        let source = self.movable(from)?;
        let target = self.layers.entry(to)?;
        match target {
            Some(_) if flags == RenameFlags::NOREPLACE => Err(FsError::Exists),
            Some(target) if flags.is_empty() => {
                self.check_replaced(sys::is_dir(&source.stat), to, &target)?;
                Ok(sys::is_dir(&source.stat))
            }
            _ => Ok(sys::is_dir(&source.stat)),
        }
    }

    /// The entry at `path`, unless it is a directory that a lower layer has, or with which a mount
    /// would move to where it is not scratch.
    fn movable(&self, path: &RelPath) -> Result<Entry, FsError> {
        let entry = self.layers.place(path)?.entry()?.ok_or(FsError::NotFound)?;
        let in_layers = entry.merged || entry.top != Which::Delta;
        if sys::is_dir(&entry.stat) && (in_layers || self.holds_mounts(path)) {
            return Err(FsError::MovesLayers);
        }
        Ok(entry)
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
            if from == to || same {
                return Ok(());
            }
            self.check_replaced(is_dir, to, target)?;
        }
        let parent = to.parent().ok_or(FsError::Invalid)?;
        self.delta.ensure_dir(&self.layers, &parent)?;
        let (source, place) = (self.layers.place(from)?, self.layers.place(to)?);
        let orphan = match target {
            Some(target) => self.keep_open(to, &place, target)?,
            None => None,
        };
        if is_dir {
            self.clear_for_dir(&source, &place)?;
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
    fn clear_for_dir(&self, source: &Place, target: &Place) -> Result<(), FsError> {
        let (Some(from), Some(to)) =
            (source.dir.layer(Which::Delta), target.dir.layer(Which::Delta))
        else {
            return Err(FsError::NotFound);
        };
        self.delta.set_opaque(sys::dir_at(from, &source.name)?)?;
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
        if a == b {
            return Ok(());
        }
        let places = [self.layers.place(a)?, self.layers.place(b)?];
        for place in &places {
            let dir = place.dir.layer(Which::Delta).ok_or(FsError::NotFound)?;
            if sys::stat_at(dir, &place.name)?.is_some_and(|stat| sys::is_dir(&stat)) {
                self.delta.set_opaque(sys::dir_at(dir, &place.name)?)?;
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
