//! `agentfs attend`: the daemon's attendant. Started by the daemon alone.

use super::error::CommandError;
use crate::attendant::serve;
use std::process::ExitCode;

pub(super) fn run() -> Result<ExitCode, CommandError> {
    serve::serve().map_err(CommandError::io("attend", "/proc/self/fd/0"))?;
    Ok(ExitCode::SUCCESS)
}
