//! Relaying.
mod common;
use common::TestServer;

#[test]
fn one_message() {
    let server = TestServer::start();
    let mut bob = server.login("bob");
    let mut alice = server.login("alice");
    alice.send("bob: hi");
    bob.expect_line("from alice: hi");
    let report = server.stop();
    assert_eq!(report.delivered, 1);
    bob.expect_line("notice: server is shutting down, 0 of your lines were accepted");
    bob.expect_eof();
    alice.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    alice.expect_eof();
}
