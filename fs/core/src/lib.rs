//! The pure domain of agentfs.
//!
//! What is here: the words of the product as types ([`RelPath`], [`WorkUnit`], [`AgentName`] ...),
//! the lock table ([`locks`]) and the state machine that owns it ([`machine`]), the sentences that
//! explain waits and refusals ([`explain`]), the configuration ([`config`]) with its rules
//! ([`policy`]) and the commands that are units ([`process_rules`]), plans ([`plan`]) and the shape
//! of a change set ([`changeset`]).
//!
//! What must never be here: I/O, a clock, threads, FUSE, SQLite. Time comes in as an argument
//! ([`Timestamp`]); whoever calls performs the effects. State is a pure fold of events (G7).
#![forbid(unsafe_code)]

pub mod changeset;
pub mod config;
pub mod estimate;
pub mod explain;
pub mod ids;
pub mod locks;
pub mod machine;
pub mod path;
pub mod pattern;
pub mod plan;
pub mod policy;
pub mod process_rules;
pub mod reads;
pub mod time;
pub mod unit;
pub mod unit_list;
pub mod want;

pub use ids::{AgentName, BaseVersion, ClaimId, RunId, Token};
pub use path::RelPath;
pub use time::Timestamp;
pub use unit::{Mode, WorkUnit};
pub use want::Want;
