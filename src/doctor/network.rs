//! Checks of the node's network.

use state::alarm::Alarm;

use super::check::{CheckAnswer, DoctorCheck};
use crate::agent;
use crate::config::Config;
use crate::network::HostSurvey;

/// Unit that holds the port of the API.
const SOCKET_UNIT: &str = "chas-node-agent.socket";

/// Network of the node as one look found it.
#[derive(Clone, Debug)]
pub(super) struct SeenNetwork {
    pub(super) survey: HostSurvey,
    pub(super) bridge: String,
    pub(super) subnet: String,
    pub(super) api_port: u16,
    /// Process that has the agent's socket, whether it answers or not.
    pub(super) agent: Option<u32>,
    /// Whether systemd has the port for the agent.
    pub(super) systemd_listens: bool,
    /// Whether the agent runs, so that what it mends by itself is at fault in earnest.
    pub(super) agent_runs: bool,
    pub(super) is_root: bool,
    /// Fault of the program nft; `None`: it works.
    pub(super) nft: Option<String>,
}

impl SeenNetwork {
    /// Looks.
    pub(super) async fn read(config: &Config, agent_runs: bool, agent: Option<u32>) -> Self {
        let network = agent::network_of(config);
        let api_port = config.api.listen.port();
        let (survey, nft, systemd_listens) = tokio::join!(
            network.survey(),
            super::programs::nft_fault(),
            systemd_listens(api_port)
        );
        Self {
            survey,
            bridge: config.network.bridge.clone(),
            subnet: config.network.subnet.to_string(),
            api_port,
            agent,
            systemd_listens,
            agent_runs,
            is_root: rustix::process::geteuid().is_root(),
            nft,
        }
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let mut answers = vec![self.nf_tables(), self.forwarding()];
        answers.extend(self.firewall());
        answers.extend(self.subnet());
        answers.extend([self.name_servers(), self.connections(), self.api_port()]);
        answers
    }

    fn nf_tables(&self) -> CheckAnswer {
        let check = DoctorCheck::NfTables;
        match &self.nft {
            None => check.ok("nft lists the kernel's tables"),
            Some(fault) if self.is_root => check.fail(fault.clone()),
            Some(_) => check.skipped("only root may list the kernel's tables"),
        }
    }

    fn forwarding(&self) -> CheckAnswer {
        let check = DoctorCheck::Forwarding;
        let has_bridge = self.survey.bridge.as_ref().is_ok_and(|is_there| *is_there);
        match self.survey.forwards {
            Some(true) => check.ok("on"),
            Some(false) if has_bridge => check.fail(format!(
                "off, although {} is there: containers reach nothing, and nobody reaches them",
                self.bridge
            )),
            Some(false) => check.ok("off; the agent switches it on when it makes its bridge"),
            None => check.fail("/proc/sys/net/ipv4/ip_forward cannot be read"),
        }
    }

    fn firewall(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::Firewall;
        let has_bridge = self.survey.bridge.as_ref().is_ok_and(|is_there| *is_there);
        // The agent inserts its own rules where `iptables` has the chain, once there are containers.
        if !has_bridge && !self.survey.lacking.is_empty() {
            let told = "FORWARD drops; the agent lets its containers' packets pass by two rules of \
                        its own there";
            return vec![check.ok(told)];
        }
        let closed = match &self.survey.closed {
            Ok(closed) => closed,
            Err(fault) if self.is_root => return vec![check.warn(fault.clone())],
            Err(_) => return vec![check.skipped("only root may read the rules of others")],
        };
        let of_chain = closed.iter().map(|finding| {
            let told = format!("{} {}", finding.subject, finding.message);
            match has_bridge {
                true => check.fail(told),
                false => check.warn(told),
            }
        });
        let lacking = self.survey.lacking.join("; ");
        let of_iptables = (has_bridge && closed.is_empty() && !lacking.is_empty()).then(|| {
            let told = "iptables drops forwarded packets, and the agent's rules are not there";
            check.warn(told).with_remedy(format!(
                "none while no container runs: the agent inserts them with the first; else {lacking}"
            ))
        });
        let faults: Vec<_> = of_chain.chain(of_iptables).collect();
        match faults.is_empty() {
            true => vec![check.ok("nothing drops the packets of containers")],
            false => faults,
        }
    }

    fn subnet(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::Subnet;
        match &self.survey.shared {
            Err(fault) => vec![check.warn(fault.clone())],
            Ok(shared) if shared.is_empty() => {
                vec![check.ok(format!("{} is the agent's alone", self.subnet))]
            }
            Ok(shared) => {
                let told = |other| check.fail(format!("{} is shared with {other}", self.subnet));
                shared.iter().map(told).collect()
            }
        }
    }

    fn finding(&self, alarm: Alarm) -> Option<&str> {
        let findings = self.survey.findings.iter();
        let mut of_alarm = findings.filter(|finding| finding.alarm == alarm);
        Some(&of_alarm.next()?.message)
    }

    fn name_servers(&self) -> CheckAnswer {
        let check = DoctorCheck::NameServers;
        match self.finding(Alarm::NoNameServer) {
            None => check.ok("containers have one"),
            Some(fault) => check.warn(fault),
        }
    }

    fn connections(&self) -> CheckAnswer {
        let check = DoctorCheck::Connections;
        match self.finding(Alarm::ConnectionsFull) {
            None => check.ok("the kernel has room"),
            Some(fault) => check.fail(fault),
        }
    }

