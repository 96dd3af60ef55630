//! A log line as text, as JSON, or for systemd's journal. Pure functions: the thread that logs formats
//! the message, the log's thread adds time and level.

use std::io::Write;

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

/// RFC 3339 with microseconds, so every time stamp has the same width.
const TIME_FORMAT: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// The form of each line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text for people
    #[default]
    Text,
    /// One JSON object a line, with the figures of the text as members of their own
    Json,
}

/// The form of each line, and where it leads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Format {
    pub(super) format: LogFormat,
    pub(super) is_journal: bool,
}

impl Format {
    /// The line's part that depends on the record alone.
    pub(super) fn body(self, record: &Record<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        match self.format {
            // Writing to a vector cannot fail.
            LogFormat::Text => drop(body.write_fmt(*record.args())),
            LogFormat::Json => {
                push_message(&mut body, &record.args().to_string());
                // Its only error is that of the visitor, which has none.
                let _ = record.key_values().visit(&mut Members(&mut body));
            }
        }
        body
    }

    /// As [`body`](Self::body), for a line of the log about itself.
    pub(super) fn own_body(self, text: &str) -> Vec<u8> {
        self.body(&Record::builder().args(format_args!("{text}")).build())
    }

    /// The whole line, its end included.
    pub(super) fn line(self, time: OffsetDateTime, level: Level, body: &[u8]) -> Vec<u8> {
        let mut line = Vec::with_capacity(body.len() + 64);
        if self.is_journal {
            let _ = write!(line, "<{}>", priority(level));
        }
        match self.format {
            LogFormat::Text if self.is_journal => line.extend_from_slice(body),
            LogFormat::Text => {
                push_time(&mut line, time);
                let _ = write!(line, " [{level}] ");
                line.extend_from_slice(body);
            }
            LogFormat::Json => {
                line.extend_from_slice(b"{\"time\":\"");
                push_time(&mut line, time);
                let level = level.as_str().to_ascii_lowercase();
                let _ = write!(line, "\",\"level\":\"{level}\",");
                line.extend_from_slice(body);
                line.push(b'}');
            }
        }
        line.push(b'\n');
        line
    }
}

/// The priorities of syslog(3).
pub(crate) fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn push_time(line: &mut Vec<u8>, time: OffsetDateTime) {
    // Fails only for years that the clock cannot have.
    let _ = time.format_into(line, TIME_FORMAT);
}

fn push_message(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(b"\"message\":");
    push_string(body, text);
}

fn push_string(body: &mut Vec<u8>, text: &str) {
    // A string is always valid JSON, and a vector takes everything.
    let _ = serde_json::to_writer(body, text);
}

/// Appends a record's keys and values as the members of an object.
struct Members<'a>(&'a mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Members<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let body = &mut *self.0;
        body.push(b',');
        push_string(body, key.as_str());
        body.push(b':');
        if let Some(number) = value.to_u64() {
            let _ = write!(body, "{number}");
        } else if let Some(number) = value.to_f64().filter(|number| number.is_finite()) {
            let _ = write!(body, "{number}");
        } else if let Some(answer) = value.to_bool() {
            let _ = write!(body, "{answer}");
        } else {
            push_string(body, &value.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(format: LogFormat, is_journal: bool) -> String {
        let format = Format { format, is_journal };
        let values = [
            ("client", Value::from("a\"b\u{1b}")),
            ("lost", Value::from(3_u64)),
            ("seconds", Value::from(0.25)),
            ("forced", Value::from(false)),
        ];
        let body = format.body(
            &Record::builder()
                .args(format_args!("{} left, \"so\"", "bob"))
                .key_values(&&values[..])
                .build(),
        );
        let time = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(1500);
        String::from_utf8(format.line(time, Level::Warn, &body)).expect("text")
    }

    #[test]
    fn a_line_of_text_has_time_and_level_unless_the_journal_has_them() {
        let expected = "1970-01-01T00:00:01.500000Z [WARN] bob left, \"so\"\n";
        assert_eq!(line(LogFormat::Text, false), expected);
        assert_eq!(line(LogFormat::Text, true), "<4>bob left, \"so\"\n");
    }

    #[test]
    fn a_line_of_json_has_the_figures_as_members() {
        let expected = "{\"time\":\"1970-01-01T00:00:01.500000Z\",\"level\":\"warn\",\
                        \"message\":\"bob left, \\\"so\\\"\",\"client\":\"a\\\"b\\u001b\",\
                        \"lost\":3,\"seconds\":0.25,\"forced\":false}\n";
        assert_eq!(line(LogFormat::Json, false), expected);
        assert_eq!(line(LogFormat::Json, true), format!("<4>{expected}"));
        serde_json::from_str::<serde_json::Value>(expected).expect("valid JSON");
    }
}
