//! The processes that write the logs: whoever kills them, no container notices, and the log says what it may lack.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::image::Image;
use crate::harness::registry::Registry;
use crate::harness::{Testbed, run};
use crate::stand::{Stand, eventually};

mod confined;
mod disk;

/// Numbers on both streams; a write that fails is noted and does not end it. Then the count of those that failed.
const NUMBERS: &str = "trap '' PIPE; i=0; while [ $i -lt 300 ]; do \
    echo out-$i. || : >> /broken; echo err-$i. >&2 || : >> /broken; i=$((i+1)); sleep 0.02; done; \
    [ ! -e /broken ] || echo broken-pipes; echo the-end; sleep 1000 & wait";

/// Lines of a heavy writer, and those that it writes in one go: it takes a breath after each, so
/// that no machine is so fast that it is over before its loggers are killed.
const LINES: usize = 1_000_000;
const LINES_AT_ONCE: usize = 50_000;

/// The loggers of a container that run.
pub(crate) fn loggers(shown: &Value) -> Vec<Pid> {
    let dir = format!("/{}", shown["id"].as_str().unwrap());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_its = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"logger"[..]) && words[2].ends_with(dir.as_bytes())
    };
    pids.filter(is_its).filter_map(Pid::from_raw).collect()
}

fn the_logger(shown: &Value) -> Pid {
    let found = loggers(shown);
    assert_eq!(found.len(), 1, "{shown}: {found:?}");
    found[0]
}

pub(crate) fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
}

/// How far a heavy writer is: the number in its last line. It has none at the beginning, and another
/// line when all of them are written.
fn last_number(line: &str) -> usize {
    let line = line.trim();
    let other = if line.is_empty() { 0 } else { LINES };
    line.parse().unwrap_or(other)
}

/// Kills a container's logger, and waits for another one.
pub(crate) async fn kill_logger(shown: &Value) -> Pid {
    let killed = the_logger(shown);
    kill(killed);
    eventually("another logger took over", async || {
        let found = loggers(shown);
        found.len() == 1 && found[0] != killed
    })
    .await;
    the_logger(shown)
}

/// The numbers that stand behind a word at the beginning of a line.
fn numbers(log: &str, word: &str) -> Vec<u32> {
    let lines = log.lines().filter_map(|line| line.strip_prefix(word));
    lines
        .map(|rest| rest.trim_end_matches('.').parse().unwrap())
        .collect()
}

fn remarks(log: &str) -> usize {
    let is_remark = |line: &&str| {
        line.starts_with("[chas-node-agent: the process that writes this log was killed")
    };
    log.lines().filter(is_remark).count()
}

async fn silent(agent: &Agent) -> (Value, Value) {
    let (_, health) = agent.get("/health").await;
    (health["status"].clone(), health["logs"]["silent"].clone())
}

async fn is_alarmed(agent: &Agent) -> bool {
    let (_, health) = agent.get("/health").await;
    health["alarms"].to_string().contains("OutputLost")
}

