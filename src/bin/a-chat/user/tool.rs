//! What each form of `user` does. Runs on the main thread.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use a_chat::{Token, UserTable};
use time::OffsetDateTime;

use super::{edit, file};
use crate::cli::UserName;
use crate::output;

pub(super) fn add(user: &UserName, rate: Option<u32>) -> Result<(), Box<dyn Error>> {
    let token = Token::generate()?;
    let mut options = format!(" since={}", today());
    if let Some(rate) = rate {
        let _ = write!(options, " rate={rate}");
    }
    file::replace(&user.file, true, |table, text| match table.find(user.name.as_str()) {
        Some(_) => {
            Err(format!("{} has a line already; another token: a-chat user token", user.name))
        }
        None => Ok(edit::add(text, &user.name, &options, token.hash())),
    })?;
    print(&token)
}

pub(super) fn token(user: &UserName, only: bool) -> Result<(), Box<dyn Error>> {
    let token = Token::generate()?;
    file::replace(&user.file, false, |table, text| {
        let known = table.find(user.name.as_str());
        let known = known.ok_or_else(|| format!("{} is not in it", user.name))?;
        // The newest comes last.
        let last = known.hashes.last().filter(|_| !only).copied();
        let hashes: Vec<_> = last.into_iter().chain([token.hash()]).collect();
        Ok(edit::set_hashes(text, &user.name, &hashes))
    })?;
    print(&token)
}

pub(super) fn remove(user: &UserName) -> Result<(), Box<dyn Error>> {
    file::replace(&user.file, false, |table, text| match table.find(user.name.as_str()) {
        Some(_) => Ok(edit::remove(text, &user.name)),
        None => Err(format!("{} is not in it", user.name)),
    })?;
    Ok(())
}

pub(super) fn list(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    for user in UserTable::read(path)?.users() {
        let tokens = user.hashes.len();
        let _ = write!(text, "{} {tokens} token{}", user.name, if tokens == 1 { "" } else { "s" });
        if let Some(since) = &user.since {
            let _ = write!(text, " since={since}");
        }
        if let Some(rate) = user.rate {
            let _ = write!(text, " rate={rate}");
        }
        text.push_str(if user.disabled { " disabled\n" } else { "\n" });
    }
    Ok(output::to_stdout(text.as_bytes())?)
}

pub(super) fn check(path: &Path) -> Result<(), Box<dyn Error>> {
    let users = UserTable::read(path)?.users().len();
    let plural = if users == 1 { "" } else { "s" };
    let text = format!("{}: {users} user{plural}\n", path.display());
    Ok(output::to_stdout(text.as_bytes())?)
}

/// The token alone, once: it is stored nowhere.
fn print(token: &Token) -> Result<(), Box<dyn Error>> {
    output::to_stdout(format!("{}\n", token.expose()).as_bytes()).map_err(|error| {
        format!("the token is lost ({error}), a-chat user token makes another").into()
    })
}

fn today() -> String {
    let date = OffsetDateTime::now_utc().date();
    format!("{}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}
