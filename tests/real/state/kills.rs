//! The agent killed while a client writes: what was acknowledged is there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::Agent;

/// Names that the client writes to.
const NAMES: usize = 12;

/// What a client was told, and what it asked for without hearing of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    acknowledged: BTreeMap<String, u64>,
    asked: BTreeMap<String, u64>,
    next: u64,
}

impl Ledger {
    /// Writes until the agent does not answer any more. Nothing runs: it is about what is stored.
    pub(super) async fn write(&mut self, agent: &Agent) {
        loop {
            self.next += 1;
            let name = format!("n{}", usize::try_from(self.next).unwrap() % NAMES);
            let body = json!({"name": name, "image": "never.example/x", "state": "stopped", "image_pull": "never",
                "environment": {"N": self.next.to_string()}});
            self.asked.insert(name.clone(), self.next);
            match agent.call("POST", "/containers/deploy", Some(&body)).await {
                Some((202, _)) => drop(self.acknowledged.insert(name, self.next)),
                // The disk under it is gone.
                Some((503 | 507, _)) => tokio::time::sleep(Duration::from_millis(1)).await,
                Some((status, problem)) => panic!("{status} {problem}"),
                None => return,
            }
        }
    }

    /// Holds what the agent shows against what it acknowledged.
    pub(super) async fn check(&self, agent: &Agent, what: &str) {
        for (name, acknowledged) in &self.acknowledged {
            let (status, shown) = agent.get(&format!("/containers/{name}?reveal=true")).await;
            assert_eq!(status, 200, "{what}: {name}");
            let number = |shown: &Value| {
                shown["spec"]["environment"]["N"]
                    .as_str()
                    .and_then(|n| n.parse::<u64>().ok())
            };
            let found = number(&shown).unwrap_or_else(|| panic!("{what}: {shown}"));
            assert!(
                (*acknowledged..=self.asked[name]).contains(&found),
                "{what}: {name} was acknowledged as {acknowledged}, and is {found}"
            );
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.next
    }
}

/// A number from the environment, for runs by hand that prove more.
#[allow(
    clippy::disallowed_methods,
    reason = "it is the test's environment, not the agent's"
)]
pub(crate) fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_kill_9_while_a_client_writes() {
    let bed = Testbed::new();
    let mut agent = Agent::start(&bed).await;
    let mut ledger = Ledger::default();
    let kills = number("CHAS_TEST_KILLS", 15);
    for kill in 0..kills {
        let killer = agent.killer();
        let killing = async {
            tokio::time::sleep(Duration::from_millis(10 + kill * 37 % 150)).await;
            killer.kill_9();
        };
        tokio::join!(ledger.write(&agent), killing);
        agent.kill_9();
        agent.start_again().await;
        ledger.check(&agent, &format!("kill {kill}")).await;
    }
    eprintln!("{kills} kills, {} writes", ledger.count());
    assert!(ledger.count() > 3 * kills, "hardly anything was written");
    for n in 0..NAMES {
        agent.delete_and_wait_if_there(&format!("n{n}")).await;
    }
}
