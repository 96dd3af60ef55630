//! The page for people, in a real browser: it loads under its policy, draws, goes on, takes what clients
//! say for text, fits a telephone, and says a word when the server ends.
//!
//! With `A_CHAT_RENEW` set it also takes the picture for the README.
#![cfg(all(feature = "cli", feature = "status"))]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use browser::Browser;
use common::{Client, send_until_full, try_login, wait_until};
use http::{get, status_address};
use process::{Process, serve};
use rustix::process::Signal;

/// Lets others end, also after a failure.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The text of an element.
fn text(browser: &mut Browser, id: &str) -> String {
    let text = browser.value(&format!("document.getElementById('{id}').textContent"));
    text.as_str().expect("text").to_owned()
}

#[test]
fn the_page_draws_what_happens_and_survives_the_end_of_the_server() {
    let Some(mut browser) = Browser::start() else { return };
    let flags = ["--status", "127.0.0.1:0", "--stall-timeout", "10min", "--drain-timeout", "10min"];
    let mut process = Process::start(serve(&flags));
    let status = status_address(&mut process);
    let _slow = process.login("slow-reader");
    let names = ["alice", "bob", "carol", "dave", "mallory.evil-name"];
    let clients: Vec<_> = names.iter().map(|name| process.login(name)).collect();
    browser.show_as(1100, 1000, "light");
    browser.call("Log.enable", serde_json::json!({}));
    browser.open(&format!("http://{status}/"));
    // It has loaded, under its policy, and drawn its table.
    browser.wait_for("document.getElementById('state').textContent === 'running'");
    assert_eq!(text(&mut browser, "clients"), "6");
    browser.wait_for("document.querySelectorAll('#rows tr').length === 6");
    let first = browser.value("document.querySelector('#rows td').textContent");
    assert_eq!(first, "slow-reader");
    // A click on a heading sorts; another turns the order round.
    browser.value("document.querySelector('#heads button').click()");
    assert_eq!(browser.value("document.querySelector('#rows td').textContent"), "alice");
    browser.value("document.querySelector('#heads button').click()");
    assert_eq!(browser.value("document.querySelector('#rows td').textContent"), "slow-reader");
    assert_eq!(browser.value("document.querySelector('#heads th').ariaSort"), "descending");
    browser.value("document.querySelectorAll('#heads button')[3].click()");

    // It goes on: the lines are drawn from at least two looks, and the figures move.
    let is_over = AtomicBool::new(false);
    let address = process.address();
    thread::scope(|scope| {
        let over = SetOnDrop(&is_over);
        scope.spawn(|| chat(clients, &is_over));
        let eager = flood(address, status);
        browser.wait_for("document.querySelectorAll('.chart path').length === 4");
        browser.wait_for("parseFloat(document.getElementById('deliveries').textContent) > 0");
        browser.wait_for("document.querySelector('tr.waiting')");
        assert_eq!(browser.value("document.querySelectorAll('.graph rect').length"), 5);
        // The graph may be older than the table: it shows what was asked for before.
        browser
            .wait_for("document.getElementById('graph').textContent.includes('1 wait for room')");
        picture(&mut browser);

        // On a telephone nothing sticks out, and the dark is dark.
        browser.show_as(390, 800, "dark");
        let widths = "[document.documentElement.scrollWidth, innerWidth]";
        assert_eq!(browser.value(widths), serde_json::json!([390, 390]));
        let colour = browser.value("getComputedStyle(document.body).backgroundColor");
        assert_eq!(colour, "rgb(20, 22, 26)");

        // What clients are called is text, whatever it looks like. At the next look it is gone.
        let shown = browser.value(
            "known = [{ ...known[0], name: '<img src=x onerror=alert(1)>' }]; table(); \
             [document.querySelectorAll('#rows img').length, \
             document.querySelector('#rows td').textContent]",
        );
        assert_eq!(shown, serde_json::json!([0, "<img src=x onerror=alert(1)>"]));

        // The drain, as it runs: one client is left that does not read.
        drop((over, eager));
        process.signal(Signal::TERM);
        browser.wait_for("document.getElementById('state').textContent === 'draining'");
        browser.wait_for("document.getElementById('report').textContent.includes('to deliver')");
        // Its end, by force, and the report.
        thread::sleep(Duration::from_millis(600));
        process.signal(Signal::TERM);
        browser.wait_for("document.getElementById('report').textContent.includes('lost by')");
        browser.wait_for("document.getElementById('word').textContent.includes('has stopped')");
        assert!(text(&mut browser, "report").contains("slow-reader ("));
    });
    assert_eq!(process.wait().0, 1);

    // A server that vanishes leaves the page standing, with a word; another one goes on in it.
    let mut process = Process::start(serve(&["--status", "127.0.0.1:0"]));
    let status = status_address(&mut process);
    browser.open(&format!("http://{status}/"));
    browser.wait_for("document.getElementById('state').textContent === 'running'");
    process.signal(Signal::KILL);
    browser.wait_for("document.getElementById('word').textContent.includes('No answer since')");
    let port = status.to_string();
    let mut process = Process::start(serve(&["--status", &port]));
    process.log.expect("status on ");
    browser.wait_for("document.getElementById('state').textContent === 'running'");
    browser.wait_for("document.getElementById('word').hidden");
    // Not a word of complaint: neither about the policy nor about anything else.
    assert_eq!(process.terminate().0, 0);
}

/// Each client sends to the next, a few times a second.
fn chat(mut clients: Vec<Client>, is_over: &AtomicBool) {
    while !is_over.load(Relaxed) {
        for (at, to) in ["bob", "carol", "dave", "alice"].iter().enumerate() {
            clients[at].send(&format!("{to}: hello"));
        }
        thread::sleep(Duration::from_millis(20));
        for client in &mut clients {
            client.arrived();
        }
    }
}

/// A client that has sent to who does not read until its window is full.
fn flood(address: SocketAddr, status: SocketAddr) -> Client {
    let eager = try_login(address, "eager").expect("room");
    let line = format!("slow-reader: {}\n", "x".repeat(1000));
    send_until_full(&eager.stream, line.repeat(64).as_bytes(), || {
        get(status, "/metrics").metric("achat_senders_waiting") > 0.0
    });
    eager
}

/// Takes the README's picture, if asked.
fn picture(browser: &mut Browser) {
    let picture = browser.picture();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{} B", picture.len());
    if std::env::var_os("A_CHAT_RENEW").is_some() {
        // The lines over the last minutes want some looks.
        wait_until("two dozen looks", || {
            thread::sleep(Duration::from_millis(200));
            browser.value("past.lines.length").as_u64().is_some_and(|looks| looks > 24)
        });
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pictures/page.png");
        fs::write(path, browser.picture()).expect("room");
    }
}