async fn restarts(agent: &Agent, name: &str) -> Value {
    agent.get(&format!("/containers/{name}")).await.1["restart_count"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_that_is_killed_is_replaced_and_no_line_is_lost() {
    let stand = Stand::new().await;
    let body = stand.script("a", NUMBERS, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    stand.printed("a", "err-5.").await;
    for _ in 0..3 {
        kill_logger(&shown).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let log = stand.printed("a", "the-end").await;
    assert!(!log.contains("broken-pipes"), "{log}");
    for word in ["out-", "err-"] {
        assert_eq!(numbers(&log, word), (0..300).collect::<Vec<_>>(), "{word}");
    }
    assert_eq!(remarks(&log), 3, "{log}");
    assert_eq!(restarts(&stand.agent, "a").await, 0);
    let (_, health) = stand.agent.get("/health").await;
    assert_eq!(
        (&health["status"], &health["logs"]["silent"]),
        (&json!("healthy"), &json!([]))
    );
    let mut errors = health["errors"].as_array().unwrap().iter();
    let error = errors.find(|error| error["reason"] == "LoggerFailed");
    let error = error.unwrap_or_else(|| panic!("{health:#}"));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("a: the process that writes the log ended")
    );
    let (_, metrics) = stand.agent.get("/metrics").await;
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("chas_loggers_lost_total 3"),
        "{metrics}"
    );
    // As text for programs, too.
    let (_, _, lines) = stand
        .agent
        .ask_with(
            "GET",
            "/containers/a/logs?tail=all&stream=stderr",
            &[("accept", "application/x-ndjson")],
            None,
        )
        .await;
    assert_eq!(
        lines
            .as_str()
            .unwrap()
            .matches("was killed and another one took over")
            .count(),
        3
    );
    // One that took over ends with its container, and is no zombie.
    let logger = the_logger(&shown);
    stand.agent.delete_and_wait("a").await;
    assert!(!PathBuf::from(format!("/proc/{}", logger.as_raw_nonzero())).exists());
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_has_a_name_of_its_own_and_no_descriptor_of_anybody_else() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("a", "sleep 1000 & wait", &json!({})))
        .await;
    let first = the_logger(&shown);
    for logger in [first, kill_logger(&shown).await] {
        // What an operator would type, without the killing: tests of others run beside this one.
        let agents = run("pgrep", ["chas-node-agent"]).unwrap();
        assert!(!agents.is_empty());
        let pid = logger.as_raw_nonzero().to_string();
        assert!(!agents.lines().any(|line| line == pid), "{agents}");
        if logger == first {
            continue;
        }
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(comm, "chas-logger\n");
        let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .map(|entry| {
                fs::read_link(entry.path())
                    .unwrap_or_default()
                    .display()
                    .to_string()
            })
            .collect();
        // Whoever started the agent may have left it descriptors of his own; the agent's are meant.
        let state = stand.bed.dir.join("state").display().to_string();
        let is_agents = |name: &&String| {
            let own = name.contains(shown["id"].as_str().unwrap());
            name.starts_with("socket:")
                || name.starts_with("anon_inode:")
                || (name.starts_with(&state) && !own)
        };
        assert!(
            open.len() > 5 && !open.iter().any(|name| is_agents(&name)),
            "{open:?}"
        );
        let group = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session = group
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(3)
            .unwrap()
            .to_owned();
        assert_eq!(session, pid, "it has a session of its own");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logger_that_died_while_the_agent_was_down_is_replaced_by_the_next_start() {
    let mut stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("a", NUMBERS, &json!({})))
        .await;
    let more = "sleep 3; exec > /dev/null 2>&1; sleep 1000";
    let redirected = stand
        .agent
        .deploy_and_wait(&stand.script("b", more, &json!({})))
        .await;
    let kept = stand
        .agent
        .deploy_and_wait(&stand.script("c", NUMBERS, &json!({})))
        .await;
    let before = stand.pid(&shown);
    stand.printed("a", "out-20.").await;
    let took_over = kill_logger(&kept).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stand.agent.kill_9();
    let killed = the_logger(&shown);
    kill(killed);
    kill(the_logger(&redirected));
    tokio::time::sleep(Duration::from_millis(500)).await;
    stand.agent.start_again().await;
    eventually("another logger took over", async || {
        loggers(&shown).len() == 1
    })
    .await;
    let log = stand.printed("a", "the-end").await;
    assert_eq!(remarks(&log), 1, "{log}");
    let found = numbers(&log, "out-");
    assert!(found.len() > 150 && found.is_sorted(), "{found:?}");
    assert!(
        log.contains("broken-pipes"),
        "nobody held its pipes meanwhile: {log}"
    );
    assert_eq!(stand.pid(&shown), before, "it was not restarted");
    // One that took over before lives on under the next agent, and is looked after by it.
    assert_eq!(the_logger(&kept), took_over);
    kill_logger(&kept).await;
    let log = stand.printed("c", "the-end").await;
    // Each of the two kills may take the line that the logger had in its hands.
    assert!(numbers(&log, "out-").is_sorted() && numbers(&log, "out-").len() >= 298);
    let (status, found) = silent(&stand.agent).await;
    assert_eq!(
        (
            &status,
            &found[0]["container"],
            found.as_array().unwrap().len()
        ),
        (&json!("degraded"), &json!("b"), 1),
        "{found}"
    );
    stand.agent.ask("POST", "/containers/b/restart", None).await;
    eventually("it is written again", async || {
        silent(&stand.agent).await == (json!("healthy"), json!([]))
    })
    .await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heavy_writer_loses_at_most_what_its_dead_logger_had_read() {
    let stand = Stand::new().await;
    let script = format!(
        "i=1; code=0; while [ $i -lt {LINES} ]; do \
         seq $i $((i+{LINES_AT_ONCE}-1)) || code=$?; i=$((i+{LINES_AT_ONCE})); sleep 0.05; done; \
         echo code-$code; echo the-end; sleep 1000 & wait"
    );
    let more = json!({"logs": {"max_size": "100m", "max_files": 5}});
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("a", &script, &more))
        .await;
    // The last lines are not put at stake: a logger that dies with them in hand loses them.
    let mut kills = 0;
    while last_number(&stand.agent.logs("a", "tail=1&stream=stdout").await) < LINES * 3 / 4 {
        kill_logger(&shown).await;
        kills += 1;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    eventually("all of it is in the log", async || {
        stand.agent.logs("a", "tail=1&stream=stdout").await == "the-end\n"
    })
    .await;
    // From the files, since a million lines are many for a client.
    let dir = stand
        .bed
        .dir
        .join("state/logs")
        .join(shown["id"].as_str().unwrap());
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|file| file.path())
        .collect();
    files.sort();
    let log: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    assert!(log.contains(" stdout F code-0\n"), "it wrote all of it");
    let printed = log.lines().filter_map(|line| line.split_once(" F "));
    let found: Vec<u32> = printed.filter_map(|(_, line)| line.parse().ok()).collect();
    let missing = LINES - found.len();
    eprintln!("{kills} kills, {missing} of {LINES} lines missing");
    assert!(kills > 0, "it was over too soon");
    assert!(
        found
            .windows(2)
            .filter(|pair| pair[1] != pair[0] + 1)
            .count()
            <= 2 * kills
    );
    assert!(missing <= kills * 40_000, "{kills}: {missing}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runs_last_line_is_its_own_and_a_follower_of_a_finished_job_ends() {
    let stand = Stand::new().await;
    let more = json!({"restart": {"policy": "on-failure", "max_retries": 1}});
    let body = stand.script(
        "a",
        "echo start; sleep 1; printf 'fatal: no disk'; exit 1",
        &more,
    );
    stand.agent.deploy_and_wait(&body).await;
    let follow = stand.agent.logs("a", "tail=all&follow=true");
    let followed = tokio::time::timeout(Duration::from_secs(30), follow).await;
    let expected = "start\nfatal: no disk\nstart\nfatal: no disk\n";
    assert_eq!(followed.expect("it ends"), expected);
    let (_, _, lines) = stand
        .agent
        .ask_with(
            "GET",
            "/containers/a/logs",
            &[("accept", "application/x-ndjson")],
            None,
        )
        .await;
    assert_eq!(
        lines.as_str().unwrap().matches("\"partial\":false").count(),
        4,
        "{lines}"
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_program_a_logger_is_not_replaced_and_the_container_goes_on() {
    let bed = Testbed::new();
    let program = bed.dir.join("agent-copy");
    fs::copy(crate::harness::agent::PROGRAM, &program).unwrap();
    let registry = Registry::open(&bed);
    Image::busybox().push(&registry, "box:1").await;
    let agent = Agent::start_program(
        &bed,
        &program,
        &[("CHAS_REGISTRY_INSECURE", registry.address())],
    )
    .await;
    let stand = Stand {
        agent,
        registry,
        bed,
    };
    let shown = stand.agent.deploy_and_wait(&stand.script("a", "trap '' PIPE; i=0; while [ $i -lt 1000 ]; do seq 1 1000 || exit 7; i=$((i+1)); done; while :; do echo the-end; sleep 1; done", &json!({}))).await;
    fs::rename(&program, stand.bed.dir.join("away")).unwrap();
    kill(the_logger(&shown));
    eventually("health names it", async || {
        let (status, found) = silent(&stand.agent).await;
        status == "degraded"
            && found[0]["message"]
                .as_str()
                .is_some_and(|message| message.contains("none can be started"))
    })
    .await;
    // Long enough for its output to fill the pipe, also on a busy machine.
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::rename(stand.bed.dir.join("away"), &program).unwrap();
    let log = stand.printed("a", "the-end").await;
    assert!(
        log.contains("none could be started for a while"),
        "{}",
        log.lines().find(|l| l.starts_with('[')).unwrap_or_default()
    );
    assert_eq!(silent(&stand.agent).await, (json!("healthy"), json!([])));
    assert_eq!(restarts(&stand.agent, "a").await, 0);
    stand.end().await;
}
