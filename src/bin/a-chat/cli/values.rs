//! The values of flags and environment variables: how they are parsed, and how unusable ones are
//! refused. Pure functions.

use std::ffi::OsStr;
use std::fmt::Display;
use std::time::Duration;

use a_chat::{Endpoint, Name};
use bytesize::ByteSize;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, Command};
use log::LevelFilter;

use crate::logger::LogFormat;
#[cfg(feature = "status")]
use crate::status::StatusAddress;

/// The longest time that a flag takes; the clock's arithmetic holds far more.
const MAX_TIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);

pub(super) const ADDRESS: Value<String> = Value {
    parse: address,
    expected: "expected an address and a port, as in 127.0.0.1:8080 or [::1]:8080, or a Unix socket, \
               as in unix:/run/a-chat.sock",
};
pub(super) const PROXY: Value<String> = Value {
    parse: proxy,
    expected: "expected an address, a range of them, or unix, as in 192.0.2.10 or 192.0.2.0/28",
};
pub(super) const MODE: Value<u32> = Value {
    parse: mode,
    expected: "expected a file mode in octal digits, as in 660, that lets the owner write",
};
/// The number of a user. 65534 is no user's: every process that has none here seems to have it.
pub(super) const UID: Value<u32> = Value {
    parse: |text| text.trim().parse().ok().filter(|uid| ![65534, u32::MAX].contains(uid)),
    expected: "expected a user's number, as in 1000, and not 65534, which stands for everyone who \
               has none on this host",
};
#[cfg(feature = "status")]
pub(super) const STATUS: Value<StatusAddress> = Value {
    parse: |text| text.parse().ok(),
    expected: "expected an address and a port, as in 127.0.0.1:9090, or unix: and a path",
};
pub(super) const NAME: Value<Name> =
    Value { parse: name, expected: "expected 1 to 32 of A-Z a-z 0-9 _ . -, as in alice" };
pub(super) const COUNT: Value<usize> =
    Value { parse: |text| text.parse().ok(), expected: "expected a whole number, as in 100" };
pub(super) const LONG_COUNT: Value<u64> =
    Value { parse: |text| text.parse().ok(), expected: "expected a whole number, as in 100" };
pub(super) const BYTES: Value<usize> =
    Value { parse: bytes, expected: "expected a number of bytes, as in 65536 or 64KiB" };
pub(super) const TIME: Value<Duration> = Value {
    parse: time,
    expected: "expected a time of at most a year, as in 10, 1.5s or 2min (without a unit it is in \
               seconds)",
};
pub(super) const RATE: Value<f64> =
    Value { parse: rate, expected: "expected 0.001 to 1000000000 a second, as in 5000" };

pub(super) const RATE_LIMIT: Value<u32> = Value {
    parse: rate_limit,
    expected: "expected a whole number of lines a second from 1 on, as in 100",
};
pub(super) const FAILED_LOGINS: Value<FailedLogins> = Value {
    parse: failed_logins,
    expected: "expected a count and a time of at most a year, as in 10/60s, or no",
};
pub(super) const YES_OR_NO: Value<bool> = Value {
    parse: |text| match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    },
    expected: "expected yes or no",
};

/// How many wrong tokens may come in which time; `None` sets no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailedLogins(pub(super) Option<(u32, Duration)>);

/// Parses a value. A refusal names the flag or variable that the value came from, and an example of a
/// usable one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<T> {
    parse: fn(&str) -> Option<T>,
    expected: &'static str,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Value<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<T, clap::Error> {
        let parsed = value.to_str().and_then(self.parse);
        parsed.ok_or_else(|| refusal(command, arg, source, value, self.expected))
    }
}

pub(super) const LEVEL: Choice<LevelFilter> = Choice {
    names: || {
        let warn = PossibleValue::new("warn").alias("warning");
        let [off, error, info, debug, trace] =
            ["off", "error", "info", "debug", "trace"].map(PossibleValue::new);
        vec![off, error, warn, info, debug, trace]
    },
    parse: |text| {
        let level = text.parse().ok();
        level.or_else(|| text.eq_ignore_ascii_case("warning").then_some(LevelFilter::Warn))
    },
    expected: "expected off, error, warn, info, debug or trace",
};
pub(super) const LOG_FORMAT: Choice<LogFormat> = Choice {
    names: || ["text", "json"].map(PossibleValue::new).into(),
    parse: |text| match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    },
    expected: "expected text or json",
};
pub(super) const PLAIN: Choice<Plain> = Choice {
    names: || {
        let names = [("no", "None"), ("loopback", "Those on this host"), ("yes", "All")];
        names.map(|(name, help)| PossibleValue::new(name).help(help)).into()
    },
    parse: |text| match text {
        "no" => Some(Plain::No),
        "loopback" => Some(Plain::Loopback),
        "yes" => Some(Plain::Yes),
        _ => None,
    },
    expected: "expected no, loopback or yes",
};

/// Which clients may do without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    No,
    Loopback,
    Yes,
}

/// What the path of a Unix socket begins with, where an address can stand too.
pub(super) const PATH_PREFIX: &str = "unix:";

/// Parses one of a few words, and lists them in the help, in completions and in refusals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<T> {
    names: fn() -> Vec<PossibleValue>,
    parse: fn(&str) -> Option<T>,
    expected: &'static str,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Choice<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<T, clap::Error> {
        match value.to_str().and_then(self.parse) {
            Some(parsed) => Ok(parsed),
            None if source == ValueSource::EnvVariable => {
                Err(refusal(command, arg, source, value, self.expected))
            }
            // The parser's own refusal also suggests the word that was probably meant.
            None => {
                let refused = PossibleValuesParser::new((self.names)());
                let refused = refused.parse_ref(command, arg, value).err();
                Err(refused.unwrap_or_else(|| refusal(command, arg, source, value, self.expected)))
            }
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter()))
    }
}

