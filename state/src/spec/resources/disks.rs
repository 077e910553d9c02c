//! Limits on disk operations: a share of every disk's time, and the most that one disk is asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::fields::{Fields, amount, integer};
use super::super::is_default;
use super::super::sketch;
use crate::quantity::ByteCount;

/// Disks that one limit names.
const DISKS_MAX: usize = 32;
/// Longest path of a disk's device.
const PATH_BYTES_MAX: usize = 255;
/// A page a second: with less, the container's own end would take for ever.
const BPS_MIN: ByteCount = ByteCount(4 << 10);
const BPS_MAX: ByteCount = ByteCount(1 << 50);

/// Share of a container in the disks' time, and the most that it may ask of each.
///
/// Disks are named by the paths of their devices on the host, as in `/dev/sda`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLimits {
    /// Weight among all who want a disk's time, 10 to 1000. `None`: the kernel's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: Option<u16>,
    /// Bytes read in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_bps: BTreeMap<String, ByteCount>,
    /// Bytes written in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_bps: BTreeMap<String, ByteCount>,
    /// Operations that read in a second, at least 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_iops: BTreeMap<String, u32>,
    /// Operations that write in a second, at least 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_iops: BTreeMap<String, u32>,
}

impl DiskLimits {
    #[allow(clippy::unnecessary_wraps, reason = "every section is read so")]
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let weight = fields
            .read("weight", |value| integer(value, 10..=1000))
            .and_then(|weight| u16::try_from(weight).ok());
        Some(Self {
            weight,
            read_bps: rates(fields, "read_bps", bytes),
            write_bps: rates(fields, "write_bps", bytes),
            read_iops: rates(fields, "read_iops", operations),
            write_iops: rates(fields, "write_iops", operations),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        let texts = |rates: &BTreeMap<String, ByteCount>| -> BTreeMap<String, String> {
            let texts = rates.iter();
            texts
                .map(|(path, rate)| (path.clone(), rate.to_string()))
                .collect()
        };
        json!({
            "weight": self.weight,
            "read_bps": texts(&self.read_bps), "write_bps": texts(&self.write_bps),
            "read_iops": self.read_iops, "write_iops": self.write_iops,
        })
    }
}

/// Rates by the paths of disks; those without a fault.
fn rates<'a, T>(
    fields: &mut Fields<'a>,
    key: &'static str,
    read: fn(&Value) -> Result<T, String>,
) -> BTreeMap<String, T> {
    let object = |value: &'a Value| match value {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let schema =
                || json!({"type": "object", "additionalProperties": sketch::learned(read)});
            let message = || "must be an object, as in {\"/dev/sda\": …}".to_owned();
            Err(sketch::fault(value, schema, message))
        }
    };
    let none = Map::new();
    let members = fields.read(key, object).unwrap_or(&none);
    if members.len() > DISKS_MAX {
        fields.fault(key, "must not name more than 32 disks");
        return BTreeMap::new();
    }
    let mut rates = BTreeMap::new();
    for (path, rate) in members {
        if !is_device(path) {
            fields.fault(
                key,
                "must name disks by the paths of their devices, as in \"/dev/sda\"",
            );
            continue;
        }
        match read(rate) {
            Ok(rate) => _ = rates.insert(path.clone(), rate),
            Err(fault) => fields.fault(&format!("{key}.{path}"), &fault),
        }
    }
    rates
}

/// Whether a path is one of a device: below `/dev`, written in one way only.
fn is_device(path: &str) -> bool {
    let parts = path.strip_prefix("/dev/").map(|rest| rest.split('/'));
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.bytes().any(|b| b.is_ascii_control())
    };
    path.len() <= PATH_BYTES_MAX && parts.is_some_and(|mut parts| parts.all(is_part))
}

fn bytes(value: &Value) -> Result<ByteCount, String> {
    let rate = amount(value)?;
    if (BPS_MIN..=BPS_MAX).contains(&rate) {
        Ok(rate)
    } else {
        Err("must be at least 4k a second".to_owned())
    }
}

fn operations(value: &Value) -> Result<u32, String> {
    let rate = integer(value, 1..=1_000_000_000)?;
    u32::try_from(rate).map_err(|error| error.to_string())
}
