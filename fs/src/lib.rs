//! agentfs, the daemon of one workspace.
//!
//! `view/` is what an agent sees, `fuse/` puts it before the kernel, `gate.rs` is what a write
//! meets, `service/` owns the state, `store/` keeps it, `changeset/` turns deltas into changes of
//! base, `server/` answers the control API, `commands/` is the program's command line.

pub mod clock;
pub mod gate;
pub mod process;
pub mod store;

/// Runs the program and returns its exit status.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
