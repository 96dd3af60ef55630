//! `completions` and `manual`: files for shells and for man(1), generated from the command line's
//! own definition. Both run on the main thread.

use std::error::Error;
use std::fs;
use std::path::Path;

use clap_complete::{Shell, generate};

use crate::{cli, output};

/// Writes the completion script for this shell to standard output.
pub(crate) fn completions(shell: Shell) -> Result<(), Box<dyn Error>> {
    let mut script = Vec::new();
    generate(shell, &mut cli::command(), "a-chat", &mut script);
    output::to_stdout(&script)?;
    Ok(())
}

/// Writes a page for the program and one for each of its commands.
pub(crate) fn manual(directory: &Path) -> Result<(), Box<dyn Error>> {
    let written = fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(cli::command(), directory));
    written.map_err(|error| {
        format!("cannot write manual pages into {}: {error}", directory.display()).into()
    })
}
