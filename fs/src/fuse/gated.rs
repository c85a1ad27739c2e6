//! From a request that writes to the gate and back, without holding up a session thread.

use super::Adapter;
use crate::gate::{Intent, Permit, Refusal, Requester};
use crate::view::{FsError, View, is_virtual_path};
use agentfs_core::{RelPath, WorkUnit};

/// The operation whose first two wants are the old and the new name.
pub(super) const RENAME: &str = "rename";

/// What a request would write at one path.
#[derive(Clone, Debug)]
pub(super) enum Want {
    /// The entry itself.
    File(RelPath),
    /// The entry itself, the content of which is kept and so may have to be copied up first.
    Kept(RelPath),
    /// A directory with all below it.
    Dir(RelPath),
    /// The attributes of a directory: noted, so that their version counts, and not claimed,
    /// because directories merge.
    DirAttributes(RelPath),
    /// An entry below a directory that is asked for as a whole: noted, and copied up with it.
    Below(RelPath, bool),
}

impl Want {
    fn path(&self) -> &RelPath {
        match self {
            Self::File(path)
            | Self::Kept(path)
            | Self::Dir(path)
            | Self::DirAttributes(path)
            | Self::Below(path, _) => path,
        }
    }

    fn unit(&self) -> Option<WorkUnit> {
        match self {
            Self::File(path) | Self::Kept(path) => Some(WorkUnit::File(path.clone())),
            Self::Dir(path) => Some(WorkUnit::Dir(path.clone())),
            Self::DirAttributes(_) | Self::Below(..) => None,
        }
    }

    fn takes_long(&self, view: &View) -> bool {
        match self {
            Self::Kept(path) => view.copy_takes_long(path),
            Self::Below(..) => true,
            Self::File(_) | Self::Dir(_) | Self::DirAttributes(_) => false,
        }
    }

    fn counts(&self, view: &View) -> bool {
        let is_dir = matches!(self, Self::Dir(_) | Self::DirAttributes(_) | Self::Below(_, true));
        !view.is_scratch(self.path(), is_dir)
    }
}

impl Adapter {
    /// Does `act` when the gate permits it, and answers the kernel with what came of it.
    ///
    /// `wants` is empty for making a directory, and for what has no name: directories merge, so
    /// nobody's work can be lost by it; the gate still says whether the run may write at all.
    ///
    /// If the gate has to ask, or much has to be copied up, this returns at once: the session
    /// thread goes on to serve others, and `act` is done by a worker (when the answer comes). The
    /// permit is kept until it is done.
    pub(super) fn gated<T: 'static>(
        &self,
        tid: u32,
        operation: &'static str,
        wants: &[Want],
        act: impl FnOnce(&View, &Permit) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) {
        if self.announced.is_attendant(tid) {
            return answer(Err(FsError::Virtual));
        }
        if wants.iter().any(|want| is_virtual_path(want.path())) {
            return answer(Err(FsError::Virtual));
        }
        // Also of what is private: it may be base's content that is read or given another name.
        if wants.iter().any(|want| !self.view.gate().may_read(want.path())) {
            return answer(Err(Refusal::Denied.into()));
        }
        let counted: Vec<&Want> = wants.iter().filter(|want| want.counts(&self.view)).collect();
        if counted.is_empty() && !wants.is_empty() {
            return self.act(Permit::scratch(), wants, act, answer);
        }
        // What is below a directory that is renamed is judged by its new place, too.
        let moved = |want: &&Want| match (want, wants) {
            (Want::Below(path, _), [Want::Dir(from), Want::Dir(to), ..]) => path.rebase(from, to),
            _ => None,
        };
        let arrives: Vec<RelPath> = counted.iter().filter_map(moved).collect();
        let moves = match wants {
            [Want::File(from) | Want::Kept(from) | Want::Dir(from), to, ..]
                if operation == RENAME =>
            {
                Some((from.clone(), to.path().clone()))
            }
            _ => None,
        };
        let intent = Intent {
            operation,
            moves,
            arrives,
            units: counted.iter().filter_map(|want| want.unit()).collect(),
            paths: counted.iter().map(|want| want.path().clone()).collect(),
        };
        let gate = self.view.gate();
        if let Some(permit) = gate.already(&intent) {
            return self.act(permit, wants, act, answer);
        }
        let (view, workers) = (self.view.clone(), self.workers.clone());
        let then = move |permit: Result<Permit, Refusal>| {
            workers.run(move || match permit {
                Ok(permit) => answer(act(&view, &permit)),
                Err(refusal) => answer(Err(refusal.into())),
            });
        };
        gate.ask(intent, Requester { tid }, Box::new(then));
    }

    /// Does at once what is permitted; by a worker, if it takes long.
    fn act<T: 'static>(
        &self,
        permit: Permit,
        wants: &[Want],
        act: impl FnOnce(&View, &Permit) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) {
        if !wants.iter().any(|want| want.takes_long(&self.view)) {
            return answer(act(&self.view, &permit));
        }
        let view = self.view.clone();
        self.workers.run(move || answer(act(&view, &permit)));
    }
}