    fn api_port(&self) -> CheckAnswer {
        let (check, port) = (DoctorCheck::ApiPort, self.api_port);
        match (self.agent_runs, self.survey.api_taken) {
            (true, _) => check.ok("the agent runs; its alarms tell of its doors"),
            (false, false) => check.ok(format!("{port} is free")),
            (false, true) if self.systemd_listens => {
                check.ok(format!("systemd has {port} for the agent ({SOCKET_UNIT})"))
            }
            (false, true) => match self.agent {
                Some(process) => check.ok(format!(
                    "{port} is the agent's (process {process}), which does not answer"
                )),
                None => check.fail(format!("another program listens on {port}")),
            },
        }
    }
}

/// Whether systemd listens on a port for the agent.
async fn systemd_listens(port: u16) -> bool {
    let active = agent::unit_property(SOCKET_UNIT, "ActiveState").await;
    let listens = agent::unit_property(SOCKET_UNIT, "Listen").await;
    active.as_deref() == Some("active") && listens.is_some_and(|text| names_port(&text, port))
}

/// Whether a list of systemd's names a port: `127.0.0.1:9090 (Stream)`.
fn names_port(listens: &str, port: u16) -> bool {
    let mut words = listens.split_whitespace();
    words.any(|word| word.rsplit(':').next() == Some(&port.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{Planted, check_rows};
    use crate::network::NetworkFinding;

    fn well() -> SeenNetwork {
        SeenNetwork {
            survey: HostSurvey {
                bridge: Ok(true),
                shared: Ok(Vec::new()),
                closed: Ok(Vec::new()),
                lacking: Vec::new(),
                forwards: Some(true),
                findings: Vec::new(),
                netns: Ok(Vec::new()),
                api_taken: false,
            },
            bridge: "chas0".to_owned(),
            subnet: "10.231.0.0/16".to_owned(),
            api_port: 9090,
            agent: None,
            systemd_listens: false,
            agent_runs: false,
            is_root: true,
            nft: None,
        }
    }

    fn found(alarm: Alarm, message: &str) -> NetworkFinding {
        NetworkFinding {
            alarm,
            subject: "chain".to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn each_fault_of_the_network_is_found() {
        use DoctorCheck::{
            ApiPort, Connections, Firewall, Forwarding, NameServers, NfTables, Subnet,
        };
        let rows: &[Planted<SeenNetwork>] = &[
            (NfTables, "FAIL", "not found", |seen| {
                seen.nft = Some("not found".to_owned());
            }),
            (NfTables, "skip", "only root", |seen| {
                (seen.nft, seen.is_root) = (Some(String::new()), false);
            }),
            (Forwarding, "FAIL", "off, although chas0", |seen| {
                seen.survey.forwards = Some(false);
            }),
            (Forwarding, "ok", "switches it on", |seen| {
                (seen.survey.forwards, seen.survey.bridge) = (Some(false), Ok(false));
            }),
            (Forwarding, "FAIL", "cannot be read", |seen| {
                seen.survey.forwards = None;
            }),
            (Firewall, "FAIL", "chain drops", |seen| {
                seen.survey.closed = Ok(vec![found(Alarm::ForwardingBlocked, "drops")]);
            }),
            (Firewall, "warn", "iptables drops", |seen| {
                seen.survey.lacking = vec!["iptables -I FORWARD 1".to_owned()];
            }),
            (Firewall, "ok", "rules of its own", |seen| {
                seen.survey.bridge = Ok(false);
                seen.survey.lacking = vec!["iptables -I FORWARD 1".to_owned()];
                seen.survey.closed = Ok(vec![found(Alarm::ForwardingBlocked, "drops")]);
            }),
            (Firewall, "skip", "only root", |seen| {
                (seen.survey.closed, seen.is_root) = (Err(String::new()), false);
            }),
            (
                Subnet,
                "FAIL",
                "shared with 10.231.7.0/24 of eth1",
                |seen| {
                    seen.survey.shared = Ok(vec!["10.231.7.0/24 of eth1".to_owned()]);
                },
            ),
            (Subnet, "warn", "unreadable", |seen| {
                seen.survey.shared = Err("unreadable".to_owned());
            }),
            (NameServers, "warn", "names no server", |seen| {
                let finding = found(Alarm::NoNameServer, "names no server");
                seen.survey.findings = vec![finding];
            }),
            (Connections, "FAIL", "nearly", |seen| {
                seen.survey.findings = vec![found(Alarm::ConnectionsFull, "nearly")];
            }),
            (ApiPort, "FAIL", "listens on 9090", |seen| {
                seen.survey.api_taken = true;
            }),
            (ApiPort, "ok", "process 7), which does not", |seen| {
                (seen.survey.api_taken, seen.agent) = (true, Some(7));
            }),
            (ApiPort, "ok", "systemd has 9090", |seen| {
                (seen.survey.api_taken, seen.systemd_listens) = (true, true);
            }),
            (ApiPort, "ok", "the agent runs", |seen| {
                (seen.survey.api_taken, seen.agent_runs) = (true, true);
            }),
        ];
        check_rows(&well(), SeenNetwork::judge, rows);
    }

    #[test]
    fn a_socket_of_systemd_is_known_by_its_port() {
        let told = "127.0.0.1:9090 (Stream)\n[::1]:9091 (Stream)";
        for (port, expected) in [(9090, true), (9091, true), (90, false), (909, false)] {
            assert_eq!(names_port(told, port), expected, "{port}");
        }
    }
}
