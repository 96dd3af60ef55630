//! Changes of a user file's text: every line but the user's stays as it is. Pure.

use a_chat::{Name, TokenHash};

/// The text with a new line at its end.
pub(super) fn add(text: &str, name: &Name, options: &str, hash: TokenHash) -> String {
    let between = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{between}{name} {hash}{options}\n")
}

/// The text with these hashes in place of the user's own.
pub(super) fn set_hashes(text: &str, name: &Name, hashes: &[TokenHash]) -> String {
    let hashes: Vec<_> = hashes.iter().map(ToString::to_string).collect();
    let change = |line: &str| {
        let start = line.find(name.as_str()).unwrap_or(0) + name.as_str().len();
        let (before, rest) = line.split_at(start);
        let secret = rest.trim_start_matches([' ', '\t']);
        let blanks = &rest[..rest.len() - secret.len()];
        let end = secret.find([' ', '\t', '\n']).unwrap_or(secret.len());
        let (secret, options) = secret.split_at(end);
        if secret.starts_with("sha256:") {
            format!("{before}{blanks}{}{options}", hashes.join(","))
        } else {
            format!("{before} {}{rest}", hashes.join(","))
        }
    };
    text.split_inclusive('\n')
        .map(|line| if is_of(line, name) { change(line) } else { line.to_owned() })
        .collect()
}

/// The text without the user's line.
pub(super) fn remove(text: &str, name: &Name) -> String {
    text.split_inclusive('\n').filter(|line| !is_of(line, name)).collect()
}

fn is_of(line: &str, name: &Name) -> bool {
    line.split([' ', '\t', '\n']).find(|word| !word.is_empty()) == Some(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use a_chat::Token;

    fn name(text: &str) -> Name {
        text.parse().expect("a valid name")
    }

    fn hash() -> TokenHash {
        Token::generate().expect("random numbers").hash()
    }

    #[test]
    fn a_new_user_comes_last_on_a_line_of_its_own() {
        let hash = hash();
        for (before, after) in [("", ""), ("# x\n", "# x\n"), ("dave disabled", "dave disabled\n")]
        {
            let text = add(before, &name("alice"), " rate=5", hash);
            assert_eq!(text, format!("{after}alice {hash} rate=5\n"));
        }
    }

    #[test]
    fn only_the_line_of_the_user_changes() {
        let (old, one, two) = (hash(), hash(), hash());
        let text = |secret: &str| {
            format!(
                "# alice is a user\n alic {old}\n\talice \t{secret}  rate=5 disabled\n\
                 alice2 {old}\n#alice {old}"
            )
        };
        let before = text(&old.to_string());
        let both = format!("{one},{two}");
        assert_eq!(set_hashes(&before, &name("alice"), &[one, two]), text(&both));
        let gone = before.replace(&format!("\talice \t{old}  rate=5 disabled\n"), "");
        assert_eq!(remove(&before, &name("alice")), gone);
        assert_eq!(remove(&before, &name("bob")), before);
    }

    #[test]
    fn a_user_without_a_token_gets_one() {
        let hash = hash();
        for (before, after) in [
            ("dave disabled\n", format!("dave {hash} disabled\n")),
            ("dave\tdisabled", format!("dave {hash}\tdisabled")),
        ] {
            assert_eq!(set_hashes(before, &name("dave"), &[hash]), after);
        }
    }
}
