//! A certificate for servers on the loopback, in files, and a client's trust in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use a_chat::client::Tls;
use tempfile::TempDir;

/// A P-256 key and the certificate that it has signed itself.
#[derive(Debug)]
pub struct Certificate(TempDir);

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate");
        let certificate = Self(tempfile::tempdir().expect("a folder"));
        fs::write(certificate.file(), made.cert.pem()).expect("room for a file");
        fs::write(certificate.key(), made.key_pair.serialize_pem()).expect("room for a file");
        fs::set_permissions(certificate.key(), Permissions::from_mode(0o600)).expect("a mode");
        certificate
    }

    pub fn file(&self) -> PathBuf {
        self.0.path().join("certificate.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    /// Adds the flags that give a-chat this certificate.
    pub fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("--tls-cert").arg(self.file()).arg("--tls-key").arg(self.key())
    }

    /// A client that trusts nobody else.
    pub fn client(&self) -> Tls {
        Tls::trusting_file(self.file()).expect("a certificate")
    }
}
