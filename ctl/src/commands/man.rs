//! `agentctl man`: its manual pages.

use super::Run;
use crate::cli::{Cli, Global};
use crate::error::Error;
use crate::output;
use clap::CommandFactory;
use std::path::PathBuf;

/// Write the manual pages
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl man ~/.local/share/man/man1\n  agentctl man | man -l -"
)]
pub struct Man {
    /// Write a page for each command into this directory; else print the main one
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

impl Run for Man {
    fn run(self, _: &Global) -> Result<(), Error> {
        let Some(dir) = self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Error::Output)?;
            return output::bytes(&page);
        };
        clap_mangen::generate_to(Cli::command(), &dir)
            .map_err(|source| Error::Write { path: dir, source })
    }
}
