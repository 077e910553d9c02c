//! Forwarding through the host's other firewalls (docker, ufw, a hand-written one): lets the
//! bridge's packets through where `iptables` has the rules.
//!
//! An accept in the agent's own table cannot undo a drop in another one, so the accept has to stand
//! where the drop stands.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::firewall::legacy::Kind;
use super::{firewall, tools};
use crate::network::NetworkError;

/// Wait of `iptables` for other users of it, in seconds.
const LOCK_WAIT_S: &str = "5";

/// Longest run of `iptables`. A run takes some 4 ms, and [`LOCK_WAIT_S`] at most if others are at
/// work.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// Program for the older kind of iptables, whose rules the newer one does not show.
const LEGACY: &str = "iptables-legacy";
const LEGACY6: &str = "ip6tables-legacy";

/// Chain that docker leaves to others. Packets pass it before docker's own rules, and it survives
/// docker's restarts.
const DOCKER_USER: &str = "DOCKER-USER";

/// Ensures that the host's firewall lets the bridge's packets pass if `wanted`, and else that none
/// of the agent's rules is in it. Answers one line
/// for each rule that was inserted or deleted.
pub(super) async fn ensure(bridge: &str, wanted: bool) -> Result<Vec<String>, NetworkError> {
    ensure_of(("iptables", LEGACY, Kind::Ipv4), bridge, wanted).await
}

/// Runs of `iptables` that would let the bridge's packets pass, none of which is done. Empty: they pass, as
/// far as `iptables` tells.
pub(super) async fn lacking(bridge: &str) -> Vec<String> {
    let mut runs = Vec::new();
    let is_legacy = firewall::legacy::has_table(Kind::Ipv4, "filter");
    for program in ["iptables"].into_iter().chain(is_legacy.then_some(LEGACY)) {
        let rules = iptables(program, &["-S"]).await.unwrap_or_default();
        let inserts = plan(&rules, bridge, true).into_iter();
        let inserts = inserts.filter(|run| run.first().is_some_and(|word| word == "-I"));
        runs.extend(inserts.map(|run| format!("{program} {}", run.join(" "))));
    }
    runs
}

/// The same for IPv6 packets.
pub(super) async fn ensure_ipv6(bridge: &str, wanted: bool) -> Result<Vec<String>, NetworkError> {
    ensure_of(("ip6tables", LEGACY6, Kind::Ipv6), bridge, wanted).await
}

async fn ensure_of(
    (program, legacy, kind): (&str, &str, Kind),
    bridge: &str,
    wanted: bool,
) -> Result<Vec<String>, NetworkError> {
    let mut done = Vec::new();
    match iptables(program, &["-S"]).await {
        Ok(rules) => done.extend(change(program, &rules, bridge, wanted).await?),
        // Without iptables no rule of iptables drops packets. Chains of others are named as
        // findings.
        Err(error) => tracing::debug!(program, %error, "iptables rules not listed"),
    }
    // The rules of both kinds of iptables are asked for every packet.
    if firewall::legacy::has_table(kind, "filter") {
        match iptables(legacy, &["-S"]).await {
            Ok(rules) => done.extend(change(legacy, &rules, bridge, wanted).await?),
            Err(error) => tracing::debug!(%error, "rules of iptables-legacy not listed"),
        }
    }
    Ok(done)
}

/// Carries out the [`plan`] with `program`.
async fn change(
    program: &str,
    rules: &str,
    bridge: &str,
    wanted: bool,
) -> Result<Vec<String>, NetworkError> {
    let mut lines = Vec::new();
    for run in plan(rules, bridge, wanted) {
        let arguments: Vec<&str> = run.iter().map(String::as_str).collect();
        let line = format!("{program} {}", run.join(" "));
        iptables(program, &arguments)
            .await
            .map_err(|error| NetworkError::failed(format!("cannot run {line}"), error))?;
        lines.push(line);
    }
    Ok(lines)
}

/// Runs of `iptables` that lead from `rules`, the filter table as `iptables -S` prints it, to the
/// wanted ones.
fn plan(rules: &str, bridge: &str, wanted: bool) -> Vec<Vec<String>> {
    let has_docker_user = rules
        .lines()
        .any(|line| line == format!("-N {DOCKER_USER}"));
    let chain = if has_docker_user {
        DOCKER_USER
    } else {
        "FORWARD"
    };
    let needed = wanted && drops_forwarded(rules);
    let mut runs = Vec::new();
    for direction in ["-i", "-o"] {
        let rule = [
            direction,
            bridge,
            "-m",
            "comment",
            "--comment",
            &comment(bridge),
            "-j",
            "ACCEPT",
        ]
        .map(str::to_owned);
        for place in ["FORWARD", DOCKER_USER] {
            let count = rules
                .lines()
                .filter(|line| is_managed(line, place, direction, bridge))
                .count();
            let should = usize::from(needed && place == chain);
            if count < should {
                runs.push(
                    [
                        ["-I", place, "1"].map(str::to_owned).to_vec(),
                        rule.to_vec(),
                    ]
                    .concat(),
                );
            }
            for _ in should..count {
                runs.push([["-D", place].map(str::to_owned).to_vec(), rule.to_vec()].concat());
            }
        }
    }
    runs
}

