//! Orders about what the node keeps for containers: volumes and secrets.

use std::path::PathBuf;

use clap::Subcommand;

use crate::client::names;

/// ClientOrder about volumes.
#[derive(Clone, Debug, Subcommand)]
pub enum VolumeOrder {
    /// Lists the named volumes
    Ls,
    /// Shows volumes in full, as JSON
    Inspect {
        /// Volumes
        #[arg(required = true, value_name = "VOLUME", add = names::volumes())]
        names: Vec<String>,
    },
    /// Removes volumes that no container uses, with their content
    Rm {
        /// Volumes
        #[arg(required = true, value_name = "VOLUME", add = names::volumes())]
        names: Vec<String>,
        /// Asks no question
        #[arg(short, long)]
        force: bool,
    },
    /// Writes a volume's content to the output, as tar
    Export {
        /// Volume
        #[arg(value_name = "VOLUME", add = names::volumes())]
        name: String,
    },
    /// Takes a tar archive from the input into a volume, which is made if there is none
    Import {
        /// Volume
        #[arg(value_name = "VOLUME", add = names::volumes())]
        name: String,
    },
}

/// ClientOrder about secrets.
#[derive(Clone, Debug, Subcommand)]
pub enum SecretOrder {
    /// Lists the secrets, without values
    Ls,
    /// Gives a secret the value that comes from the input, or from a file
    Set {
        /// Secret
        #[arg(value_name = "SECRET", add = names::secrets())]
        name: String,
        /// File with the value; without it, the input
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Removes secrets that no container uses
    Rm {
        /// Secrets
        #[arg(required = true, value_name = "SECRET", add = names::secrets())]
        names: Vec<String>,
    },
}
