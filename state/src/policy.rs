//! Policy of the node: bounds on what a container may ask for, whoever asks. Pure; the store judges
//! each change by it, and the reconciler each start.
//!
//! A rule can only deny. So rules are told apart, each by its name, and one more of them never
//! allows what the others deny. Besides the rules of the operator's file, a few are the agent's own
//! ([`OWN_RULES`]): they deny what harms the node or its neighbours, and nobody's first deploy.
//!
//! What is stored already was judged when it was taken in. It runs on when the rules become
//! stricter, and is judged anew when it is changed, and each time that it is started; but for its
//! name, which was free once, and for sums and counts, which only a change can make worse.

use std::fmt;

use serde::Serialize;

use crate::desired::set::Desired;
use crate::desired::{Owner, Record, RunState};
use crate::id::ContainerName;
use crate::spec::Spec;
use crate::spec::parse::Deploy;
use names::ReservedNames;
use rule::PolicyRule;

mod ahead;
pub mod budget;
mod capacity;
pub mod host_paths;
mod images;
pub mod names;
mod node;
pub mod patterns;
mod ports;
mod read;
pub mod rule;
pub mod signers;

pub use node::NodePrivileges;
pub use read::read;

/// Names of the agent's own rules, which no rule of a file may bear.
pub const OWN_RULES: [&str; 10] = [
    RESERVED_NAME,
    WORKING_DIRECTORY,
    node::NEW_PRIVILEGES,
    node::NODE_CAPABILITIES,
    node::HOST_NETWORK,
    node::NODE_DEVICES,
    node::NODE_HOST_PATHS,
    node::NODE_RUNTIMES,
    POLICY_FILE,
    budget::RULE,
];
const RESERVED_NAME: &str = "reserved-name";
const WORKING_DIRECTORY: &str = "working-directory";
const POLICY_FILE: &str = "policy-file";

/// Directories whose files are the kernel's: a working directory there may be a way out of the
/// container, or hold a file of the host open.
const KERNEL_DIRECTORIES: [&str; 3] = ["proc", "sys", "dev"];
/// Directory below them that is memory of the container.
const SHARED_MEMORY: [&str; 2] = ["dev", "shm"];

/// Bounds on what containers of this node may ask for. The default is the agent's own rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Rules of the operator's file, in its order.
    pub rules: Vec<PolicyRule>,
    /// Names that no new container may bear.
    pub reserved: ReservedNames,
    /// Running containers that CHaS may change or end within an hour. `None`: any number.
    pub changes_per_hour: Option<budget::ChangeBudget>,
    /// Privileges by the configuration of the node.
    pub node: NodePrivileges,
    /// Fault of a file that was never read: nothing is taken in until it can be.
    pub unusable: Option<String>,
}

/// Denial of one rule about one field of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Name of the rule.
    pub rule: String,
    /// Path of the field, as in `exposed_ports[0].host`.
    pub field: String,
    /// The fault, and what the rule permits.
    pub message: String,
}

impl Denial {
    /// Denial of one field by a rule.
    #[must_use]
    pub fn new(rule: &str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            rule: rule.to_owned(),
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            field,
            message,
        } = self;
        write!(f, "policy rule {rule:?} denies {field}: {message}")
    }
}

/// Denials that are told; the others are counted.
const TOLD_MAX: usize = 20;
/// Characters that tell them.
const TOLD_CHARS_MAX: usize = 1024;

