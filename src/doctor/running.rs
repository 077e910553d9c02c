//! Checks of the agent that runs, by its own API.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use state::id::ContainerId;
use state::reference::ImageReference;
use state::text::{MESSAGE_CHARS_MAX, shown};

use super::check::{CheckAnswer, DoctorCheck};
use crate::client::{Agent, Way};
use crate::config::Config;

/// Time for the agent's answers: less than for the group, so that what is known stays known.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Answers of the agent.
#[derive(Clone, Debug)]
pub(super) struct SeenAgent {
    /// Answer of `/health`, or the fault for which there is none.
    pub(super) health: Result<Value, String>,
    /// Answer of `/version`.
    pub(super) version: Value,
    /// Answer of `/containers`; an error: as above.
    pub(super) containers: Result<Value, String>,
    /// Process that has its socket.
    pub(super) process: Option<u32>,
    pub(super) is_root: bool,
}

impl SeenAgent {
    /// The agent by its socket, and the process that has it.
    ///
    /// # Errors
    /// None answers there, in words.
    pub(super) async fn open(config: &Config) -> Result<(Agent, Option<u32>), String> {
        let socket = config.state.socket();
        let agent = Agent::open(Way::Socket(socket.clone())).await;
        let agent = agent.map_err(|error| format!("{error:#}"))?;
        let stream = tokio::net::UnixStream::connect(&socket).await;
        let peer = stream.and_then(|stream| stream.peer_cred());
        let process = peer.ok().and_then(|peer| peer.pid());
        Ok((agent, process.and_then(|pid| u32::try_from(pid).ok())))
    }

    /// Asks.
    pub(super) async fn read(config: &Config) -> Self {
        let mut seen = Self {
            health: Err(String::new()),
            version: Value::Null,
            containers: Err(String::new()),
            process: None,
            is_root: rustix::process::geteuid().is_root(),
        };
        let agent = match Self::open(config).await {
            Ok((agent, process)) => {
                seen.process = process;
                agent
            }
            Err(fault) => {
                (seen.health, seen.containers) = (Err(fault.clone()), Err(fault));
                return seen;
            }
        };
        let asking = async {
            tokio::join!(
                agent.see(&["health"]),
                agent.see(&["version"]),
                agent.see(&["containers"])
            )
        };
        match tokio::time::timeout(ANSWER_MAX, asking).await {
            Ok((health, version, containers)) => {
                seen.health = health.map_err(|error| format!("{error:#}"));
                seen.version = version.unwrap_or_default();
                seen.containers = containers.map_err(|error| format!("{error:#}"));
            }
            Err(_) => {
                let hangs = format!("it has its socket, and gives no answer within {ANSWER_MAX:?}");
                (seen.health, seen.containers) = (Err(hangs.clone()), Err(hangs));
            }
        }
        seen
    }

    /// Whether it answers.
    pub(super) const fn runs(&self) -> bool {
        self.health.is_ok()
    }

    /// Containers with a record. `None`: it does not tell.
    pub(super) fn recorded(&self) -> Option<BTreeSet<ContainerId>> {
        let listed = self.containers.as_ref().ok()?["containers"].as_array()?;
        let managed = listed.iter().filter(|one| one["owner"] != "unmanaged");
        let ids = managed.filter_map(|one| one["id"].as_str()?.parse().ok());
        Some(ids.collect())
    }

    /// Images that are desired.
    pub(super) fn images(&self) -> Vec<ImageReference> {
        let listed = self.containers.as_ref().ok();
        let listed = listed.and_then(|listed| listed["containers"].as_array());
        let images = listed.into_iter().flatten().filter_map(|one| {
            let is_managed = one["owner"] != "unmanaged";
            one["image"].as_str().filter(|_| is_managed)?.parse().ok()
        });
        images.collect()
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let mut answers = vec![self.running()];
        answers.extend(self.alarms());
        answers
    }

