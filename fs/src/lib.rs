//! (being written)

pub mod fuse;
pub mod gate;
pub mod view;

/// Runs the program and returns its exit status.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
