//! Environment of a spec: sealed where it is stored, opened where a container is launched or an admin
//! asks.

use std::collections::BTreeMap;

use super::Spec;
use crate::id::ContainerName;
use crate::seal::{NodeKey, SealError, Sealer};

impl Spec {
    /// Seals the values that are still readable. Names stay readable.
    pub fn seal_environment(&mut self, container: &ContainerName, sealer: &Sealer) {
        for (name, value) in self.environment.iter_mut().flat_map(std::mem::take) {
            let sealed = sealer.seal(&place(container, &name), value.as_bytes());
            self.sealed_environment.insert(name, sealed);
        }
        self.hide_from_older_versions();
    }

    /// Keeps versions that know no sealed values, files, secrets and first programs from reading the spec,
    /// once it holds some and nothing readable.
    pub fn hide_from_older_versions(&mut self) {
        let has_values = !self.sealed_environment.is_empty()
            || !self.files.is_empty()
            || !self.secrets.is_empty();
        // They would run it without its first program, of which its instance knows.
        let is_plain = !has_values && !self.init && !self.interactive;
        if !is_plain && self.readable_environment().next().is_none() {
            self.environment = None;
        }
    }

    /// Variables whose values are readable.
    pub fn readable_environment(&self) -> impl Iterator<Item = (&String, &String)> {
        self.environment.iter().flatten()
    }

    /// Variables added to the image's environment, with their values.
    ///
    /// # Errors
    /// A value that cannot be opened; no message holds one.
    pub fn opened_environment(
        &self,
        container: &ContainerName,
        key: &NodeKey,
    ) -> Result<BTreeMap<String, String>, SealError> {
        let mut all = self.environment.clone().unwrap_or_default();
        for (name, sealed) in &self.sealed_environment {
            let value = key.sealer()?.open(&place(container, name), sealed)?;
            let value = String::from_utf8(value).map_err(|_| SealError::Damaged)?;
            all.insert(name.clone(), value);
        }
        Ok(all)
    }

    /// Names of the variables added to the image's environment.
    pub fn environment_names(&self) -> impl Iterator<Item = &str> {
        let sealed = self.sealed_environment.keys();
        let readable = self.readable_environment().map(|(name, _)| name);
        readable.chain(sealed).map(String::as_str)
    }
}

/// Place of a variable's value: neither another variable nor another container can have its seal.
fn place(container: &ContainerName, variable: &str) -> String {
    format!("environment {container} {variable}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn sealed_values_are_opened_for_their_container_alone_and_shown_nowhere() {
        let body = json!({"name": "web", "image": "nginx", "environment": {"A": "word", "B": ""}});
        let deploy = crate::spec::parse::deploy(&body).unwrap();
        let (name, plain) = (deploy.name, deploy.spec);
        let key = |byte| NodeKey::Present(Arc::new(Sealer::new(&[byte; 32])));
        let mut sealed = plain.clone();
        sealed.seal_environment(&name, key(1).sealer().unwrap());
        let opened = sealed.opened_environment(&name, &key(1)).unwrap();
        assert_eq!(Some(opened), plain.environment);
        assert_eq!(sealed.environment, None);
        let names: Vec<_> = sealed.environment_names().collect();
        assert_eq!(names, ["A", "B"]);
        let shown = format!("{sealed:?} {}", serde_json::to_string(&sealed).unwrap());
        assert!(!shown.contains("word"), "{shown}");
        let other = "other".parse().unwrap();
        assert_eq!(
            sealed.opened_environment(&other, &key(1)),
            Err(SealError::Damaged)
        );
        assert!(sealed.opened_environment(&name, &key(2)).is_err());
        let missing = NodeKey::Missing("gone".to_owned());
        assert!(sealed.opened_environment(&name, &missing).is_err());
        assert_eq!(
            plain.opened_environment(&name, &missing).ok(),
            plain.environment
        );
        let mut again = plain;
        again.seal_environment(&name, key(1).sealer().unwrap());
        assert_eq!((&again, again.hash()), (&sealed, sealed.hash()));
    }
}
