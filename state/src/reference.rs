//! Image references, by the rules of the distribution project: `nginx` is
//! `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::is_digest;

/// A complete reference to an image: registry, repository, and a tag or digest (or both; then the
/// digest counts).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Error of a text that is no image reference; it says what the text must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an image reference: {fault}; \
     write [REGISTRY[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST], such as \"nginx:1.27\""
)]
pub struct InvalidReference {
    text: String,
    fault: &'static str,
}

impl ImageReference {
    /// The registry's host and, if given, port: `docker.io`, `127.0.0.1:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, for Docker Hub with its `library/`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: the one given, `latest` where neither tag nor digest was, else `None`.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, `sha256:` and 64 hex digits, if the reference is pinned.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = registry
        .rsplit_once(':')
        .map_or((registry, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|&b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !host.split('.').all(label) {
        return Err("the registry is not a host name or IPv4 address");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(_) => Err("the registry's port is not a number from 1 to 65535"),
    }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository must be in lower case");
    }
    // Runs of letters and digits, joined by '.', '_', '__' or any number of '-'.
    let component = |component: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        component.starts_with(plain)
            && component.ends_with(plain)
            && component
                .split(plain)
                .all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
    };
    if repository.len() <= 255 && repository.split('/').all(component) {
        Ok(())
    } else {
        Err("the repository may hold a-z, 0-9, and '.', '_', '-' and '/' between them, 255 at most")
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| word(b) || matches!(b, b'.' | b'-');
    if tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(rest) {
        Ok(())
    } else {
        Err(
            "the tag must be 1 to 128 letters, digits, '_', '.' and '-', \
             not beginning with '.' or '-'",
        )
    }
}

fn check_digest(digest: &str) -> Result<(), &'static str> {
    if is_digest(digest) {
        Ok(())
    } else {
        Err("the digest must be \"sha256:\" and 64 hex digits")
    }
}

/// Fault of a text that is something else than a reference, though a part of it would pass for one.
fn check_kind(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it holds a blank or a line break, perhaps at its end");
    }
    if text.contains("://") {
        return Err(
            "it has a scheme, and a reference has none: leave \"https://\" or \"http://\" out \
             (registries without TLS are listed under registry.insecure)",
        );
    }
    if text.starts_with('[')
        || text
            .split('/')
            .next()
            .is_some_and(|host| host.matches(':').count() > 1)
            && text.contains('/')
    {
        return Err(
            "the registry is an IPv6 address, which references cannot hold: use a host name",
        );
    }
    if text.contains("@sha512:") {
        return Err("sha512 digests are not supported: pin the image by its sha256 digest");
    }
    let hash = text.strip_prefix("sha256:").unwrap_or_default();
    if hash.len() >= 12 && hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(
            "it is a digest alone: name the repository too, as in \"REPOSITORY@sha256:DIGEST\"",
        );
    }
    Ok(())
}

fn parse(text: &str) -> Result<ImageReference, &'static str> {
    check_kind(text)?;
    let (rest, digest) = text
        .split_once('@')
        .map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path),
        _ => ("docker.io", name),
    };
    let registry = if registry == "index.docker.io" {
        "docker.io"
    } else {
        registry
    };
    let official = registry == "docker.io" && !path.contains('/');
    let repository = if official {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    check_registry(registry)?;
    check_repository(&repository)?;
    tag.map_or(Ok(()), check_tag)?;
    digest.map_or(Ok(()), check_digest)?;
    let tag = tag.or(if digest.is_none() {
        Some("latest")
    } else {
        None
    });
    Ok(ImageReference {
        registry: registry.to_ascii_lowercase(),
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|fault| InvalidReference {
            text: text.chars().take(300).collect(),
            fault,
        })
    }
}

stored_as_text!(ImageReference);

impl fmt::Display for ImageReference {
    /// The complete form, which is also the image's name in containerd:
    /// `docker.io/library/nginx:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag
            .as_ref()
            .map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest
            .as_ref()
            .map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_forms_are_completed() {
        let table = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/web", "docker.io/team/web:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("127.0.0.1:5000/web", "127.0.0.1:5000/web:latest"),
            ("localhost/web:a_B.c-d", "localhost/web:a_B.c-d"),
            (
                "Registry.example:443/a/b__c/d--e",
                "registry.example:443/a/b__c/d--e:latest",
            ),
        ];
        for (text, complete) in table {
            assert_eq!(
                text.parse::<ImageReference>().map(|r| r.to_string()),
                Ok(complete.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_digest_pins_and_needs_no_tag() {
        let reference: ImageReference = format!("nginx@{DIGEST}").parse().unwrap();
        assert_eq!((reference.tag(), reference.digest()), (None, Some(DIGEST)));
        let reference: ImageReference = format!("r.example/nginx:1@{DIGEST}").parse().unwrap();
        assert_eq!(
            (reference.tag(), reference.digest()),
            (Some("1"), Some(DIGEST))
        );
    }

    #[test]
    fn a_text_that_is_something_else_is_called_so() {
        let sha512 = format!("r.example/a@sha512:{}", "0".repeat(128));
        for (text, part) in [
            ("http://127.0.0.1:5000/x:1", "scheme"),
            ("https://r.example/a", "scheme"),
            ("docker://r.example/a", "scheme"),
            ("nginx:1.27 ", "blank"),
            (" nginx", "blank"),
            ("nginx\n", "blank"),
            ("", "empty"),
            ("[::1]:5000/a", "IPv6"),
            ("2001:db8::1/a", "IPv6"),
            (DIGEST, "digest alone"),
            ("sha256:0123456789ab", "digest alone"),
            (&sha512, "sha512"),
        ] {
            let fault = text.parse::<ImageReference>().unwrap_err().to_string();
            assert!(fault.contains(part), "{fault}");
        }
        // A tag of a repository of that name, as it ever was.
        assert!("sha256:latest".parse::<ImageReference>().is_ok());
    }

    #[test]
    fn a_text_that_is_no_reference_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "@",
            "nginx:",
            "nginx@",
            "Nginx",
            "a//b",
            "/a",
            "a/",
            "a:b:c",
            "nginx:.x",
            "nginx@sha256:12",
            "a___b",
            "-a",
            "a-",
            "r.example:0/a",
            "r.example:99999/a",
            "-r.example/a",
            "a b",
            "ä",
            "nginx@md5:0123",
            "https://r.example/a",
            &long,
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
    }
}
