//! `WWW-Authenticate` (RFC 9110 §11.6.1): the kind of authentication that a registry asks for.

/// Kind of authentication that this client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request (RFC 7617).
    Basic,
    /// Token, fetched at `realm` (the distribution project's token specification).
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Name of the registry at the token service.
        service: Option<String>,
        /// Rights to ask for; `None`: to pull the repository.
        scope: Option<String>,
    },
}

/// Best challenge in these header values: a token before a password. `None`: none that is known.
pub(crate) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for offer in headers.flat_map(offers) {
        let value = |name: &str| {
            let found = offer
                .parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if offer.scheme.eq_ignore_ascii_case("bearer") {
            if let Some(realm) = value("realm") {
                return Some(Challenge::Bearer {
                    realm,
                    service: value("service"),
                    scope: value("scope"),
                });
            }
        } else if offer.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

struct Offer<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

/// The offers of a header: a word followed by `=` belongs to the offer before it, any other
/// begins one.
fn offers(header: &str) -> Vec<Offer<'_>> {
    let mut offers: Vec<Offer<'_>> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some(first) = rest.chars().next() else {
            return offers;
        };
        let (word, after) = token(rest);
        if word.is_empty() {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        match (after.trim_start().strip_prefix('='), offers.last_mut()) {
            (Some(after), Some(offer)) => {
                let (value, after) = value(after.trim_start());
                offer.parameters.push((word, value));
                rest = after;
            }
            _ => {
                offers.push(Offer {
                    scheme: word,
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)));
    text.split_at(end.unwrap_or(text.len()))
}

fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return (value, &quoted[at + 1..]),
            c => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: own(service),
            scope: own(scope),
        })
    }

    #[track_caller]
    fn check(headers: &[&str], expected: Option<&Challenge>) {
        assert_eq!(
            best(headers.iter().copied()).as_ref(),
            expected,
            "{headers:?}"
        );
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#;
        let granted = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/nginx:pull"),
        );
        check(&[hub], granted.as_ref());
        check(&[r#"Basic realm="Registry""#], Some(&Challenge::Basic));
        check(&["basic"], Some(&Challenge::Basic));
        check(
            &[r#"bearer REALM = https://a/t , Service=x"#],
            bearer("https://a/t", Some("x"), None).as_ref(),
        );
    }

    #[test]
    fn the_best_of_several_is_taken_wherever_it_stands() {
        let token = bearer("https://a/t", None, Some("repository:a:pull,push"));
        let both = r#"Basic realm="x", Bearer realm="https://a/t",scope="repository:a:pull,push""#;
        check(&[both], token.as_ref());
        check(
            &[
                "Negotiate abc==",
                r#"Bearer realm="https://a/t",scope="repository:a:pull,push""#,
            ],
            token.as_ref(),
        );
        check(
            &[r#"Bearer realm="a\"b\\c""#],
            bearer(r#"a"b\c"#, None, None).as_ref(),
        );
    }

    #[test]
    fn what_is_not_known_is_no_challenge() {
        for header in [
            "",
            "Negotiate",
            "Digest realm=x",
            "Bearer service=x",
            "=,= \"",
            "ä=ö",
        ] {
            check(&[header], None);
        }
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in ".{0,200}") {
            let _ = best(std::iter::once(header.as_str()));
        }
    }
}