/// Comment on the agent's rules, by which the agent and a person know them.
fn comment(bridge: &str) -> String {
    format!("chas-node-agent:{bridge}")
}

/// Whether FORWARD drops packets that no rule accepts: by its policy, or by a last rule for
/// everything.
fn drops_forwarded(rules: &str) -> bool {
    rules.lines().any(|line| {
        line.strip_prefix("-P FORWARD ")
            .or_else(|| line.strip_prefix("-A FORWARD -j "))
            .and_then(|target| target.split(' ').next())
            .is_some_and(|target| ["DROP", "REJECT"].contains(&target))
    })
}

fn is_managed(line: &str, chain: &str, direction: &str, bridge: &str) -> bool {
    let words: Vec<&str> = line
        .split_whitespace()
        .map(|word| word.trim_matches('"'))
        .collect();
    words.starts_with(&["-A", chain, direction, bridge])
        && words.contains(&comment(bridge).as_str())
}

async fn iptables(program: &str, arguments: &[&str]) -> io::Result<String> {
    let run = Command::from(tools::command(program))
        .args(["-w", LOCK_WAIT_S])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(RUN_TIMEOUT, run)
        .await
        .map_err(io::Error::from)??;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGED_IN: &str =
        "-A FORWARD -i chas0 -m comment --comment \"chas-node-agent:chas0\" -j ACCEPT";
    const MANAGED_OUT: &str =
        "-A FORWARD -o chas0 -m comment --comment chas-node-agent:chas0 -j ACCEPT";
    const DROP: &str = "-P INPUT ACCEPT\n-P FORWARD DROP\n";

    #[track_caller]
    fn check(rules: &str, wanted: bool, expected: &[&str]) {
        let runs: Vec<_> = plan(rules, "chas0", wanted)
            .iter()
            .map(|run| run[..run.len() - 6].join(" "))
            .collect();
        assert_eq!(runs, expected, "{rules}");
    }

    #[test]
    fn a_host_that_forwards_is_left_alone() {
        check("-P FORWARD ACCEPT", true, &[]);
        check(
            "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.0/24 -j DROP",
            true,
            &[],
        );
    }

    #[test]
    fn a_host_that_drops_gets_two_rules_once() {
        check(
            DROP,
            true,
            &["-I FORWARD 1 -i chas0", "-I FORWARD 1 -o chas0"],
        );
        check(
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            true,
            &["-I FORWARD 1 -i chas0", "-I FORWARD 1 -o chas0"],
        );
        check(&format!("{DROP}{MANAGED_IN}\n{MANAGED_OUT}"), true, &[]);
        check(
            &format!("{DROP}{MANAGED_IN}"),
            true,
            &["-I FORWARD 1 -o chas0"],
        );
        check(
            &format!("{DROP}{MANAGED_IN}\n{MANAGED_IN}\n{MANAGED_OUT}"),
            true,
            &["-D FORWARD -i chas0"],
        );
    }

    #[test]
    fn with_docker_the_rules_stand_where_docker_leaves_them() {
        let docker = "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n";
        check(
            docker,
            true,
            &["-I DOCKER-USER 1 -i chas0", "-I DOCKER-USER 1 -o chas0"],
        );
        let moved = [
            "-D FORWARD -i chas0",
            "-I DOCKER-USER 1 -i chas0",
            "-I DOCKER-USER 1 -o chas0",
        ];
        check(&format!("{docker}{MANAGED_IN}"), true, &moved);
    }

    #[test]
    fn managed_rules_go_when_they_are_not_wanted_and_others_stay() {
        let foreign = "-A FORWARD -i chas0 -j ACCEPT\n-A FORWARD -i chas01 -m comment --comment chas-node-agent:chas01 -j ACCEPT\n";
        check(
            &format!("{DROP}{foreign}{MANAGED_IN}\n{MANAGED_OUT}"),
            false,
            &["-D FORWARD -i chas0", "-D FORWARD -o chas0"],
        );
        check(&format!("{DROP}{foreign}"), false, &[]);
    }
}
