//! The configuration file: lines of `key = value`, each of which becomes the default of the flag with
//! that name. So values, errors and precedence are those of the command line. Plain functions of the
//! main thread.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::values::PATH_PREFIX;

/// Flags that stand on the command line only: each decides what the program does with the rest.
const NOT_IN_FILES: [&str; 5] = ["config", "check", "print-limits", "help", "version"];

/// A file's lines, checked one by one.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Counted from 1.
    line: usize,
    key: String,
    value: String,
}

impl ConfigFile {
    /// Reads a file of flags of `serve`. An error names the line.
    pub(super) fn read(path: &Path, serve: &Command) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the configuration {shown}: {error}"))?;
        let mut file = Self { path: path.to_owned(), entries: Vec::new() };
        // Only the lines themselves count here, not what else the process was started with.
        let serve = serve.clone().mut_args(|arg| arg.env(Resettable::Reset));
        for (line, text) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let entry = file.entry(line, text, &serve);
            file.entries.push(entry.map_err(|error| format!("{shown}, line {line}: {error}"))?);
        }
        Ok(file)
    }

    fn entry(&self, line: usize, text: &str, serve: &Command) -> Result<Entry, String> {
        let (key, value) = text.split_once('=').ok_or("expected `key = value`")?;
        let (key, value) = (key.trim_end(), value.trim_start());
        if value.is_empty() {
            return Err(format!("'{key}' has no value; to keep the default, leave the line out"));
        }
        let arg = flag(serve, key).ok_or_else(|| unknown(serve, key))?;
        let is_repeatable = matches!(arg.get_action(), ArgAction::Append);
        if let Some(first) = self.entries.iter().find(|it| it.key == key && !is_repeatable) {
            return Err(format!("'{key}' stands in line {} already", first.line));
        }
        let value = match (arg.get_action(), value) {
            (ArgAction::SetTrue, "yes") => "true".to_owned(),
            (ArgAction::SetTrue, "no") => "false".to_owned(),
            (ArgAction::SetTrue, _) => return Err(format!("'{key}' takes yes or no")),
            _ => {
                let value = relative_to(&self.path, arg, value);
                refused(serve, key, &value).map_or(Ok(value), Err)?
            }
        };
        Ok(Entry { line, key: key.to_owned(), value })
    }

    /// Makes each entry the default of its flag.
    pub(super) fn apply(&self, serve: Command) -> Command {
        serve.mut_args(|arg| {
            let values = self.entries.iter().filter(|it| arg.get_long() == Some(&it.key));
            let delimiter = arg.get_value_delimiter();
            let values = values.flat_map(|entry| match delimiter {
                Some(delimiter) => entry.value.split(delimiter).collect(),
                None => vec![entry.value.as_str()],
            });
            // Defaults last as long as the process.
            let values: Vec<&'static str> =
                values.map(|value| &*value.trim().to_owned().leak()).collect();
            if values.is_empty() { arg } else { arg.default_values(values).required(false) }
        })
    }

    /// Where a flag's value stands, if it is in the file.
    pub(super) fn place_of(&self, flag: &str) -> Option<String> {
        let entry = self.entries.iter().rfind(|entry| entry.key == flag)?;
        Some(format!("{}, line {}", self.path.display(), entry.line))
    }
}

/// The flag of `serve` that a key stands for.
fn flag<'a>(serve: &'a Command, key: &str) -> Option<&'a Arg> {
    let is_meant = |arg: &&Arg| arg.get_long() == Some(key) && !arg.is_hide_set();
    serve.get_arguments().find(is_meant).filter(|_| !NOT_IN_FILES.contains(&key))
}

/// Names the key that was probably meant, as the command line would.
fn unknown(serve: &Command, key: &str) -> String {
    if NOT_IN_FILES.contains(&key) {
        return format!("'{key}' stands on the command line only");
    }
    let error = serve.clone().try_get_matches_from(["serve".to_owned(), format!("--{key}=x")]);
    let error = error.err();
    let nearest = error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg));
    let nearest = match nearest {
        Some(ContextValue::String(flag)) => Some(flag),
        Some(ContextValue::Strings(flags)) => flags.first(),
        _ => None,
    };
    let known =
        nearest.map(|flag| flag.trim_start_matches('-')).filter(|it| flag(serve, it).is_some());
    let nearest = known.map(|flag| format!("; is '{flag}' meant?")).unwrap_or_default();
    format!("unknown key '{}'{nearest}", key.escape_debug())
}

/// Why the command line refuses this value, if it does.
fn refused(serve: &Command, key: &str, value: &str) -> Option<String> {
    let error =
        serve.clone().try_get_matches_from(["serve".to_owned(), format!("--{key}={value}")]);
    let error = error.err()?;
    // Whether it goes together with others is seen once all of them are known.
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Some(text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next()?.to_owned())
}

/// A path is relative to the folder of the file that names it.
fn relative_to(file: &Path, arg: &Arg, value: &str) -> String {
    let folder = file.parent().unwrap_or(Path::new(""));
    let join = |path: &str| folder.join(path).to_string_lossy().into_owned();
    let one = |value: &str| match value.strip_prefix(PATH_PREFIX) {
        Some(path) => format!("{PATH_PREFIX}{}", join(path)),
        None if takes_path(arg) && value != "-" => join(value),
        None => value.to_owned(),
    };
    match arg.get_value_delimiter() {
        Some(delimiter) => {
            let values: Vec<_> = value.split(delimiter).map(|value| one(value.trim())).collect();
            values.join(&delimiter.to_string())
        }
        None => one(value),
    }
}

fn takes_path(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == std::any::TypeId::of::<PathBuf>()
}
