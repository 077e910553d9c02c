//! Secrets taken out of texts: those that this host knows, in every form in which they are written, and
//! what has the form of one.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::Value;

/// Text in the place of a secret.
pub(super) const MASK: &str = "***";
/// Shortest secret that is looked for: a shorter one would be found in every text.
const KNOWN_BYTES_MIN: usize = 6;
/// Shortest part of one in base64.
const ENCODED_BYTES_MIN: usize = 8;
/// Parts of the names of what is secret.
const NAMES: [&str; 15] = [
    "accesskey",
    "apikey",
    "auth",
    "authorization",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "signature",
    "token",
    "xamz",
];
/// Ends of such names; `key` alone is none.
const NAME_ENDS: [&str; 4] = ["key", "keys", "pass", "secretid"];
/// Words after which a credential comes.
const SCHEMES: [&str; 3] = ["basic", "bearer", "negotiate"];
/// Characters between words, besides white space.
const BETWEEN: &str = "\"'`,;<>(){}[]|\\";

/// Secrets to take out.
#[derive(Clone, Default)]
pub(super) struct SecretMask {
    /// Forms of the known ones, the longest first.
    forms: Vec<String>,
}

// What it holds is for nobody's eyes.
impl std::fmt::Debug for SecretMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretMask({} forms)", self.forms.len())
    }
}

impl SecretMask {
    /// Takes these out, and what has the form of a secret.
    pub(super) fn new<'a>(known: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut forms = Vec::new();
        for secret in known {
            let secret = secret.trim_ascii();
            if secret.len() >= KNOWN_BYTES_MIN {
                forms.extend(forms_of(secret));
            }
        }
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Self { forms }
    }

    /// The text without secrets, and how many were taken out.
    pub(super) fn text(&self, text: &str) -> (String, usize) {
        let mut count = 0;
        let mut text = text.to_owned();
        for form in &self.forms {
            let found = text.matches(form.as_str()).count();
            if found > 0 {
                count += found;
                text = text.replace(form.as_str(), MASK);
            }
        }
        let lines = text.split_inclusive('\n');
        // Of a text that begins in the middle of a key.
        let [begin, end] = ["-----BEGIN", "-----END"].map(|mark| text.find(mark));
        let is_end = |at: usize| text[at..].lines().next().is_some_and(is_private);
        let mut is_in_key = end.is_some_and(|end| begin.is_none_or(|at| end < at) && is_end(end));
        let masked = lines.map(|line| {
            if line.contains("-----BEGIN") && is_private(line) {
                is_in_key = true;
            }
            if is_in_key {
                is_in_key = !line.contains("-----END");
                count += 1;
                return format!("{MASK}\n");
            }
            let (line, found) = of_line(line);
            count += found;
            line
        });
        let masked = masked.collect();
        (masked, count)
    }
}

fn is_private(line: &str) -> bool {
    line.contains("PRIVATE KEY")
}

/// Whether a name is that of something secret; one that ends as the name of a file, a time or a number of
/// such is none.
pub(super) fn is_secret(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(|c| !matches!(c, '_' | '-' | '.'))
        .collect::<String>()
        .to_lowercase();
    let is_about = [
        "file", "files", "hosts", "id", "path", "total", "count", "at", "name",
    ];
    let is_public = ["key", "keys"].contains(&&*name) || name.contains("public");
    let ends = |end: &&str| name.ends_with(end);
    (!is_public && NAME_ENDS.iter().any(ends))
        || (NAMES.iter().any(|part| name.contains(part)) && !is_about.iter().any(ends))
}

