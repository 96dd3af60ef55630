//! Every server with TLS 1.3 and one certificate, if the variable `TLS` is set.

use std::process::Command;
use std::sync::OnceLock;

use a_chat::client::Tls;
use a_chat::load::link::Target;
use a_chat::load::process::Process;
use a_chat::load::protocol::Protocol;

use super::Server;
use crate::rig::certificate::Certificate;

/// Whether every server is to speak TLS.
pub fn is_asked() -> bool {
    std::env::var_os("TLS").is_some_and(|value| !value.is_empty())
}

/// The certificate of all servers, and who trusts it; `None` without TLS.
fn certificate() -> Option<&'static (Certificate, Tls)> {
    static CERTIFICATE: OnceLock<Option<(Certificate, Tls)>> = OnceLock::new();
    let make = || {
        let certificate = Certificate::new();
        let tls = certificate.client();
        (certificate, tls)
    };
    CERTIFICATE.get_or_init(|| is_asked().then(make)).as_ref()
}

/// Whether this server has TLS. The raw relay does not, nor does the Valkey of the `PyPI` wheel.
pub fn is_spoken_by(server: Server) -> bool {
    matches!(server, Server::Chat | Server::Nats | Server::OtherNats | Server::Redis)
}

/// Adds the flags that give a server TLS. Redis listens on a port of its own for it.
pub fn configure(server: Server, command: &mut Command, port: u16) {
    let Some((certificate, _)) = certificate() else { return };
    let (file, key) = (certificate.file(), certificate.key());
    match server.protocol() {
        Protocol::Chat | Protocol::Raw => {
            certificate.configure(command);
        }
        Protocol::Nats => {
            command.arg("--tls").arg("--tlscert").arg(file).arg("--tlskey").arg(key);
        }
        Protocol::Redis => {
            command.args(["--port", "0", "--tls-port", &port.to_string()]);
            command.arg("--tls-cert-file").arg(file).arg("--tls-key-file").arg(key);
            command.args(["--tls-auth-clients", "no", "--tls-protocols", "TLSv1.3"]);
        }
    }
}

/// Where the load connects to.
pub fn destination(server: Server, process: &Process) -> Target {
    let target = Target::from(process.address.clone());
    let Some((_, tls)) = certificate() else { return target };
    let target = target.with_tls(tls.clone(), None);
    if server.protocol() == Protocol::Nats { target.after_a_line() } else { target }
}