/// Denials in one line, of bounded length: it is stored, logged and reported.
#[must_use]
pub fn told(denials: &[Denial]) -> String {
    let mut texts: Vec<_> = denials
        .iter()
        .take(TOLD_MAX)
        .map(ToString::to_string)
        .collect();
    if denials.len() > texts.len() {
        texts.push(format!("and {} more", denials.len() - texts.len()));
    }
    let text = texts.join("; ");
    match text.char_indices().nth(TOLD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Policy {
    /// Every denial of what `owner` asks for, in the order of the rules. What is asked for already,
    /// by the same owner, is not judged again: it changes nothing.
    #[must_use]
    pub fn judge(&self, deploy: &Deploy, owner: Owner, desired: &Desired) -> Vec<Denial> {
        let before = desired
            .named(&deploy.name)
            .filter(|before| !before.removing);
        let is_same = |before: &Record| before.spec == deploy.spec && before.owner == owner;
        if before.is_some_and(|before| {
            is_same(before) && (self.unusable.is_none() || before.run == deploy.run)
        }) {
            return Vec::new();
        }
        if let Some(fault) = &self.unusable {
            let message = format!("no change is taken in until the policy can be read: {fault}");
            return vec![Denial::new(POLICY_FILE, "name", message)];
        }
        let mut denials = Vec::new();
        if before.is_none() {
            denials.extend(self.reserved_name(&deploy.name));
        }
        denials.extend(self.spec(&deploy.name, &deploy.spec, owner));
        for rule in self.rules_for(&deploy.name, owner) {
            denials.extend(capacity::denials(rule, deploy, desired));
        }
        denials
    }

    /// Every denial of a start of what is stored.
    #[must_use]
    pub fn judge_start(&self, record: &Record) -> Vec<Denial> {
        self.spec(&record.name, &record.spec, record.owner)
    }

    /// Whether nothing is denied but by the agent's own rules, as without a file.
    #[must_use]
    pub fn is_own_rules_alone(&self) -> bool {
        let mut without = Self {
            node: self.node.clone(),
            ..Self::default()
        };
        without.reserved.node.clone_from(&self.reserved.node);
        *self == without
    }

    /// The containers that are to run and that the policy would not let start, with its denials;
    /// and those that a sum cannot count, since they have no limit.
    #[must_use]
    pub fn violations(&self, desired: &Desired) -> Vec<(ContainerName, Vec<Denial>)> {
        let wanted = desired.records().filter(|record| {
            record.run == RunState::Running && !record.removing && record.finished.is_none()
        });
        wanted
            .map(|record| {
                let mut denials = self.judge_start(record);
                let rules = self.rules_for(&record.name, record.owner);
                denials.extend(rules.flat_map(|rule| capacity::uncounted(rule, &record.spec)));
                (record.name.clone(), denials)
            })
            .filter(|(_, denials)| !denials.is_empty())
            .collect()
    }

    /// Name of the first rule by which what is stored must not have the host's ids, where the node
    /// gives containers some of their own.
    #[must_use]
    pub fn own_ids_rule<'a>(&'a self, record: &'a Record) -> Option<&'a str> {
        let mut rules = self.rules_for(&record.name, record.owner);
        let rule = rules.find(|rule| rule.bounds.user_namespace)?;
        Some(&rule.name)
    }

    /// Name of the first rule by which no program of what is stored may run as root.
    #[must_use]
    pub fn non_root_rule<'a>(&'a self, record: &'a Record) -> Option<&'a str> {
        let mut rules = self.rules_for(&record.name, record.owner);
        let rule = rules.find(|rule| rule.bounds.non_root)?;
        Some(&rule.name)
    }

    fn rules_for<'a>(
        &'a self,
        name: &'a ContainerName,
        owner: Owner,
    ) -> impl Iterator<Item = &'a PolicyRule> {
        let rules = self.rules.iter();
        rules.filter(move |rule| rule.scope.holds(name, owner))
    }

    fn spec(&self, name: &ContainerName, spec: &Spec, owner: Owner) -> Vec<Denial> {
        let asked = spec.working_dir.as_deref();
        let mut denials: Vec<_> = asked.and_then(working_directory).into_iter().collect();
        denials.extend(self.node.denials(spec));
        for rule in self.rules_for(name, owner) {
            denials.extend(rule.denials(spec, &self.node));
        }
        denials
    }

    fn reserved_name(&self, name: &ContainerName) -> Option<Denial> {
        let meaning = self.reserved.meaning(name)?;
        let message = format!("{name} is reserved ({meaning}); take another name");
        Some(Denial::new(RESERVED_NAME, "name", message))
    }
}

/// Denial by a rule that wants ids of their own, of a container that cannot have them, and why.
#[must_use]
pub fn own_ids_denial(rule: &str, obstacle: &str) -> Denial {
    let message = format!("it would have the host's ids: {obstacle}");
    Denial::new(rule, "security.user_namespace", message)
}

/// Denial of a working directory that is the kernel's, asked for or an image's.
#[must_use]
pub fn working_directory(path: &str) -> Option<Denial> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let is_kernel = parts
        .first()
        .is_some_and(|first| KERNEL_DIRECTORIES.contains(first));
    let is_denied = is_kernel && !parts.starts_with(&SHARED_MEMORY);
    let message = "a directory of the kernel (/proc, /sys, /dev) is no place to work in; \
                   give one of the image's";
    is_denied.then(|| Denial::new(WORKING_DIRECTORY, "working_dir", message))
}

#[cfg(test)]
mod tests;
