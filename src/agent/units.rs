//! Units of systemd by which agents are run on this host.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

/// Directory of the state of systemd's services, and that of the agent in it.
const STATE_DIRECTORIES: &str = "/var/lib";
const STATE_DIRECTORY: &str = "chas/node-agent";
/// Text of every unit of the agent.
const MARK: &str = "chas-node-agent";
/// Time for systemd to tell of a unit.
const TOLD_MAX: Duration = Duration::from_secs(5);

/// The service of systemd that runs this process. `None`: none does, as where somebody started it by hand
/// in a session or another service.
pub(crate) async fn unit_of(process: impl Display) -> Option<String> {
    let pid = process.to_string();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let unit = service_in(&groups)?;
    (unit_property(unit, "MainPID").await? == pid).then(|| unit.to_owned())
}

/// The service whose control group a process is in, by the list of its groups: that of systemd's own tree,
/// or of the only one.
fn service_in(groups: &str) -> Option<&str> {
    let mut paths = groups.lines().filter_map(|line| {
        let line = line.split_once(':')?.1;
        line.strip_prefix("name=systemd:")
            .or_else(|| line.strip_prefix(':'))
    });
    paths.find_map(|path| path.rsplit('/').find(|part| part.ends_with(".service")))
}

/// Whether a unit is that of the agent with this state directory. A unit for a socket names none, and goes
/// with the service.
pub(crate) fn is_unit_of(unit: &str, state_dir: &Path) -> bool {
    let lines = || {
        unit.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
    };
    if !unit.contains(MARK) {
        return false;
    }
    if lines().any(|line| line == "[Socket]") {
        return state_dir == Path::new(STATE_DIRECTORIES).join(STATE_DIRECTORY);
    }
    let named = lines().filter_map(|line| line.strip_prefix("StateDirectory="));
    let mut named = named.flat_map(str::split_whitespace);
    // Whole words: another agent's directory may begin with the name of this one's.
    let is_between = |c: char| c.is_whitespace() || "=\"'".contains(c);
    let mut words = lines().flat_map(|line| line.split(is_between));
    named.any(|name| Path::new(STATE_DIRECTORIES).join(name) == state_dir)
        || words.any(|word| Path::new(word) == state_dir)
}

/// Property of a unit as systemd tells it. `None`: it does not, or is not there.
pub(crate) async fn unit_property(unit: &str, name: &str) -> Option<String> {
    let mut command = Command::new("systemctl");
    command
        .args(["show", "--value", "--property", name, "--", unit])
        .kill_on_drop(true);
    let output = tokio::time::timeout(TOLD_MAX, command.output()).await;
    let output = output.ok()?.ok()?;
    let told = String::from_utf8(output.stdout).ok()?;
    Some(told.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_agent_s_by_its_state_directory() {
        let service = include_str!("../../contrib/chas-node-agent.service");
        let socket = include_str!("../../contrib/chas-node-agent.socket");
        let own = Path::new("/var/lib/chas/node-agent");
        let other = Path::new("/srv/other/state");
        for unit in [service, socket] {
            assert!(is_unit_of(unit, own) && !is_unit_of(unit, other));
        }
        let by_hand = "[Service]\nExecStart=/opt/chas-node-agent --state-dir /srv/other/state\n";
        assert!(is_unit_of(by_hand, other) && !is_unit_of(by_hand, own));
        assert!(
            !is_unit_of("[Service]\nStateDirectory=chas/node-agent\n", own),
            "no agent"
        );
        let longer = "[Service]\nExecStart=/opt/chas-node-agent --state-dir=/srv/chas2\n";
        let [short, whole, below] = ["/srv/chas", "/srv/chas2/", "/srv/chas2/a"].map(Path::new);
        assert!(
            is_unit_of(longer, whole) && !is_unit_of(longer, short) && !is_unit_of(longer, below)
        );
    }

    #[test]
    fn the_service_of_a_process_is_that_of_its_control_group() {
        for (groups, expected) in [
            ("0::/system.slice/own.service\n", Some("own.service")),
            ("0::/system.slice/own.service/sub\n", Some("own.service")),
            (
                "5:memory:/a.service\n1:name=systemd:/system.slice/own.service\n0::/\n",
                Some("own.service"),
            ),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(service_in(groups), expected, "{groups}");
        }
    }
}
