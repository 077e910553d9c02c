//! Token of a token service, by the distribution project's token specification and its OAuth 2
//! form.

use std::time::Duration;

use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use super::authorization;

/// A token's life where its service names none (distribution's token specification).
pub(super) const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Longest life of a token that is believed.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Value,
}

/// `Authorization` of an answer, and the time for which it is good. `None`: it holds no token.
pub(super) fn read(answer: &[u8]) -> Option<(HeaderValue, Duration)> {
    let body: TokenBody = serde_json::from_slice(answer).ok()?;
    let mut tokens = [body.token, body.access_token].into_iter().flatten();
    let token = tokens.find(|token| !token.is_empty())?;
    let life = life(&body.expires_in);
    // A request that is on its way when the token ends would be refused.
    let margin = (life / 4).min(Duration::from_secs(10));
    Some((authorization("Bearer", &token)?, life - margin))
}

/// Life in seconds, as services write it: a number, at times with a fraction or in quotes. Anything
/// else, and one that is over already, is the specification's own.
fn life(expires_in: &Value) -> Duration {
    let quoted = expires_in.as_str().map(|text| text.trim().parse());
    let seconds = quoted.map_or(expires_in.as_f64(), Result::ok);
    seconds
        .filter(|seconds| *seconds > 0.0)
        .map(|seconds| seconds.min(TOKEN_LIFE_MAX.as_secs_f64()))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or(TOKEN_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Option<(&str, u64)>) {
        let found = read(answer.as_bytes());
        let found = found
            .as_ref()
            .map(|(value, life)| (value.to_str().unwrap(), life.as_secs()));
        assert_eq!(found, expected, "{answer}");
    }

    #[test]
    fn every_spelling_of_a_token_is_taken() {
        for (answer, life) in [
            (r#"{"token": "x"}"#, 50),
            (r#"{"token": null, "access_token": "x"}"#, 50),
            (
                r#"{"token": "", "access_token": "x", "expires_in": null}"#,
                50,
            ),
            (
                r#"{"token": "x", "access_token": "y", "expires_in": 300}"#,
                290,
            ),
            (r#"{"token": "x", "expires_in": 300.7}"#, 290),
            (r#"{"token": "x", "expires_in": "300"}"#, 290),
            (r#"{"token": "x", "expires_in": 8}"#, 6),
            (r#"{"token": "x", "expires_in": 1e300}"#, 24 * 3600 - 10),
            (r#"{"token": "x", "expires_in": 0}"#, 50),
            (r#"{"token": "x", "expires_in": -5}"#, 50),
            (r#"{"token": "x", "expires_in": "soon"}"#, 50),
            (r#"{"token": "x", "expires_in": {"s": 1}}"#, 50),
        ] {
            check(answer, Some(("Bearer x", life)));
        }
    }

    #[test]
    fn no_token_is_none() {
        for answer in [
            "",
            "{}",
            r#"{"token": null}"#,
            r#"{"token": ""}"#,
            r#"{"token": "a\nb"}"#,
            "<html>",
        ] {
            check(answer, None);
        }
    }
}
