//! Platforms of images, and the one of this machine (OCI image specification, "Platform Variants").

use serde::Deserialize;

/// Operating system and processor, in the words of the Go project that images use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    /// `linux`.
    #[serde(default)]
    pub(crate) os: String,
    /// `amd64`, `arm64`, `arm`, …
    #[serde(default)]
    pub(crate) architecture: String,
    /// `v7`, …; empty: the architecture's usual one.
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// Platform in the words of the Go project, whatever other ones it was named by.
    pub(crate) fn of(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
        .normal()
    }

    /// Platform with other words for the same replaced, as containerd does (`platforms.Normalize`).
    pub(crate) fn normal(self) -> Self {
        let own = self
            .variant
            .map(|variant| variant.to_ascii_lowercase())
            .filter(|variant| !variant.is_empty());
        let (architecture, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "i386" => ("386", None),
            "x86_64" | "x86-64" | "amd64" => ("amd64", own.filter(|variant| variant != "v1")),
            "aarch64" | "arm64" => ("arm64", own),
            "armhf" => ("arm", Some("v7".to_owned())),
            "armel" => ("arm", Some("v6".to_owned())),
            other => {
                return Self {
                    os: self.os.to_ascii_lowercase(),
                    architecture: other.to_owned(),
                    variant: own.map(with_letter),
                };
            }
        };
        Self {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.map(with_letter),
        }
    }

    /// Platform of this machine.
    pub(crate) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            // What the agent itself was built for runs here.
            "arm" if cfg!(target_feature = "v7") => ("arm", Some("v7")),
            "arm" => ("arm", Some("v6")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Rank of an image of platform `offered` on this platform: higher is better, `None`: it does
    /// not run.
    pub(crate) fn suits(&self, offered: &Self) -> Option<u32> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let level = |platform: &Self| {
            let variant = platform
                .variant
                .as_deref()
                .filter(|variant| !variant.is_empty());
            let usual = match self.architecture.as_str() {
                "arm64" => "v8",
                "arm" => "v7",
                _ => "v1",
            };
            // `v8.2` and the like count as `v8`, which is what such an image is made from.
            variant
                .unwrap_or(usual)
                .strip_prefix('v')?
                .split('.')
                .next()?
                .parse::<u32>()
                .ok()
        };
        let (own, offered) = (level(self)?, level(offered)?);
        let downwards = offered <= own && (self.architecture == "arm" || offered == own);
        downwards.then_some(offered)
    }
}

/// Variant as in `v7`, which some write as `7`.
fn with_letter(variant: String) -> String {
    if variant.starts_with(|first: char| first.is_ascii_digit()) {
        format!("v{variant}")
    } else {
        variant
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next();
        Platform {
            os: next().unwrap(),
            architecture: next().unwrap(),
            variant: next(),
        }
    }

    #[track_caller]
    fn best<'a>(host: &str, offered: &[&'a str]) -> Option<&'a str> {
        let host = platform(host);
        let ranked = offered
            .iter()
            .filter_map(|text| Some((host.suits(&platform(text))?, *text)));
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, text)| text)
    }

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        for (host, offered, chosen) in [
            (
                "linux/amd64",
                &["linux/arm64/v8", "linux/amd64", "unknown/unknown"][..],
                Some("linux/amd64"),
            ),
            (
                "linux/amd64",
                &["linux/amd64/v3", "linux/amd64/v1"],
                Some("linux/amd64/v1"),
            ),
            (
                "linux/amd64",
                &["linux/amd64/v3", "linux/386", "windows/amd64"],
                None,
            ),
            (
                "linux/arm64/v8",
                &["linux/arm/v7", "linux/arm64"],
                Some("linux/arm64"),
            ),
            (
                "linux/arm64/v8",
                &["linux/arm64/v8.2"],
                Some("linux/arm64/v8.2"),
            ),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"],
                Some("linux/arm/v7"),
            ),
            (
                "linux/arm/v6",
                &["linux/arm/v5", "linux/arm/v7"],
                Some("linux/arm/v5"),
            ),
            ("linux/riscv64", &["linux/riscv64"], Some("linux/riscv64")),
            ("linux/amd64", &["linux/amd64/strange"], None),
        ] {
            assert_eq!(best(host, offered), chosen, "{host} of {offered:?}");
        }
    }

    #[test]
    fn other_words_for_a_platform_mean_the_same() {
        for (written, meant) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/X86-64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(platform(written).normal().to_string(), meant, "{written}");
        }
    }

    #[test]
    fn this_machine_runs_its_own_images() {
        assert!(Platform::host().suits(&Platform::host()).is_some());
    }
}
