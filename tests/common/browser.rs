//! A headless Chromium, driven over pipes by its own protocol of debugging: messages of JSON, each
//! ended by a zero byte.
#![allow(dead_code, unreachable_pub, reason = "as in the other helpers")]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{TEST_TIMEOUT, skipped};

/// A browser with one page; dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    requests: File,
    responses: BufReader<File>,
    session: String,
    number: u64,
    _folder: TempDir,
}

impl Browser {
    /// Returns `None`, and prints why, without one.
    pub fn start() -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let is_there = |name: &&&str| {
            let mut version = Command::new(name);
            version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        };
        let Some(name) = names.iter().find(is_there) else {
            skipped("there is no chromium to show the page");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let [requests, responses] = ["in", "out"].map(|name| folder.path().join(name));
        let made = Command::new("mkfifo").args([&requests, &responses]).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo(1)");
        // It reads from descriptor 3 and writes to descriptor 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3<\"$IN\" 4>\"$OUT\"", "sh", name, "--headless"]);
        command.args(["--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args(["--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        command.arg("about:blank").env("IN", &requests).env("OUT", &responses);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("a shell");
        // In the order in which the shell opens them.
        let requests = OpenOptions::new().write(true).open(&requests).expect("a FIFO");
        let responses = BufReader::new(File::open(&responses).expect("a FIFO"));
        let session = String::new();
        let mut browser = Self { child, requests, responses, session, number: 0, _folder: folder };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        Some(browser)
    }

    /// Calls a method of the protocol and waits for its result.
    #[allow(clippy::needless_pass_by_value, reason = "they are made where this is called")]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let message = format!("{message}\0");
        self.requests.write_all(message.as_bytes()).expect("a browser that reads");
        loop {
            let mut bytes = Vec::new();
            self.responses.read_until(0, &mut bytes).expect("a browser that answers");
            assert!(bytes.pop().is_some(), "the browser has ended");
            let mut answer: Value = serde_json::from_slice(&bytes).expect("JSON");
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        self.try_value(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The same, or what the page threw.
    fn try_value(&mut self, expression: &str) -> Result<Value, String> {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let mut result = self.call("Runtime.evaluate", parameters);
        if result["exceptionDetails"].is_null() {
            Ok(result["result"]["value"].take())
        } else {
            Err(result["result"]["description"].to_string())
        }
    }

    /// Waits until an expression in the page is true.
    pub fn wait_for(&mut self, expression: &str) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        // A page that is not there yet throws.
        while self.try_value(&format!("Boolean({expression})")) != Ok(true.into()) {
            let page = || "document.body.innerText";
            assert!(Instant::now() < deadline, "{expression}: {}", self.value(page()));
            // The page itself has a step of a second.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// The page as it looks, as a PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        decode(shot["data"].as_str().expect("a picture"))
    }

    /// The size of the window, and whether it prefers dark colours.
    pub fn show_as(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Base64, as the protocol has pictures.
fn decode(text: &str) -> Vec<u8> {
    let digit = |char: u8| match char {
        b'A'..=b'Z' => char - b'A',
        b'a'..=b'z' => char - b'a' + 26,
        b'0'..=b'9' => char - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let number = group.iter().fold(0_u32, |number, char| number << 6 | u32::from(digit(*char)));
        let number = number << (6 * (4 - group.len()));
        bytes.extend_from_slice(&number.to_be_bytes()[1..group.len()]);
    }
    bytes
}
