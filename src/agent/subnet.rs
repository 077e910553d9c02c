//! The subnet that the agent chooses where `network.subnet` is `auto`: once, and kept over reboots.

use std::io;
use std::path::{Path, PathBuf};

use state::subnet::Ipv4Subnet;

use crate::config::{Config, private};
use crate::network::{RESOLV_CONF, free_subnet};

/// File in the state directory that holds the chosen subnet.
const FILE: &str = "subnet";

/// The configuration with the subnet that its containers have.
pub(super) async fn settled(mut config: Config) -> Config {
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

/// The subnet that was chosen before. `None`: none was.
fn kept(path: &Path) -> io::Result<Option<Ipv4Subnet>> {
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
            let (path, text) = (path.to_owned(), format!("{subnet}\n"));
            let shown = path.display().to_string();
            let writing = tokio::task::spawn_blocking(move || private::write(&path, &text));
            let written = writing
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            match written {
                Ok(()) => tracing::info!(%subnet, path = shown, "containers' subnet chosen"),
                Err(error) => tracing::error!(
                    %subnet, path = shown, %error,
                    "chosen subnet not written; the next start chooses anew"
                ),
            }
            subnet
        }
        Err(error) => {
            let subnet = config.network.subnet;
            tracing::error!(%error, %subnet, "no free subnet found; the default one is tried");
            subnet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_subnet_is_kept_and_a_spoilt_file_is_no_choice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(kept(&path).unwrap(), None);
        std::fs::write(&path, "10.240.0.0/16\n").unwrap();
        assert_eq!(kept(&path).unwrap(), "10.240.0.0/16".parse().ok());
        std::fs::write(&path, "10.240").unwrap();
        assert!(kept(&path).is_err());
    }
}
