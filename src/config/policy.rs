//! The policy's file: read, completed with what the node's configuration says, and tried on a body.

use std::fmt::Write as _;
use std::path::Path;

use state::desired::Owner;
use state::desired::set::Desired;
use state::policy::{self, Policy, names};
use state::spec::parse::{self, Deploy};

use super::file::lines;
use super::owned::{self, Others};
use super::{Config, file};

/// Path of the policy's file when none is named; the file may be absent.
pub const DEFAULT_POLICY: &str = "/etc/chas/policy.yaml";
/// Keys by which a policy is read and completed.
pub const POLICY_KEYS: [&str; 8] = [
    "policy.file",
    "node.hostname",
    "containers.allow_new_privileges",
    "containers.allow_host_network",
    "containers.capabilities",
    "containers.devices",
    "containers.host_paths",
    "containers.runtimes",
];
/// Longest file with a body to try.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// The policy, and the text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// The policy, completed with what the configuration says.
    pub policy: Policy,
    /// Text of the file.
    pub text: String,
}

/// Outcome of trying a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTrial {
    /// Text to print; ends with a newline.
    pub text: String,
    /// Whether all is allowed.
    pub is_allowed: bool,
}

impl Config {
    /// The policy by its file. `None`: there is no file, and none was named. Blocks.
    ///
    /// # Errors
    /// Every fault of the file, in a sentence.
    pub fn read_policy(&self) -> Result<Option<PolicyFile>, String> {
        let path = &self.policy.file;
        match self.policy_at(path)? {
            None if path != Path::new(DEFAULT_POLICY) => {
                Err(format!("{}: there is no such file", path.display()))
            }
            read => Ok(read),
        }
    }

    pub(super) fn policy_at(&self, path: &Path) -> Result<Option<PolicyFile>, String> {
        let Some(text) = owned::read(path, Others::MayRead)? else {
            return Ok(None);
        };
        let fault = |fault: String| format!("{}: {fault}", path.display());
        let value = file::data(&text).map_err(fault)?;
        let read = policy::read(&value).map_err(|faults| fault(lines(&faults)))?;
        let policy = self.completed(read);
        Ok(Some(PolicyFile { policy, text }))
    }

    /// The policy with what the rest of the configuration says.
    #[must_use]
    pub fn completed(&self, policy: Policy) -> Policy {
        let mut policy = policy;
        let kernel = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let hosts = [kernel.as_str(), &self.node.hostname];
        policy.reserved.node = hosts.into_iter().filter_map(names::label).collect();
        policy.node.new_privileges = self.containers.allow_new_privileges;
        policy.node.devices.clone_from(&self.containers.devices);
        policy
            .node
            .host_paths
            .clone_from(&self.containers.host_paths);
        policy.node.runtimes = self.containers.runtimes.keys().cloned().collect();
        policy.node.host_network = self.containers.allow_host_network;
        policy.node.capabilities = self.containers.capabilities.iter().cloned().collect();
        policy
    }