    fn running(&self) -> CheckAnswer {
        let check = DoctorCheck::Running;
        let own = env!("CARGO_PKG_VERSION");
        match (&self.health, self.version["version"].as_str()) {
            (Err(fault), _) if self.is_root => check.warn(format!("no agent answers: {fault}")),
            (Err(_), _) => check.skipped("only root may ask the agent by its socket"),
            (Ok(_), Some(version)) if version != own => check
                .warn(format!(
                    "the agent that runs is {}, and this program {own}",
                    shown(version, 40)
                ))
                .with_remedy("systemctl restart chas-node-agent; containers run on"),
            (Ok(_), _) => check.ok(format!("it answers, version {own}")),
        }
    }

    fn alarms(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::Alarms;
        let Ok(health) = &self.health else {
            return vec![check.skipped("no agent answers")];
        };
        let alarms = health["alarms"].as_array().into_iter().flatten();
        let mut told: Vec<_> = alarms.map(alarm).collect();
        let unsettled = health["unsettled_containers"]
            .as_array()
            .into_iter()
            .flatten();
        told.extend(unsettled.map(|container| {
            let part = |name: &str| container[name].as_str().unwrap_or_default().to_owned();
            let line = format!("{} is {}: {}", part("name"), part("status"), part("reason"));
            let name = part("name");
            check
                .warn(shown(&line, MESSAGE_CHARS_MAX).trim_end_matches([':', ' ']))
                .with_remedy(format!("chas-node-agent explain {}", shown(&name, 64)))
        }));
        match told.is_empty() {
            true => vec![check.ok("none stands")],
            false => told,
        }
    }
}

fn alarm(alarm: &Value) -> CheckAnswer {
    let check = DoctorCheck::Alarms;
    let part = |name: &str| alarm[name].as_str().unwrap_or_default();
    let line = format!("{}: {}", part("name"), part("message"));
    let line = shown(&line, MESSAGE_CHARS_MAX);
    // The health of a node on which it is the heaviest.
    let answer = match part("health") {
        "healthy" => check.warn(line),
        _ => check.fail(line),
    };
    match part("remedy") {
        "" => answer,
        remedy => answer.with_remedy(shown(remedy, MESSAGE_CHARS_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    fn well() -> SeenAgent {
        SeenAgent {
            health: Ok(json!({"alarms": [], "unsettled_containers": []})),
            version: json!({"version": env!("CARGO_PKG_VERSION")}),
            containers: Ok(json!({"containers": []})),
            process: None,
            is_root: true,
        }
    }

    fn stands(seen: &mut SeenAgent, health: &str) {
        let alarm =
            json!({"name": "DiskFull", "message": "none", "remedy": "free", "health": health});
        seen.health = Ok(json!({"alarms": [alarm]}));
    }

    #[test]
    fn each_fault_of_the_agent_is_found() {
        use DoctorCheck::{Alarms, Running};
        let rows: &[Planted<SeenAgent>] = &[
            (Running, "warn", "no agent answers: refused", |seen| {
                seen.health = Err("refused".to_owned());
            }),
            (Running, "skip", "only root", |seen| {
                (seen.health, seen.is_root) = (Err(String::new()), false);
            }),
            (Running, "warn", "is 0.0.9, and this", |seen| {
                seen.version = json!({"version": "0.0.9"});
            }),
            (Alarms, "skip", "no agent", |seen| {
                seen.health = Err(String::new());
            }),
            (Alarms, "FAIL", "DiskFull: none", |seen| {
                stands(seen, "degraded");
            }),
            (Alarms, "warn", "DiskFull: none", |seen| {
                stands(seen, "healthy");
            }),
            (Alarms, "warn", "web is failed: CrashLoop", |seen| {
                let web = json!({"name": "web", "status": "failed", "reason": "CrashLoop"});
                seen.health = Ok(json!({"unsettled_containers": [web]}));
            }),
        ];
        check_rows(&well(), SeenAgent::judge, rows);
        let mut seen = well();
        stands(&mut seen, "degraded");
        let answers = seen.judge();
        assert_eq!(answers[1].remedy(), Some("free"));
    }
}
