//! `serve --check` and `serve --print-limits`: what the server would do, without doing it. Both run on
//! the main thread and end with it.

use std::error::Error;
use std::fmt::Write;
use std::net::ToSocketAddrs;

use a_chat::Capacity;

use crate::cli::{ServeArgs, Settings};
use crate::{cluster, logger, output};

/// Checks what the command line alone cannot tell: names of hosts, and files.
pub(crate) fn check(args: &ServeArgs) -> Result<(), Box<dyn Error>> {
    for name in args.doors.addresses() {
        name.to_socket_addrs().map_err(|error| format!("cannot listen on {name}: {error}"))?;
    }
    args.doors.unix_options()?;
    args.doors.proxies(args.config())?;
    #[cfg(feature = "tls")]
    drop(args.tls.tls()?);
    logger::check(args.log_file.as_deref())?;
    #[cfg(feature = "users")]
    if let Some(file) = args.config().users {
        a_chat::UserTable::read(file)?;
    }
    cluster::check(&args.cluster)?;
    output::to_stdout(b"the configuration is valid\n")?;
    Ok(())
}

/// Prints each setting with its origin, and the limits of the machine with the one that binds.
pub(crate) fn print_limits(args: &ServeArgs) -> Result<(), Box<dyn Error>> {
    let _ = a_chat::raise_nofile_limit();
    let config = args.config();
    let mut text = settings(&args.configuration.settings);
    let binding = Capacity::of(&config);
    let _ = writeln!(text, "\nThe server accepts {binding}. The machine can hold:");
    for limit in Capacity::limits(&config) {
        let mark = if limit.limited_by == binding.limited_by { '*' } else { ' ' };
        let _ = writeln!(text, "{mark} {:>10}  {}", limit.connections, limit.limited_by);
    }
    output::to_stdout(text.as_bytes())?;
    Ok(())
}

/// A table of flags, values and origins.
fn settings(settings: &Settings) -> String {
    let width = |columns: &mut dyn Iterator<Item = usize>| columns.max().unwrap_or(0);
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let flags = width(&mut settings.all.iter().map(|it| it.flag.len()));
    let values = width(&mut settings.all.iter().map(|it| value(&it.value).len()));
    let mut table = String::new();
    for setting in &settings.all {
        let value = value(&setting.value);
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{:flags$}  {value:values$}  {}", setting.flag, setting.origin);
    }
    table
}
