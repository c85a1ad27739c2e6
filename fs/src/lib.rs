//! (being written)

pub mod changeset;
pub mod gate;

/// Runs the program and returns its exit status.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