/// Forms in which a secret may be written: as it is, in JSON, in a URL, in hexadecimal digits, and in base64,
/// wherever it begins in what was encoded.
fn forms_of(secret: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    if let Ok(text) = std::str::from_utf8(secret) {
        forms.push(text.to_owned());
        let json = Value::from(text).to_string();
        forms.push(json.trim_matches('"').to_owned());
        forms.push(percent(text, |c| {
            c.is_ascii_alphanumeric() || "-._~".contains(c)
        }));
        forms.push(percent(text, |c| {
            c.is_ascii_graphic() && !"@:/?#[]\"<>%".contains(c)
        }));
    }
    forms.push(state::digest::hex(secret));
    for before in 0..3_usize {
        let padded = [&vec![0; before][..], secret].concat();
        // Characters that depend on the secret alone.
        let (first, last) = ((before * 8).div_ceil(6), (padded.len() * 8) / 6);
        for alphabet in [&BASE64_STANDARD, &BASE64_URL_SAFE] {
            let encoded = alphabet.encode(&padded);
            let stable = encoded.get(first..last).unwrap_or_default();
            if stable.len() >= ENCODED_BYTES_MIN {
                forms.push(stable.to_owned());
            }
        }
    }
    forms
}

/// Text in a URL, of which the characters that are not `plain` are written as numbers.
fn percent(text: &str, plain: impl Fn(char) -> bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match char::from(byte) {
            c if byte.is_ascii() && plain(c) => encoded.push(c),
            _ => encoded.push_str(&format!("%{byte:0>2X}")),
        }
    }
    encoded
}

/// The line without what has the form of a secret, and how much was taken out.
fn of_line(line: &str) -> (String, usize) {
    let (mut masked, mut count) = (String::with_capacity(line.len()), 0);
    let (mut is_value, mut name) = (false, "");
    let is_between = |c: char| c.is_whitespace() || BETWEEN.contains(c);
    let mut rest = line;
    while !rest.is_empty() {
        let begin = rest.find(|c| !is_between(c)).unwrap_or(rest.len());
        masked.push_str(&rest[..begin]);
        rest = &rest[begin..];
        let quote = masked.chars().next_back().filter(|c| "\"'`".contains(*c));
        let end = match quote.filter(|_| is_value) {
            // All that stands between the quotes, spaces and all.
            Some(quote) => end_of_quoted(rest, quote),
            None => rest.find(is_between).unwrap_or(rest.len()),
        };
        let word = &rest[..end];
        rest = &rest[end..];
        if word.is_empty() {
            continue;
        }
        if [":", "=", ":="].contains(&word) {
            is_value = is_secret(name);
            masked.push_str(word);
            continue;
        }
        let (shown, asks) = of_word(word, is_value);
        count += usize::from(shown != word);
        masked.push_str(&shown);
        (is_value, name) = (asks, word);
    }
    (masked, count)
}

