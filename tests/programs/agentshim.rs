//! `agentshim` as users have it, built with the suites.

fn main() -> std::process::ExitCode {
    agentshim::run()
}
