//! Writes the manual pages and the shell completions of `a-chat` into a folder: `cargo run
//! --example manual -- target/manual`. They are made of the command line's own definition.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    write(&folder.ok_or("no folder to write to")?)
}

/// A page for the program and for each of its commands, a completion for each of these shells.
fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(a_chat::cli::command(), folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut a_chat::cli::command(), "a-chat", folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page_and_completions() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("room for some files");
        let read = |name: &str| {
            fs::read_to_string(folder.path().join(name)).unwrap_or_else(|it| panic!("{name}: {it}"))
        };
        let command = a_chat::cli::command();
        let names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert!(names.contains(&"serve") && names.contains(&"stress"), "{names:?}");
        assert!(read("a-chat.1").contains(".TH a-chat"));
        for name in names {
            assert!(read(&format!("a-chat-{name}.1")).contains(&format!("a\\-chat\\-{name}")));
            for completion in ["a-chat.bash", "a-chat.fish", "_a-chat"] {
                assert!(read(completion).contains(name), "{completion} lacks {name}");
            }
        }
    }
}