    /// Tries the policy, and a file with a body or a set of them by it. Blocks.
    ///
    /// # Errors
    /// The policy or the body is invalid, in a sentence.
    pub fn try_policy(&self, body: Option<&Path>, owner: Owner) -> Result<PolicyTrial, String> {
        let read = self.read_policy()?;
        let mut text = match &read {
            Some(read) => format!(
                "{}: {} rules\n",
                self.policy.file.display(),
                read.policy.rules.len()
            ),
            None => format!(
                "{}: no file, so no rules but the agent's own\n",
                self.policy.file.display()
            ),
        };
        let policy = read.map_or_else(|| self.completed(Policy::default()), |read| read.policy);
        let (mut is_allowed, none) = (true, Desired::default());
        for deploy in body.map(bodies).transpose()?.unwrap_or_default() {
            let denials = policy.judge(&deploy, owner, &none);
            is_allowed &= denials.is_empty();
            let verdict = if denials.is_empty() {
                "allowed"
            } else {
                "denied"
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {verdict}", deploy.name);
            for denial in denials {
                let _ = writeln!(text, "  {denial}");
            }
            for demand in policy.signatures(&deploy.name, &deploy.spec, owner) {
                let _ = writeln!(
                    text,
                    "  policy rule {:?} asks for a signature of {} by {}: that is looked at when \
                     the image is fetched, not here",
                    demand.rule,
                    deploy.spec.image,
                    demand.keys_told()
                );
            }
        }
        Ok(PolicyTrial { text, is_allowed })
    }
}

fn bodies(path: &Path) -> Result<Vec<Deploy>, String> {
    let fault = |fault: String| format!("{}: {fault}", path.display());
    let size = std::fs::metadata(path)
        .map_err(|error| fault(error.to_string()))?
        .len();
    if size > BODY_BYTES_MAX {
        return Err(fault("a body is 1 MiB at most".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let value = file::data(&text).map_err(fault)?;
    let read = if value.get("containers").is_some() {
        parse::set(&value)
    } else {
        parse::deploy(&value).map(|deploy| vec![deploy])
    };
    read.map_err(|faults| fault(lines(&faults)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Flags, LoadFor, load};

    fn config(file: &Path) -> Config {
        let mut flags = Flags::default();
        let file = file.to_str().unwrap().to_owned();
        flags.values.insert("policy.file", file);
        flags
            .values
            .insert("node.hostname", "Node-7.example".to_owned());
        load(&flags, &|_| None, LoadFor::Run).outcome.unwrap()
    }

    fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    #[test]
    fn a_file_that_others_may_write_decides_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path(), "policy.yaml", "rules: []\n");
        assert!(config(&path).read_policy().unwrap().is_some());
        for mode in [0o664, 0o646, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let fault = config(&path).read_policy().unwrap_err();
            assert!(
                fault.contains(&format!("{mode:o}")) && fault.contains("chmod"),
                "{fault}"
            );
        }
        for no_file in [
            directory.path(),
            Path::new("/dev/null"),
            &directory.path().join("none"),
        ] {
            assert!(
                config(no_file).read_policy().is_err(),
                "{}",
                no_file.display()
            );
        }
    }

    #[test]
    fn a_key_twice_and_every_fault_are_told() {
        let directory = tempfile::tempdir().unwrap();
        for (text, parts) in [
            ("rules: []\nrules: []\n", &["duplicate entry"][..]),
            ("rules: [\n", &["no YAML"]),
            ("- rules\n", &["the file: must be an object"]),
            (
                "rules:\n- {name: a, memory: x, cpu: y}\n",
                &["rules[0].memory", "rules[0].cpu"],
            ),
            ("rules:\n- {name: a, pids: .nan}\n", &["rules[0].pids"]),
        ] {
            let path = written(directory.path(), "policy.yaml", text);
            let fault = config(&path).read_policy().unwrap_err();
            for part in parts {
                assert!(
                    fault.contains(part) && fault.contains("policy.yaml"),
                    "{fault}"
                );
            }
        }
        let path = written(directory.path(), "policy.yaml", "");
        assert!(
            config(&path)
                .read_policy()
                .unwrap()
                .unwrap()
                .policy
                .rules
                .is_empty()
        );
    }

    #[test]
    fn whose_signature_an_image_needs_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let rules = "rules:\n- name: signed\n  signed_images: [r.example/*]\n  signed_by: |\n    \
            -----BEGIN PUBLIC KEY-----\n    MCowBQYDK2VwAyEA8YP/P/4nD8uqNrnaoTc95yrQDFOgxQs/f8Nrv/5RAHI=\n    \
            -----END PUBLIC KEY-----\n";
        let config = config(&written(directory.path(), "policy.yaml", rules));
        for (image, is_named) in [("nginx", false), ("r.example/web", true)] {
            let body = json_body(directory.path(), image);
            let tried = config.try_policy(Some(&body), Owner::Push).unwrap();
            let text = "policy rule \"signed\" asks for a signature of";
            assert_eq!(
                (tried.text.contains(text), tried.is_allowed),
                (is_named, true),
                "{tried:?}"
            );
        }
    }

    fn json_body(directory: &Path, image: &str) -> PathBuf {
        let body = serde_json::json!({"name": "web", "image": image});
        written(directory, "body.json", &body.to_string())
    }

    #[test]
    fn a_body_is_tried_by_the_file_and_by_the_node_s_own_rules() {
        let directory = tempfile::tempdir().unwrap();
        let rules = "rules:\n- {name: small, owner: chas, memory: 1g}\n";
        let config = config(&written(directory.path(), "policy.yaml", rules));
        let set = "containers:\n- {name: web, image: nginx}\n- {name: node-7, image: nginx}\n";
        let body = written(directory.path(), "set.yaml", set);
        let pushed = config.try_policy(Some(&body), Owner::Push).unwrap();
        assert!(
            !pushed.is_allowed && pushed.text.contains("web: allowed"),
            "{pushed:?}"
        );
        assert!(
            pushed
                .text
                .contains("node-7: denied\n  policy rule \"reserved-name\""),
            "{pushed:?}"
        );
        let listed = config.try_policy(Some(&body), Owner::Chas).unwrap();
        assert!(
            listed.text.contains("web: denied\n  policy rule \"small\""),
            "{listed:?}"
        );
        assert!(config.try_policy(None, Owner::Push).unwrap().is_allowed);
        let invalid = written(
            directory.path(),
            "bad.json",
            r#"{"name": "A b", "image": "x"}"#,
        );
        let fault = config.try_policy(Some(&invalid), Owner::Push).unwrap_err();
        assert!(fault.contains("bad.json: name:"), "{fault}");
    }
}