/// End of a text that stands in such quotes: that of the line where they are not closed.
fn end_of_quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    let end = text.find(|c| {
        let is_end = c == quote && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.unwrap_or(text.len())
}

/// The word without a secret, and whether the next one is a secret.
fn of_word(word: &str, is_value: bool) -> (String, bool) {
    let scheme = word.to_lowercase();
    if SCHEMES.contains(&scheme.as_str()) {
        return (word.to_owned(), true);
    }
    let is_token = word.starts_with("eyJ") && word.matches('.').count() >= 2;
    if is_value || is_token {
        return (MASK.to_owned(), false);
    }
    if let Some((before, after)) = word.split_once("://") {
        return (format!("{before}://{}", of_address(after)), false);
    }
    if word.contains('&') {
        let parts = word.split('&').map(|part| of_word(part, false).0);
        return (parts.collect::<Vec<_>>().join("&"), false);
    }
    let at = word.find(['=', ':']);
    if let Some(at) = at.filter(|at| is_secret(&word[..*at])) {
        return match &word[at + 1..] {
            "" => (word.to_owned(), true),
            value if SCHEMES.contains(&value.to_lowercase().as_str()) => (word.to_owned(), true),
            _ => (format!("{}{MASK}", &word[..=at]), false),
        };
    }
    if word.starts_with('-') && is_secret(word) {
        return (word.to_owned(), true);
    }
    // A name and a password before a host; but a digest stands behind a tag, too.
    if let Some((before, after)) = word.rsplit_once('@')
        && let Some((user, _)) = before.split_once(':')
        && !after.starts_with("sha")
    {
        return (format!("{user}:{MASK}@{after}"), false);
    }
    (word.to_owned(), false)
}

/// The rest of a URL without user, password and query.
fn of_address(rest: &str) -> String {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, format!("?{MASK}")),
        None => (rest, String::new()),
    };
    // A password may have a slash in it, though it should not.
    let user = rest
        .rfind('@')
        .filter(|at| !rest[*at + 1..].starts_with("sha"));
    let rest = match user {
        Some(at) => format!("{MASK}@{}", &rest[at + 1..]),
        None => rest.to_owned(),
    };
    format!("{rest}{query}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_the_form_of_a_secret_is_taken_out_and_all_else_stays() {
        let mask = SecretMask::default();
        for (text, expected) in [
            (
                "GET http://user:pw@host:1/v2 failed",
                "GET http://***@host:1/v2 failed",
            ),
            ("proxy=http://user:p/w@host", "proxy=http://***@host"),
            (
                "see https://h/a?sig=abc&x=1, then",
                "see https://h/a?***, then",
            ),
            ("a=1&token=abc", "a=1&token=***"),
            ("image user:pw@host/a:1", "image user:***@host/a:1"),
            ("image host/a:1@sha256:00ff", "image host/a:1@sha256:00ff"),
            (
                "mysql --password=hunter2 -h db",
                "mysql --password=*** -h db",
            ),
            (
                "mysql --password hunter2 -h db",
                "mysql --password *** -h db",
            ),
            ("DB_PASSWORD=hunter2 ok", "DB_PASSWORD=*** ok"),
            ("DB_PASS=hunter2 ok", "DB_PASS=*** ok"),
            ("dbPass: hunter2 ok", "dbPass: *** ok"),
            ("ENCRYPTION_KEY=hunter2 ok", "ENCRYPTION_KEY=*** ok"),
            ("VAULT_SECRET_ID=hunter2 ok", "VAULT_SECRET_ID=*** ok"),
            ("key=hunter2 public_key=x", "key=hunter2 public_key=x"),
            (
                r#"DB_PASSWORD="hunter \"2 x", y"#,
                r#"DB_PASSWORD="***", y"#,
            ),
            (r#"{"password":"hunter 2"#, r#"{"password":"***"#),
            ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
            ("header Basic dXNlcjpwdw==", "header Basic ***"),
            (r#"{"token":"abc","n":1}"#, r#"{"token":"***","n":1}"#),
            (r#"{"api_key" : "abc"}"#, r#"{"api_key" : "***"}"#),
            ("jwt eyJh.eyJz.c2ln end", "jwt *** end"),
            ("token_file=/etc/token", "token_file=/etc/token"),
            ("2: eth0@if3: <UP> mtu 1500", "2: eth0@if3: <UP> mtu 1500"),
            (
                "10.231.0.0/16 dev chas0 src 10.231.0.1",
                "10.231.0.0/16 dev chas0 src 10.231.0.1",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nrest",
                "***\n***\n***\nrest",
            ),
            ("MIIE\n-----END PRIVATE KEY-----\nrest", "***\n***\nrest"),
            ("", ""),
        ] {
            assert_eq!(mask.text(text).0, expected, "{text}");
        }
    }

    #[test]
    fn a_known_secret_is_found_in_every_form() {
        let secret = "pl4nted/Sécret+value";
        let mask = SecretMask::new([secret.as_bytes(), b"short", b" padded-value\n"]);
        let pairs = ["", "u:", "us:", "use:"].map(|user| format!("{user}{secret}:x"));
        let encoded = pairs.iter().map(|pair| BASE64_STANDARD.encode(pair));
        let forms = encoded.chain([
            secret.to_owned(),
            BASE64_URL_SAFE.encode(secret),
            json!(secret).to_string(),
            "pl4nted%2FS%C3%A9cret%2Bvalue".to_owned(),
            state::digest::hex(secret.as_bytes()),
            "padded-value".to_owned(),
        ]);
        for form in forms {
            let (masked, count) = mask.text(&format!("a {form} b"));
            assert!(masked.contains(MASK) && count > 0, "{form}: {masked}");
            assert!(!masked.contains("nted"), "{form}: {masked}");
        }
        assert_eq!(mask.text("a short word"), ("a short word".to_owned(), 0));
        assert!(!format!("{mask:?}").contains("nted"));
    }
}
