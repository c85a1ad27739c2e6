//! What the daemon is to hear of named processes: that they have begun, that they have ended, and
//! which units it is to have back. In this order for each unit, so that by the journal alone no two
//! agents ever run one at the same time. Nobody waits for it to be heard.

use super::units::TreeId;
use agentfs_api::types::NoteProcess;
use agentfs_core::WorkUnit;
use nix::unistd::Pid;
use std::cell::RefCell;
use std::collections::BTreeMap;
use tokio::sync::mpsc::UnboundedSender;

/// One thing to be told.
#[derive(Debug)]
pub enum Tiding {
    /// A named process has begun, or has ended.
    Process(NoteProcess),
    /// A unit that no tree of this run has any more, or that a claim given up was for.
    Returned(WorkUnit),
    /// There is nothing more, and all is to be given back.
    RunEnded,
}

/// A process that the journal knows as begun.
#[derive(Debug)]
struct Known {
    units: Vec<WorkUnit>,
    pid: u32,
}

/// Notes what is to be told.
#[derive(Debug)]
pub struct Teller {
    tidings: UnboundedSender<Tiding>,
    known: RefCell<BTreeMap<TreeId, Known>>,
}

impl Teller {
    /// One who tells it to `tidings`.
    pub fn new(tidings: UnboundedSender<Tiding>) -> Self {
        Self { tidings, known: RefCell::default() }
    }

    /// A process goes on with these units.
    pub fn begun(&self, tree: TreeId, units: &[WorkUnit], argv: &[String], pid: Pid) {
        let pid = pid.as_raw().cast_unsigned();
        for unit in units {
            let (unit, began) = (unit.clone(), Some(argv.to_vec()));
            self.tell(Tiding::Process(NoteProcess { unit, began, pid }));
        }
        self.known.borrow_mut().insert(tree, Known { units: units.to_vec(), pid });
    }

    /// It is gone, with all that came from it.
    pub fn ended(&self, tree: TreeId) {
        let Some(Known { units, pid }) = self.known.borrow_mut().remove(&tree) else { return };
        for unit in units {
            self.tell(Tiding::Process(NoteProcess { unit, began: None, pid }));
        }
    }

    /// A unit is to be given back.
    pub fn returned(&self, unit: WorkUnit) {
        self.tell(Tiding::Returned(unit));
    }

    /// The run has ended, and with it all its processes.
    pub fn run_ended(&self) {
        let trees: Vec<_> = self.known.borrow().keys().copied().collect();
        for tree in trees {
            self.ended(tree);
        }
        self.tell(Tiding::RunEnded);
    }

    fn tell(&self, tiding: Tiding) {
        // Nobody listens any more when all has been given back.
        let _ = self.tidings.send(tiding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn what_has_begun_ends_once_and_before_its_unit_is_free() {
        let (tidings, mut heard) = unbounded_channel();
        let teller = Teller::new(tidings);
        let units = ["proc:build".parse().unwrap(), "proc:test".parse().unwrap()];
        let argv = ["make".to_owned()];
        teller.begun(1, &units, &argv, Pid::from_raw(7));
        teller.begun(2, &units[..1], &argv, Pid::from_raw(8));
        teller.ended(1);
        teller.returned(units[1].clone());
        teller.run_ended();
        teller.ended(2);
        let mut said = Vec::new();
        while let Ok(tiding) = heard.try_recv() {
            said.push(match tiding {
                Tiding::Process(NoteProcess { unit, began, pid }) => {
                    format!("{pid} {unit} {}", if began.is_some() { "began" } else { "ended" })
                }
                Tiding::Returned(unit) => format!("{unit} returned"),
                Tiding::RunEnded => "run ended".to_owned(),
            });
        }
        assert_eq!(
            said,
            [
                "7 proc:build began",
                "7 proc:test began",
                "8 proc:build began",
                "7 proc:build ended",
                "7 proc:test ended",
                "proc:test returned",
                "8 proc:build ended",
                "run ended",
            ]
        );
    }
}
