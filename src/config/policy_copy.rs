//! The copy of the policy in force, in the state directory: whoever breaks the file, or takes it
//! away, while the agent is down lifts no rule by that.

use std::path::PathBuf;

use super::Config;
use super::owned::{self, Others};
use super::policy::PolicyFile;
use super::private;

/// Name of the copy in the state directory. It has the form of the file.
const NAME: &str = "policy.last";

impl Config {
    fn policy_copy(&self) -> PathBuf {
        self.state.dir.join(NAME)
    }

    /// The policy that was in force last. `None`: none ever was. Blocks.
    ///
    /// # Errors
    /// The copy cannot be read, in a sentence.
    pub fn last_policy(&self) -> Result<Option<PolicyFile>, String> {
        self.policy_at(&self.policy_copy())
    }

    /// Keeps the text of the policy that is in force now. Blocks.
    ///
    /// # Errors
    /// The disk's, in a sentence.
    pub fn keep_policy(&self, text: &str) -> Result<(), String> {
        let path = self.policy_copy();
        if owned::read(&path, Others::MayRead).is_ok_and(|kept| kept.as_deref() == Some(text)) {
            return Ok(());
        }
        private::write(&path, text).map_err(|error| {
            format!(
                "the policy is in force, and its copy {} cannot be written, so that the next start \
                 would have none if the file were broken then: {error}",
                path.display()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::config::{Flags, LoadFor, load};

    #[test]
    fn what_was_in_force_last_is_read_again_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut flags = Flags::default();
        let dir = directory.path().to_str().unwrap().to_owned();
        flags.values.insert("state.dir", dir);
        let config = load(&flags, &|_| None, LoadFor::Run).outcome.unwrap();
        assert_eq!(config.last_policy(), Ok(None));
        for (text, rules) in [("rules:\n- {name: a, memory: 1g}\n", 1), ("", 0)] {
            config.keep_policy(text).unwrap();
            config.keep_policy(text).unwrap();
            let kept = config.last_policy().unwrap().unwrap();
            assert_eq!((kept.policy.rules.len(), kept.text.as_str()), (rules, text));
        }
        let copy = directory.path().join("policy.last");
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&copy, "rules: [").unwrap();
        assert!(config.last_policy().is_err());
        std::fs::create_dir(copy.with_extension("new")).unwrap();
        assert!(config.keep_policy("").unwrap_err().contains("policy.last"));
    }
}