/// Refuses a value with status 2 and the usage of `command`.
pub(super) fn refusal(
    command: &Command,
    arg: Option<&Arg>,
    source: ValueSource,
    value: &OsStr,
    cause: impl Display,
) -> clap::Error {
    let variable = arg.and_then(Arg::get_env).filter(|_| source == ValueSource::EnvVariable);
    let origin = match (variable, arg) {
        (Some(variable), _) => format!("the environment variable {}", variable.to_string_lossy()),
        (None, Some(arg)) => {
            arg.get_long().map_or_else(|| format!("'{arg}'"), |long| format!("'--{long}'"))
        }
        (None, None) => "the command line".to_owned(),
    };
    let value = value.to_string_lossy();
    let text = format!("invalid value '{}' for {origin}: {cause}", value.escape_debug());
    command.clone().error(ErrorKind::ValueValidation, text)
}

/// Checks the form alone: only listening on the address shows whether it exists.
fn address(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(path) = Endpoint::unix_path(text) {
        return (!path.as_os_str().is_empty()).then(|| text.to_owned());
    }
    let (host, port) = text.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| text.to_owned())
}

/// Checks what says which peers are proxies.
#[cfg(feature = "proxy")]
fn proxy(text: &str) -> Option<String> {
    let text = text.trim();
    let is_valid = text == "unix" || text.parse::<a_chat::AddressRange>().is_ok();
    is_valid.then(|| text.to_owned())
}

/// The flag is refused as a whole.
#[cfg(not(feature = "proxy"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature it may refuse")]
fn proxy(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Permissions in octal. A server that could not connect to its own socket would be a mistake.
fn mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && mode <= 0o777;
    (is_plain && mode & 0o200 != 0).then_some(mode)
}

fn name(text: &str) -> Option<Name> {
    text.trim().parse().ok()
}

fn bytes(text: &str) -> Option<usize> {
    let size: ByteSize = text.parse().ok()?;
    Some(usize::try_from(size.as_u64()).unwrap_or(usize::MAX))
}

/// A number of seconds, or a duration with units.
fn time(text: &str) -> Option<Duration> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let time = if is_plain {
        Duration::try_from_secs_f64(text.parse().ok()?).ok()
    } else {
        humantime::parse_duration(text).ok()
    };
    time.filter(|time| *time <= MAX_TIME)
}

/// A number of lines a second.
fn rate_limit(text: &str) -> Option<u32> {
    let count = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    count.filter(|count| *count > 0)
}

fn failed_logins(text: &str) -> Option<FailedLogins> {
    if text == "no" {
        return Some(FailedLogins(None));
    }
    let (count, text) = text.split_once('/')?;
    let count = count.parse().ok().filter(|count| *count > 0)?;
    let time = time(text).filter(|time| !time.is_zero())?;
    Some(FailedLogins(Some((count, time))))
}

fn rate(text: &str) -> Option<f64> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (1e-3..=1e9).contains(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_unit_is_in_seconds() {
        let cases = [
            ("10", Some(10_000)),
            ("1.5", Some(1500)),
            ("0", Some(0)),
            ("0.05", Some(50)),
            ("1.5s", Some(1500)),
            ("10s", Some(10_000)),
            ("2min", Some(120_000)),
            ("1h 30m", Some(5_400_000)),
            ("366days", Some(366 * 86_400_000)),
            ("367days", None),
            ("99999999999999999999", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("-1", None),
            ("1e3", None),
            ("inf", None),
            ("soon", None),
            ("5 apples", None),
        ];
        for (text, expected) in cases {
            assert_eq!(time(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_rate_is_a_number_of_lines_a_second() {
        assert_eq!((rate_limit("100"), rate_limit("7/s")), (Some(100), Some(7)));
        for odd in ["", "0", "-1", "1.5", "100/m", "/s", "99999999999"] {
            assert_eq!(rate_limit(odd), None, "{odd}");
        }
    }

    #[test]
    fn failed_logins_are_a_count_and_a_time() {
        let minute = Duration::from_secs(60);
        assert_eq!(failed_logins("10/60s"), Some(FailedLogins(Some((10, minute)))));
        assert_eq!(failed_logins("1/1min"), Some(FailedLogins(Some((1, minute)))));
        assert_eq!(failed_logins("no"), Some(FailedLogins(None)));
        for odd in ["", "10", "0/60s", "10/0s", "/60s", "10/", "10/60s/1"] {
            assert_eq!(failed_logins(odd), None, "{odd}");
        }
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        for text in ["127.0.0.1:8080", "[::1]:0", "localhost:80", " host:1 ", "unix:a", "unix:/a:b"]
        {
            assert_eq!(address(text).as_deref(), Some(text.trim()));
        }
        for text in
            ["", "8080", ":8080", "host", "host:", "host:x", "host:65536", "host:-1", "unix:"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_lets_the_owner_write() {
        let cases = [("660", Some(0o660)), ("0600", Some(0o600)), ("777", Some(0o777))];
        for (text, expected) in cases {
            assert_eq!(mode(text), expected, "{text}");
        }
        for text in ["", "8", "u+w", "+660", "440", "0", "1660", "99999999999"] {
            assert_eq!(mode(text), None, "{text}");
        }
    }
}
