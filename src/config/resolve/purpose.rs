//! Purposes of a configuration, and the errors that count for each.

use super::super::*;
use super::{Flags, LoadedConfig, layered};
use crate::config::keys::KEYS;

/// Purpose for which a configuration is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFor {
    /// A person who wants to know of every error.
    Check,
    /// The agent, which starts with errors that take one of its doors alone, and keeps that one
    /// shut: a node must not stay away for them.
    Run,
}

/// Loads the configuration. A flag takes precedence over the environment, the environment over the
/// file, the file over the default; an empty variable counts as unset. Reads the configuration file
/// and the token file; blocks.
pub fn load(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<OsString>,
    purpose: LoadFor,
) -> LoadedConfig {
    let (mut layers, config) = layered(flags, environment);
    if purpose == LoadFor::Check || !layers.errors.is_empty() {
        layers.errors.append(&mut layers.of_doors);
    }
    let effective = KEYS.iter().map(|key| layers.effective(key)).collect();
    let outcome = if layers.errors.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors(layers.errors))
    };
    LoadedConfig { effective, outcome }
}

/// Loads the configuration for a command that needs these keys alone: errors of others are no
/// concern of it, nor of the shell that it is typed into, which has not all that the unit has.
///
/// # Errors
/// Those of the keys.
pub fn load_keys(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<OsString>,
    names: &[&str],
) -> Result<Config, ConfigErrors> {
    let (layers, config) = layered(flags, environment);
    // What the file says of a key is of no concern either where something above it says more.
    let is_above = |name: &&str| {
        let value = layers.values.get(*name);
        value.is_some_and(|(_, origin)| !matches!(origin, Origin::File { .. }))
    };
    let needs_file = !names.iter().all(is_above);
    let counts = |error: &ConfigError| match error.key.as_str() {
        "" => needs_file,
        key => names.contains(&key),
    };
    let errors: Vec<_> = layers.errors.into_iter().filter(counts).collect();
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors(errors))
    }
}
