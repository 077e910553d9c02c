//! ContainerNames for the completion of a command line: what this host's agent knows, or nothing, within a moment.

use std::time::Duration;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use serde_json::Value;

use super::agent::Agent;
use super::context::WayFlags;
use crate::config::Flags;

/// Longest time that a person waits for names.
const TIMEOUT: Duration = Duration::from_millis(700);

/// ContainerNames of containers.
pub(super) fn containers() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("containers"))
}

/// ContainerNames of volumes.
pub(super) fn volumes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("volumes"))
}

/// ContainerNames of secrets.
pub(super) fn secrets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("secrets"))
}

fn names(kind: &'static str) -> Vec<CompletionCandidate> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    // The flags before are not known here: the environment and the file of contexts count.
    let asked = async {
        let way = WayFlags::default().way(&Flags::default())?;
        Agent::open(way).await?.see(&[kind]).await
    };
    let answered = runtime.block_on(async { tokio::time::timeout(TIMEOUT, asked).await });
    // A server of names that is silent is not waited for.
    runtime.shutdown_background();
    match answered {
        Ok(Ok(told)) => candidates(&told[kind]),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

fn candidates(all: &Value) -> Vec<CompletionCandidate> {
    let named = all.as_array().into_iter().flatten().filter_map(|one| {
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = one["name"].as_str()?;
        // It goes into a shell's line.
        let candidate = name
            .chars()
            .all(is_of_word)
            .then(|| CompletionCandidate::new(name))?;
        let status = one["status"]
            .as_str()
            .filter(|word| word.chars().all(is_of_word));
        Some(candidate.help(status.map(|status| status.to_owned().into())))
    });
    named.collect()
}
