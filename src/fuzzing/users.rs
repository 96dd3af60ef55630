//! User files: whatever bytes they hold, they are read as people would read them, or refused.

use std::fmt::Write;

use crate::UserTable;

/// Checks the reading of a user file.
///
/// # Panics
///
/// If a name is missed, one is made up, or what was read cannot be written and read again.
pub fn users(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n');
    let table = match UserTable::parse(input) {
        Ok(table) => table,
        Err(error) => {
            let text = error.to_string();
            let rest = text.strip_prefix("line ").expect("it names a line");
            let (number, _) = rest.split_once(": ").expect("it says what is wrong");
            let number: usize = number.parse().expect("a number");
            assert!((1..=lines.count()).contains(&number), "{text}");
            return;
        }
    };
    let words = lines.map(|line| String::from_utf8_lossy(line).into_owned());
    let words = words.filter_map(|line| {
        let word = line.split([' ', '\t']).find(|word| !word.is_empty())?;
        (!word.starts_with('#')).then(|| word.to_owned())
    });
    let names: Vec<_> = table.users().iter().map(|user| user.name.to_string()).collect();
    assert_eq!(words.collect::<Vec<_>>(), names);
    for name in &names {
        assert_eq!(table.find(name).map(|user| user.name.as_str()), Some(name.as_str()));
        assert!(table.reserves(&name.to_ascii_uppercase()));
    }
    let text = write(&table);
    let again = UserTable::parse(text.as_bytes()).expect("what was written");
    assert_eq!(write(&again), text);
}

fn write(table: &UserTable) -> String {
    let mut text = String::new();
    for user in table.users() {
        let hashes: Vec<_> = user.hashes.iter().map(ToString::to_string).collect();
        let _ = write!(text, "{} {}", user.name, hashes.join(","));
        if let Some(rate) = user.rate {
            let _ = write!(text, " rate={rate}");
        }
        if let Some(since) = &user.since {
            let _ = write!(text, " since={since}");
        }
        text.push_str(if user.disabled { " disabled\n" } else { "\n" });
    }
    text
}
