//! The names and tokens of the load's clients, for a server that has users. Set once, before the
//! load connects anything.

use std::sync::OnceLock;

use crate::wire::name::Name;
use crate::wire::token::Token;

static LOGINS: OnceLock<Vec<(Name, Token)>> = OnceLock::new();

/// Reads login lines: a name and its token each. All names must have the same length.
///
/// # Errors
///
/// What is wrong, and in which line; never a token.
pub fn parse(text: &str) -> Result<Vec<(Name, Token)>, String> {
    let mut logins: Vec<(Name, Token)> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let login = line.trim().split_once(' ').and_then(|(name, token)| {
            Some((Name::new(name).ok()?, Token::new(token.trim()).ok()?))
        });
        let (name, token) =
            login.ok_or_else(|| format!("line {}: expected a name and a token", index + 1))?;
        let is_as_long = |(first, _): &(Name, _)| first.as_str().len() == name.as_str().len();
        if !logins.first().is_none_or(is_as_long) {
            return Err(format!("line {}: all names must have the same length", index + 1));
        }
        logins.push((name, token));
    }
    Ok(logins)
}

/// Has the load's clients log in with these from now on.
pub fn set(logins: Vec<(Name, Token)>) {
    let _ = LOGINS.set(logins);
}

/// The name of this client, if its names are given.
pub(super) fn name(client: usize) -> Option<&'static Name> {
    LOGINS.get().and_then(|logins| logins.get(client)).map(|(name, _)| name)
}

/// The first line of a client of this name, without its line end.
pub(super) fn login(name: &str) -> String {
    let login = LOGINS.get().and_then(|logins| logins.iter().find(|(other, _)| *other == name));
    match login {
        Some((_, token)) => format!("{name} {}", token.expose()),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_lines_are_names_of_one_length_with_tokens() {
        let token = "achat_0123456789abcdefghjkmnpqrs";
        let logins = parse(&format!("a1 {token}\n\na2 {token}\n")).expect("valid");
        assert_eq!(logins.len(), 2);
        for (line, problem) in [
            ("a2", "expected a name"),
            ("a2 hunter2", "expected a name"),
            (&*format!("a10 {token}"), "the same length"),
        ] {
            let error = parse(&format!("a1 {token}\n{line}\n")).expect_err(line);
            assert!(error.starts_with("line 2: ") && error.contains(problem), "{error}");
            assert!(!error.contains("hunter2"));
        }
    }
}
