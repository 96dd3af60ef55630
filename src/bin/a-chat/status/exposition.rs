//! Metrics in the text format of Prometheus, or in that of `OpenMetrics`. Pure.

use std::fmt::{Display, Write};

/// The text so far.
#[derive(Debug)]
pub(super) struct Exposition {
    text: String,
    is_open_metrics: bool,
}

impl Exposition {
    pub(super) fn new(is_open_metrics: bool) -> Self {
        Self { text: String::new(), is_open_metrics }
    }

    pub(super) fn content_type(&self) -> &'static str {
        if self.is_open_metrics {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        }
    }

    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauges(name, help, [(&[] as &[_], value)]);
    }

    /// Values that go up and down, told apart by labels.
    pub(super) fn gauges<'a, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], V)>,
    ) {
        self.family(name, "gauge", help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    /// A value that only grows; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.counters(name, help, [(&[] as &[_], value)]);
    }

    /// Values that only grow, told apart by labels.
    pub(super) fn counters<'a, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], V)>,
    ) {
        // The family is called without the suffix in the one format, and with it in the other.
        let family = if self.is_open_metrics { name.trim_end_matches("_total") } else { name };
        self.family(family, "counter", help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    /// A value of 1 whose labels are what it tells.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.gauges(name, help, [(labels, 1)]);
    }

    pub(super) fn finish(mut self) -> String {
        if self.is_open_metrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail; help texts and labels need no escapes.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}
