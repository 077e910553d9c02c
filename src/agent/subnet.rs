//! The subnets that the agent chooses where `network.subnet` or `network.subnet6` is `auto`: once, and
//! kept over reboots.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use state::subnet::{Ipv4Subnet, Ipv6Subnet};

use crate::config::{Config, private};
use crate::network::{RESOLV_CONF, free_subnet};

/// File in the state directory that holds the chosen subnet.
const FILE: &str = "subnet";

/// File for the IPv6 one.
const FILE6: &str = "subnet6";

/// The configuration with the subnets that its containers have.
pub(super) async fn settled(mut config: Config) -> Config {
    if config.network.subnet6_auto {
        let settled = settled6(&config.state.dir.join(FILE6)).await;
        config.network.subnet6_fault = settled.as_ref().err().cloned();
        config.network.subnet6 = settled.ok();
    }
    let mut config = settled4(config).await;
    let (subnet, subnet6) = (config.network.subnet, config.network.subnet6);
    // Of one that was chosen nothing was known when the configuration was checked.
    if let Some(small) = subnet6.filter(|subnet6| !subnet6.is_as_large_as(subnet)) {
        let fault = format!("{small} (network.subnet6) has fewer addresses than {subnet}");
        (config.network.subnet6, config.network.subnet6_fault) = (None, Some(fault));
    }
    config
}

/// The IPv6 subnet.
///
/// # Errors
/// What was drawn before cannot be read, and containers have no IPv6. In words.
async fn settled6(path: &Path) -> Result<Ipv6Subnet, String> {
    match kept(path) {
        Ok(Some(subnet)) => Ok(subnet),
        Ok(None) => {
            let subnet = drawn(state::store::random());
            write(path, subnet.to_string()).await;
            Ok(subnet)
        }
        Err(error) => Err(format!(
            "the subnet that was drawn is not read from {}: {error}",
            path.display()
        )),
    }
}

/// A unique local subnet with 40 bits of `random` (RFC 4193, 3.2).
fn drawn(random: u64) -> Ipv6Subnet {
    let site = 0xfd << 40 | random >> 24;
    let segment = |shift: u32| site >> shift & 0xffff;
    let [a, b, c] = [segment(32), segment(16), segment(0)];
    let text = format!("{a:x}:{b:x}:{c:x}::/64");
    text.parse().expect("it begins with fd")
}

async fn settled4(mut config: Config) -> Config {
    if !config.network.subnet_auto {
        return config;
    }
    let path = config.state.dir.join(FILE);
    match kept(&path) {
        Ok(Some(subnet)) => config.network.subnet = subnet,
        Ok(None) => config.network.subnet = chosen(&config, &path).await,
        // A file that is there and cannot be read: another choice would leave what it names.
        Err(error) => {
            let (path, subnet) = (path.display(), config.network.subnet);
            tracing::error!(%path, %error, %subnet, "chosen subnet not read; the default one is used");
        }
    }
    config
}

/// The configuration with the subnets that were chosen before, as far as they were.
pub(super) fn kept_in(mut config: Config) -> Config {
    if config.network.subnet_auto
        && let Ok(Some(subnet)) = kept(&config.state.dir.join(FILE))
    {
        config.network.subnet = subnet;
    }
    if config.network.subnet6_auto
        && let Ok(Some(subnet)) = kept(&config.state.dir.join(FILE6))
    {
        config.network.subnet6 = Some(subnet);
    }
    config
}

/// The subnet that was chosen before. `None`: none was.
fn kept<S: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    path: &Path,
) -> io::Result<Option<S>> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn chosen(config: &Config, path: &Path) -> Ipv4Subnet {
    let lists = RESOLV_CONF.map(PathBuf::from);
    match free_subnet(&config.network.bridge, &lists).await {
        Ok(subnet) => {
            write(path, subnet.to_string()).await;
            subnet
        }
        Err(error) => {
            let subnet = config.network.subnet;
            tracing::error!(%error, %subnet, "no free subnet found; the default one is tried");
            subnet
        }
    }
}

/// Writes a chosen subnet down.
async fn write(path: &Path, subnet: String) {
    let (path, text) = (path.to_owned(), format!("{subnet}\n"));
    let shown = path.display().to_string();
    let writing = tokio::task::spawn_blocking(move || private::write(&path, &text));
    let written = writing
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    match written {
        Ok(()) => tracing::info!(subnet, path = shown, "containers' subnet chosen"),
        Err(error) => tracing::error!(
            subnet, path = shown, %error,
            "chosen subnet not written; the next start chooses anew"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_subnet_is_kept_and_a_spoilt_file_is_no_choice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let kept = kept::<Ipv4Subnet>;
        assert_eq!(kept(&path).unwrap(), None);
        std::fs::write(&path, "10.240.0.0/16\n").unwrap();
        assert_eq!(kept(&path).unwrap(), "10.240.0.0/16".parse().ok());
        std::fs::write(&path, "10.240").unwrap();
        assert!(kept(&path).is_err());
    }

    #[tokio::test]
    async fn a_drawn_subnet_is_unique_local_random_and_kept() {
        assert_eq!(drawn(0).to_string(), "fd00::/64");
        assert_eq!(drawn(u64::MAX).to_string(), "fdff:ffff:ffff::/64");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE6);
        let first = settled6(&path).await.unwrap();
        assert_eq!(settled6(&path).await, Ok(first));
        std::fs::write(&path, "fd00").unwrap();
        let fault = settled6(&path).await.unwrap_err();
        assert!(fault.contains("subnet6"), "{fault}");
    }
}
