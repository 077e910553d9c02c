//! OCI runtime that serves containers: the one place that names it.

use std::path::Path;

use containerd_client::services::v1 as api;
use prost::Message as _;
use prost_types::Any;

/// OCI runtime as containerd starts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRuntime {
    /// Name of the runtime in containerd, as in `io.containerd.runc.v2`.
    pub name: String,
    /// File name of the shim program that containerd starts for it.
    pub shim: String,
    /// Program for the shim of runc to call instead of `runc` (`BinaryName`); `None`: the shim's
    /// own choice.
    pub binary_name: Option<String>,
}

impl Default for OciRuntime {
    /// runc, by the shim that every containerd since 1.4 brings along.
    fn default() -> Self {
        Self {
            name: "io.containerd.runc.v2".to_owned(),
            shim: "containerd-shim-runc-v2".to_owned(),
            binary_name: None,
        }
    }
}

/// Options of runc's shim (containerd, `api/types/runc/options/oci.proto`), as far as they are set.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
}

impl OciRuntime {
    /// Program that is called as runc is, below runc's shim.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        Self {
            binary_name: Some(program.to_string_lossy().into_owned()),
            ..Self::default()
        }
    }

    /// Runtime with a shim of its own, of this file name.
    #[must_use]
    pub const fn of_shim(name: String, shim: String) -> Self {
        Self {
            name,
            shim,
            binary_name: None,
        }
    }

    /// Runtime as a container in containerd names it.
    pub(crate) fn to_wire(&self) -> api::container::Runtime {
        let options = self.binary_name.clone().map(|binary_name| Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: RuncOptions { binary_name }.encode_to_vec(),
        });
        api::container::Runtime {
            name: self.name.clone(),
            options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sent_only_for_another_program() {
        let runc = OciRuntime::default().to_wire();
        assert_eq!(runc.name, "io.containerd.runc.v2");
        assert!(runc.options.is_none());
        let crun = OciRuntime {
            binary_name: Some("crun".to_owned()),
            ..OciRuntime::default()
        };
        // Field 6, four bytes.
        assert_eq!(crun.to_wire().options.unwrap().value, b"\x32\x04crun");
    }
}
