//! The flags of the ways in: where the server listens, and whom it believes there.

use std::path::Path;

use a_chat::{Config, Endpoint, UnixOptions};
use clap::Args;
use nix::unistd::Group;

use super::values::{ADDRESS, MODE, PROXY};

/// Where `serve` listens.
#[derive(Debug, Args)]
pub(crate) struct DoorArgs {
    /// Address to listen on, or a Unix socket as in `unix:/run/a-chat.sock`; the flag can be repeated,
    /// and the variable can hold a list with commas
    ///
    /// A name stands for all its addresses. Port 0 picks a free port, which is printed.
    #[arg(
        short,
        long,
        value_name = "ADDR:PORT",
        env = "A_CHAT_LISTEN",
        default_value = "127.0.0.1:8080",
        value_delimiter = ',',
        value_parser = ADDRESS
    )]
    listen: Vec<String>,

    /// Mode of the Unix sockets' files, in octal: whoever may write them may connect
    #[arg(
        long,
        value_name = "MODE",
        env = "A_CHAT_UNIX_MODE",
        default_value = "660",
        value_parser = MODE,
        help_heading = "Unix sockets"
    )]
    unix_mode: u32,

    /// Group of the Unix sockets' files, by name or number [default: the process's own]
    #[arg(long, value_name = "GROUP", env = "A_CHAT_UNIX_GROUP", help_heading = "Unix sockets")]
    unix_group: Option<String>,

    /// Addresses of proxies, alone or as ranges, each of whose connections must begin with a PROXY
    /// header; `unix` stands for all Unix sockets [default: none]
    ///
    /// The header, of version 1 or 2, says who the client is. From other addresses it is never read.
    #[arg(long, value_name = "ADDR,...", env = "A_CHAT_PROXY_FROM", value_delimiter = ',', value_parser = PROXY)]
    proxy_from: Vec<String>,
}

impl DoorArgs {
    /// The addresses and names to listen on, in the order of the flags.
    pub(crate) fn addresses(&self) -> Vec<&str> {
        let all = self.listen.iter().map(String::as_str);
        all.filter(|text| Endpoint::unix_path(text).is_none()).collect()
    }

    /// The paths of the Unix sockets to listen on, each once.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        let mut paths: Vec<_> =
            self.listen.iter().filter_map(|text| Endpoint::unix_path(text)).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// Sets which peers are proxies.
    ///
    /// # Errors
    ///
    /// The text that is no range of addresses.
    #[cfg(feature = "proxy")]
    pub(crate) fn proxies(&self, config: Config) -> Result<Config, String> {
        let (unix, ranges): (Vec<_>, Vec<_>) =
            self.proxy_from.iter().map(|text| text.trim()).partition(|text| *text == "unix");
        let ranges = ranges.into_iter().map(|text| {
            let range = text.parse::<a_chat::AddressRange>();
            range.map_err(|why| {
                format!("invalid value '{}' for '--proxy-from': {why}", text.escape_debug())
            })
        });
        let ranges: Vec<_> = ranges.collect::<Result<_, _>>()?;
        Ok(config.proxy_from(ranges).proxy_from_unix(!unix.is_empty()))
    }

    /// Says that this program knows no proxies.
    #[cfg(not(feature = "proxy"))]
    pub(crate) fn proxies(&self, config: Config) -> Result<Config, String> {
        if self.proxy_from.is_empty() {
            return Ok(config);
        }
        Err("'--proxy-from' needs a build with it: cargo install a-chat --features proxy"
            .to_owned())
    }

    /// Who may connect to them.
    pub(crate) fn unix_options(&self) -> Result<UnixOptions, String> {
        let group = self.unix_group.as_deref().map(group_id).transpose()?;
        Ok(UnixOptions::default().mode(self.unix_mode).group(group))
    }
}

/// A group's number. Only the machine that the server runs on knows its groups, so this is no part of
/// reading the command line.
fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(format!("there is no group {}", group.escape_debug())),
        Err(error) => Err(format!("cannot look up the group {}: {error}", group.escape_debug())),
    }
}
