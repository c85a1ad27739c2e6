//! The program `agentfs`: see the library for everything it does.

fn main() -> std::process::ExitCode {
    agentfs::run()
}
