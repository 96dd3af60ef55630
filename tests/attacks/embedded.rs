//! The same floods against a server that is embedded in this process: with the debug assertions of
//! the library in a debug build, and with the report as a value.

use std::thread;
use std::time::Duration;

use a_chat::Config;

use crate::common::TestServer;
use crate::crowd::Crowd;
use crate::floods::Kind;
use crate::target::{beside_others, by_form, figure, for_each};

#[test]
fn an_embedded_server_withstands_floods_of_each_kind() {
    let _machine = beside_others();
    for_each(&Kind::ALL, |kind| {
        let server = TestServer::with(Config::default().drain_timeout(Duration::from_secs(1)));
        let crowd = Crowd::start(server.address, kind.plans(by_form(10, 200)));
        thread::sleep(Duration::from_millis(by_form(200, 5000)));
        let report = server.stop();
        let members = crowd.finish();
        figure(&format!("{kind:?}, embedded: {report}"));
        let received: u64 = members.iter().map(|member| member.received.messages).sum();
        assert!(received >= report.delivered, "{received} received; {report}");
        assert!(received <= report.delivered + report.lost(), "{received} received; {report}");
        let notices = members.iter().map(|member| member.received.accepted);
        let accepted: u64 = notices.clone().flatten().sum();
        assert!(accepted <= report.accepted, "{accepted} by the notices; {report}");
        if notices.clone().all(|accepted| accepted.is_some()) {
            assert_eq!(accepted, report.accepted, "by the notices: {report}");
        }
        assert_eq!(members.iter().find_map(|member| member.received.fault.clone()), None);
    });
}
