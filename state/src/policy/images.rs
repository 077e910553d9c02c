//! Patterns of images: a repository, or a registry with the beginning of one.

use std::fmt;
use std::str::FromStr;

use crate::reference::ImageReference;

/// Pattern of images, whatever their tags: `docker.io/library/nginx`, `registry.example/team/*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePattern {
    text: String,
    is_prefix: bool,
}

impl ImagePattern {
    /// Whether the image fits.
    pub(super) fn fits(&self, image: &ImageReference) -> bool {
        let name = format!("{}/{}", image.registry(), image.repository());
        if self.is_prefix {
            name.starts_with(&self.text)
        } else {
            name == self.text
        }
    }
}

impl FromStr for ImagePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |fault: &str| {
            format!(
                "{text:?} {fault}; write REPOSITORY, or REGISTRY/ with the beginning of a \
                 repository and '*', such as \"docker.io/library/*\""
            )
        };
        let Some(begin) = text.strip_suffix('*') else {
            let image: ImageReference = text.parse().map_err(|_| wrong("is no repository"))?;
            let name = format!("{}/{}", image.registry(), image.repository());
            let is_tagged = image.digest().is_some() || text.ends_with(":latest");
            return if is_tagged || image.tag() != Some("latest") {
                Err(wrong("has a tag or digest, and a pattern has none"))
            } else {
                Ok(Self {
                    text: name,
                    is_prefix: false,
                })
            };
        };
        // Without a slash, the beginning would be that of other hosts' names too.
        let (registry, rest) = begin
            .split_once('/')
            .ok_or_else(|| wrong("does not name a registry completely"))?;
        let is_rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
        // By the rules for references: a first part without a dot or colon is no registry.
        let parsed: Result<ImageReference, _> = format!("{registry}/a").parse();
        let is_registry = parsed.is_ok_and(|image| image.registry() == registry);
        if is_registry && rest.bytes().all(is_rest) {
            Ok(Self {
                text: begin.to_owned(),
                is_prefix: true,
            })
        } else {
            Err(wrong("does not begin with a registry in lower case"))
        }
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_prefix { "*" } else { "" };
        write!(f, "{}{star}", self.text)
    }
}
