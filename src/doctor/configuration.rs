//! Checks of the configuration, and of the files that it names.

use super::check::{CheckAnswer, DoctorCheck};
use crate::agent;
use crate::config::{Config, ConfigErrors};

/// Configuration as it was loaded.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenConfiguration {
    /// Errors, for which the agent does not start.
    pub(super) errors: Vec<String>,
    /// Faults of files, with which it starts and does not do what they are for.
    pub(super) files: Vec<String>,
    /// Faults with which it starts.
    pub(super) risks: Vec<String>,
}

impl SeenConfiguration {
    /// Looks. Blocks.
    pub(super) fn read(outcome: &Result<Config, ConfigErrors>) -> Self {
        let config = match outcome {
            Ok(config) => config,
            Err(errors) => {
                return Self {
                    errors: errors.0.iter().map(ToString::to_string).collect(),
                    ..Self::default()
                };
            }
        };
        let files = [
            ("policy", config.read_policy().err()),
            ("clients", config.read_clients().err()),
            ("tls", agent::tls_fault(config)),
        ];
        let files = files
            .into_iter()
            .filter_map(|(what, fault)| Some(format!("{what}: {}", fault?)));
        // These are a check of their own.
        let readable = agent::readable_secrets(config);
        let mut risks = agent::review(config);
        risks.retain(|fault| !readable.contains(fault));
        Self {
            errors: Vec::new(),
            files: files.collect(),
            risks,
        }
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let (whole, files) = (DoctorCheck::Configuration, DoctorCheck::ConfiguredFiles);
        let risks = DoctorCheck::ConfigurationRisks;
        if !self.errors.is_empty() {
            let errors = self.errors.iter().map(|error| whole.fail(error.clone()));
            let told = "the configuration has errors";
            return errors
                .chain([files.skipped(told), risks.skipped(told)])
                .collect();
        }
        let mut answers = vec![whole.ok("no error")];
        answers.extend(self.files.iter().map(|fault| files.fail(fault.clone())));
        if self.files.is_empty() {
            answers.push(files.ok("policy, clients, tls"));
        }
        answers.extend(self.risks.iter().map(|fault| risks.warn(fault.clone())));
        if self.risks.is_empty() {
            answers.push(risks.ok("none is known"));
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    #[test]
    fn each_fault_of_the_configuration_is_found() {
        use DoctorCheck::{Configuration, ConfigurationRisks, ConfiguredFiles};
        let rows: &[Planted<SeenConfiguration>] = &[
            (Configuration, "FAIL", "api.port: no number", |seen| {
                seen.errors = vec!["api.port: no number".to_owned()];
            }),
            (ConfiguredFiles, "skip", "has errors", |seen| {
                seen.errors = vec![String::new()];
            }),
            (ConfiguredFiles, "FAIL", "policy: no YAML", |seen| {
                seen.files = vec!["policy: no YAML".to_owned()];
            }),
            (ConfigurationRisks, "warn", "plain HTTP", |seen| {
                seen.risks = vec!["plain HTTP".to_owned()];
            }),
        ];
        check_rows(
            &SeenConfiguration::default(),
            SeenConfiguration::judge,
            rows,
        );
    }
}
