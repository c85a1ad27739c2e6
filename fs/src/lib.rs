//! agentfs, the daemon of one workspace.
//!
//! `view/` is what an agent sees, `fuse/` puts it before the kernel, `gate.rs` is what a write
//! meets, `watch.rs` hears of changes in base, `service/` owns the state, `store/` keeps it, `changeset/` turns deltas into changes of
//! base, `server/` answers the control API, `commands/` is the program's command line.

pub mod attendant;
pub mod changeset;
pub mod clock;
pub mod commands;
pub mod fuse;
pub mod gate;
pub mod git;
pub mod identity;
pub mod layout;
pub mod process;
pub mod server;
pub mod service;
pub mod stat;
pub mod store;
pub mod view;
pub mod watch;

pub use commands::run;
