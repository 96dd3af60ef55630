//! The flags about the configuration itself, and where each setting came from. Plain data and
//! functions of the main thread.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};

use super::config_file::ConfigFile;

/// What every variable of the program begins with.
const VARIABLES: &str = "A_CHAT_";

/// The arguments of `serve` about its arguments.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigurationArgs {
    /// Read flags from this file, as lines of `key = value`
    ///
    /// A key is the name of a flag without its dashes. Flags and variables take precedence.
    #[arg(long, value_name = "FILE", env = "A_CHAT_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Check the configuration and the files it names, and exit
    ///
    /// Here an unknown variable that begins with `A_CHAT_` is an error; otherwise it is a warning,
    /// since Kubernetes sets some for a service of the name a-chat.
    #[arg(long)]
    pub(crate) check: bool,

    /// Print each setting and where it comes from, and what the machine can hold, and exit
    #[arg(long, conflicts_with = "check")]
    pub(crate) print_limits: bool,

    /// What the command line, the environment and the file come to.
    #[arg(skip)]
    pub(crate) settings: Settings,
}

impl ConfigurationArgs {
    /// Takes what the arguments come to, and with `--check` refuses what nobody reads.
    pub(super) fn take(
        &mut self,
        serve: &Command,
        settings: Settings,
        unknown_variables: Vec<String>,
    ) -> Result<(), clap::Error> {
        if let Some(variable) = unknown_variables.first().filter(|_| self.check) {
            let text = format!("no flag has the environment variable {variable}");
            return Err(serve.clone().error(ErrorKind::UnknownArgument, text));
        }
        self.settings = Settings { unknown_variables, ..settings };
        Ok(())
    }
}

/// Every setting of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) all: Vec<Setting>,
    /// Variables that look like the program's own and are not.
    pub(crate) unknown_variables: Vec<String>,
}

/// One setting.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The flag without its dashes.
    pub(crate) flag: String,
    /// As it was given; `None` if it was not, and has no default.
    pub(crate) value: Option<String>,
    /// Where it comes from.
    pub(crate) origin: String,
    /// Whether somebody set it, in whatever way.
    pub(crate) is_given: bool,
}

impl Settings {
    pub(super) fn of(serve: &Command, matches: &ArgMatches, file: &ConfigFile) -> Self {
        let own = ["help", "config", "check", "print-limits"];
        let is_setting = |arg: &&Arg| {
            !arg.is_hide_set() && arg.get_long().is_some_and(|flag| !own.contains(&flag))
        };
        let settings = serve.get_arguments().filter(is_setting);
        let all = settings.map(|arg| Setting::of(arg, matches, file)).collect();
        Self { all, unknown_variables: Vec::new() }
    }

    /// The setting of this flag, if it was given on the command line, in the environment or in the
    /// file.
    pub(crate) fn given(&self, flag: &str) -> Option<&Setting> {
        self.all.iter().find(|setting| setting.flag == flag && setting.is_given)
    }
}

impl Setting {
    fn of(arg: &Arg, matches: &ArgMatches, file: &ConfigFile) -> Self {
        let (id, flag) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        let variable = || arg.get_env().unwrap_or_default().to_string_lossy().into_owned();
        let (origin, is_given) = match (matches.value_source(id), file.place_of(flag)) {
            (Some(ValueSource::CommandLine), _) => ("the command line".to_owned(), true),
            (Some(ValueSource::EnvVariable), _) => (variable(), true),
            (_, Some(place)) => (place, true),
            _ => ("default".to_owned(), false),
        };
        let values = matches.get_raw(id).map(|values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
        });
        let value = match (arg.get_action().takes_values(), values.as_deref()) {
            (false, Some("true")) => Some("yes".to_owned()),
            (false, _) => Some("no".to_owned()),
            // It may hold a password.
            (true, Some(_)) if arg.is_hide_env_values_set() => Some("(hidden)".to_owned()),
            _ => values,
        };
        Self { flag: flag.to_owned(), value, origin, is_given }
    }
}

/// The variables that begin as the program's own do, are not empty, and belong to no flag of any of
/// its commands. Their values may be secret, so only the names are shown.
pub(super) fn unknown_variables(
    program: &Command,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let mut known = BTreeSet::new();
    collect_variables(program, &mut known);
    let unknown = environment.filter_map(|(name, value)| {
        let is_ours = name.as_encoded_bytes().starts_with(VARIABLES.as_bytes());
        let is_unknown = is_ours && !value.is_empty() && !known.contains(&name);
        is_unknown.then(|| name.to_string_lossy().escape_debug().to_string())
    });
    let unknown: BTreeSet<_> = unknown.collect();
    unknown.into_iter().collect()
}

fn collect_variables(command: &Command, known: &mut BTreeSet<OsString>) {
    let variables = command.get_arguments().filter_map(Arg::get_env);
    known.extend(variables.map(ToOwned::to_owned));
    command.get_subcommands().for_each(|command| collect_variables(command, known));
}
