//! The token that a client logs in with: from a file, or from the environment. Runs on the main
//! thread.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

use a_chat::Token;

use crate::cli::TokenFlags;

/// The variable that may hold a token.
const VARIABLE: &str = "A_CHAT_TOKEN";

/// The largest token file that is read, in bytes: it may hold a line end, and no more.
const MAX_BYTES: u64 = 1024;

/// The largest file of login lines that is read, in bytes.
const MAX_LOGINS_BYTES: u64 = 16 * 1024 * 1024;

/// What the variable held.
static FROM_ENVIRONMENT: OnceLock<String> = OnceLock::new();

/// Takes the token out of the environment, where every program that this one starts would find it.
/// Call it before there is another thread.
pub(crate) fn take_from_environment() {
    let Some(token) = std::env::var_os(VARIABLE) else { return };
    #[expect(unsafe_code, reason = "the environment belongs to all threads")]
    // SAFETY: there is no other thread yet.
    unsafe {
        std::env::remove_var(VARIABLE);
    }
    if !token.is_empty() {
        let _ = FROM_ENVIRONMENT.set(token.to_string_lossy().into_owned());
    }
}

/// The token to log in with, if there is one.
pub(crate) fn of(flags: &TokenFlags) -> Result<Option<Token>, String> {
    if let Some(path) = &flags.token_file {
        let text = read(path, MAX_BYTES)?;
        return parse(&text, &path.display().to_string()).map(Some);
    }
    let text = FROM_ENVIRONMENT.get();
    text.map(|text| parse(text, &format!("the environment variable {VARIABLE}"))).transpose()
}

fn parse(text: &str, source: &str) -> Result<Token, String> {
    Token::new(text.trim()).map_err(|error| format!("no token in {source}: {error}"))
}

/// Reads a file of login lines.
pub(crate) fn read_logins(path: &Path) -> Result<String, String> {
    read(path, MAX_LOGINS_BYTES)
}

/// Reads a file that holds secrets.
fn read(path: &Path, max: u64) -> Result<String, String> {
    let cannot =
        |problem: &dyn std::fmt::Display| format!("cannot use {}: {problem}", path.display());
    let mut file = File::open(path).map_err(|error| cannot(&error))?;
    let metadata = file.metadata().map_err(|error| cannot(&error))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
        return Err(cannot(&"every user of this machine can read it (chmod o-r helps)"));
    }
    let mut text = String::new();
    file.by_ref().take(max + 1).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    if text.len() as u64 > max {
        return Err(cannot(&"it is too large"));
    }
    Ok(text)
}
