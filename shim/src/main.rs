//! The program `agentshim`: see the library for everything it does.

fn main() -> std::process::ExitCode {
    agentshim::run()
}
