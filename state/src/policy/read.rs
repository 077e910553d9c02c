//! Reader of the operator's policy: every fault of the file at once, each with its place.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use serde_json::Value;

use super::names::NamePattern;
use super::ports::PortGrant;
use super::rule::{Bounds, PolicyRule, RuleScope, Totals};
use super::signers::{self, Signers};
use super::{OWN_RULES, Policy};
use crate::desired::Owner;
use crate::spec::CAPABILITIES;
use crate::spec::fields::{FieldError, Fields, amount, boolean, empty_values, integer, list, text};

/// Rules of a policy. Each is looked at with each change.
const RULES_MAX: usize = 64;
/// Entries of one list of a rule.
const ENTRIES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 63;

/// Reads a policy. An empty file has no rules.
///
/// # Errors
/// Every fault in it, in the order of the fields. Never empty.
pub fn read(file: &Value) -> Result<Policy, Vec<FieldError>> {
    let mut faults = Vec::new();
    empty_values(file, "", &mut faults);
    let mut policy = Policy::default();
    if !file.is_null()
        && let Some(mut top) = Fields::of(file, "", &mut faults)
    {
        policy.rules = rules(&mut top);
        if let Some(names) = top.read("reserved_names", entries::<NamePattern>) {
            policy.reserved.listed = names;
        }
        policy.changes_per_hour = top.read("changes_per_hour", amount);
        top.finish();
    }
    if faults.is_empty() {
        Ok(policy)
    } else {
        Err(faults)
    }
}

fn rules(top: &mut Fields<'_>) -> Vec<PolicyRule> {
    let items = top.read("rules", |value| list(value, RULES_MAX));
    let (mut rules, mut names) = (Vec::new(), BTreeSet::new());
    for (index, item) in items.into_iter().flatten().enumerate() {
        let Some(rule) = top.item("rules", index, item, rule) else {
            continue;
        };
        if OWN_RULES.contains(&rule.name.as_str()) || !names.insert(rule.name.clone()) {
            let message = "is the name of another rule, or of one of the agent's own";
            top.fault(&format!("rules[{index}].name"), message);
        }
        rules.push(rule);
    }
    rules
}

fn rule(fields: &mut Fields<'_>) -> Option<PolicyRule> {
    let name = fields.required("name", name);
    let scope = RuleScope {
        owner: fields.choice("owner", &[("push", Owner::Push), ("chas", Owner::Chas)]),
        containers: fields.read("containers", some_entries),
    };
    let rule = PolicyRule {
        name: name.unwrap_or_default(),
        scope,
        bounds: bounds(fields),
        totals: Totals {
            memory: fields.read("memory_total", amount),
            cpu: fields.read("cpu_total", amount),
            count: fields.read("count", |value| integer(value, 0..=1_000_000)),
        },
    };
    if rule.is_idle() && !fields.has_faults() {
        fields.fault(
            "name",
            "this rule bounds nothing; give it a bound, such as memory: 2g",
        );
    }
    (!rule.name.is_empty()).then_some(rule)
}

fn bounds(fields: &mut Fields<'_>) -> Bounds {
    let mut flag = |key| fields.read(key, only_true).unwrap_or_default();
    let [
        digest,
        non_root,
        read_only_rootfs,
        no_new_privileges,
        user_namespace,
    ] = [
        "digest",
        "non_root",
        "read_only_rootfs",
        "no_new_privileges",
        "user_namespace",
    ]
    .map(&mut flag);
    let signers = signers(fields);
    Bounds {
        images: fields.read("images", entries),
        digest,
        signers,
        host_ports: fields.read("host_ports", entries::<PortGrant>),
        host_ips: fields.read("host_ips", entries::<IpAddr>),
        networks: fields.read("networks", entries),
        groups: fields.read("groups", entries),
        capabilities: fields.read("capabilities", capabilities),
        sysctls: fields.read("sysctls", entries),
        devices: fields.read("devices", entries),
        host_paths: fields.read("host_paths", entries),
        runtimes: fields.read("runtimes", entries),
        non_root,
        read_only_rootfs,
        no_new_privileges,
        user_namespace,
        memory: fields.read("memory", amount),
        swap: fields.read("swap", amount),
        cpu: fields.read("cpu", amount),
        pids: fields
            .read("pids", |value| integer(value, 1..=4_194_304))
            .and_then(|pids| u32::try_from(pids).ok()),
        logs: fields.read("logs", amount),
    }
}

fn signers(fields: &mut Fields<'_>) -> Signers {
    let keys = fields.read("signed_by", signers::keys);
    let images: Option<Vec<_>> = fields.read("signed_images", entries);
    if images.as_ref().is_some_and(Vec::is_empty) {
        fields.fault(
            "signed_images",
            "must not be empty; leave it out for all images",
        );
    }
    if images.is_some() && keys.is_none() && !fields.has_faults() {
        fields.fault(
            "signed_images",
            "requires signed_by: nobody else is named who signs",
        );
    }
    Signers {
        keys: keys.unwrap_or_default(),
        images,
    }
}

fn name(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_letter) {
        Ok(name.to_owned())
    } else {
        Err("must be 1 to 63 of a-z, 0-9 and '-'".to_owned())
    }
}

/// A bound that is on or left out. False would look as if it took back what another rule demands.
fn only_true(value: &Value) -> Result<bool, String> {
    match boolean(value)? {
        true => Ok(true),
        false => Err("must be true, or left out: a rule takes nothing back".to_owned()),
    }
}

/// A list that is not empty: a rule for no container would look as if it bounded one.
fn some_entries(value: &Value) -> Result<Vec<NamePattern>, String> {
    let entries: Vec<_> = entries(value)?;
    if entries.is_empty() {
        Err("must not be empty; leave it out for all containers".to_owned())
    } else {
        Ok(entries)
    }
}

/// A list of texts, or numbers as they stand in the file.
fn entries<T: FromStr<Err: ToString>>(value: &Value) -> Result<Vec<T>, String> {
    let items = list(value, ENTRIES_MAX)?.iter();
    items.map(amount).collect()
}

fn capabilities(value: &Value) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for item in list(value, ENTRIES_MAX)? {
        let upper = text(item)?.to_ascii_uppercase();
        let name = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        if !CAPABILITIES.contains(&name.as_str()) {
            let known = CAPABILITIES.join(", ");
            return Err(format!(
                "{name} is not one that a container can have: {known}"
            ));
        }
        names.insert(name);
    }
    Ok(names)
}
