//! The program `agentctl`: see the library for everything it does.

fn main() -> std::process::ExitCode {
    agentctl::run()
}
