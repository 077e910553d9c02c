//! Containers that run at times and end: each time once, whoever dies, with its result, and now if a person says so.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::reasons::shows;
use crate::stand::{SOON, Stand, eventually};
use state::reason::Reason;

/// Longer than the minute that a cron line can wait at most.
const A_MINUTE: Duration = Duration::from_secs(75);

/// Restarts in which the agent is killed.
const KILLS: usize = 10;

async fn shown(stand: &Stand, name: &str) -> Value {
    stand.agent.get(&format!("/containers/{name}")).await.1
}

/// Waits until a container has so many past runs; its view.
async fn after_runs(stand: &Stand, name: &str, runs: usize, within: Duration) -> Value {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let view = shown(stand, name).await;
        let past = view["runs"]["last"].as_array().map_or(0, Vec::len);
        if past >= runs && view["reason"] == "Scheduled" {
            return view;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{runs} runs of {name}: {view:#}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn job(stand: &Stand, name: &str, script: &str, schedule: &Value) -> Value {
    let more = json!({"command": ["sh", "-c", script], "restart": {"policy": "never"}, "schedule": schedule});
    stand.script(name, "", &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_completes_is_kept_and_shown_until_it_is_removed() {
    let mut stand = Stand::new().await;
    let more = json!({"command": ["sh", "-c", "echo done"], "restart": {"policy": "never"}});
    stand.agent.deploy(&stand.script("once", "", &more)).await;
    let before = shows(&stand.agent, "once", Reason::Completed, "exit code 0").await;
    assert_eq!(
        (&before["status"], &before["exit_code"]),
        (&json!("stopped"), &json!(0))
    );
    stand.agent.kill_9();
    stand.agent.start_again().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = shown(&stand, "once").await;
    for member in ["status", "reason", "exit_code", "finished", "id"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_eq!(stand.agent.logs("once", "tail=all").await, "done\n");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_runs_each_time_once_whoever_is_killed_and_keeps_the_results() {
    let mut stand = Stand::new().await;
    for (schedule, restart, field) in [
        (json!("61 * * * *"), "never", "schedule"),
        (json!("0 0 30 2 *"), "never", "schedule"),
        (json!("@daily"), "always", "schedule"),
        (
            json!({"cron": "@daily", "timezone": "Mars/Olympus"}),
            "never",
            "schedule.timezone",
        ),
        (
            json!({"cron": "@daily", "missed_within": "1h"}),
            "never",
            "schedule.missed_within",
        ),
        (
            json!({"cron": "@daily", "history": 51}),
            "never",
            "schedule.history",
        ),
        (json!({"timezone": "UTC"}), "never", "schedule.cron"),
    ] {
        let mut body = job(&stand, "bad", "exit 0", &schedule);
        body["restart"]["policy"] = json!(restart);
        let (status, answer) = stand.agent.deploy(&body).await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (422, &json!(field)),
            "{answer:#}"
        );
    }
    // It counts its starts where all of its runs see them.
    let counted = "echo x >> /count; echo run-$(wc -l < /count); exit $(( $(wc -l < /count) % 2 ))";
    let each = json!({"cron": "* * * * *", "timezone": "Europe/Berlin", "history": 2});
    let (status, answer) = stand
        .agent
        .deploy(&job(&stand, "each", counted, &each))
        .await;
    assert_eq!(status, 202, "{answer:#}");
    let rare = job(&stand, "rare", "echo rare; exit 3", &json!("0 0 1 1 *"));
    let (status, answer) = stand.agent.deploy(&rare).await;
    assert_eq!(status, 202, "{answer:#}");
    let view = shows(&stand.agent, "rare", Reason::Scheduled, "next time").await;
    assert_eq!(view["status"], "stopped");
    let next = humantime::parse_rfc3339(view["next_run"].as_str().unwrap()).unwrap();
    assert!(next > SystemTime::now());
    assert!(
        !view["image_digest"].is_null(),
        "its image is pulled at the deploy: {view:#}"
    );
    // Now, twice, and with its results.
    for runs in 1..=2 {
        let (status, answer) = stand
            .agent
            .ask("POST", "/containers/rare/restart", None)
            .await;
        assert!(matches!(status, 200 | 202), "{answer:#}");
        let view = after_runs(&stand, "rare", runs, SOON).await;
        let last = &view["runs"]["last"][0];
        assert_eq!(
            (&last["result"], &last["exit_code"], &last["scheduled"]),
            (&json!("failed"), &json!(3), &Value::Null)
        );
        assert_eq!(
            view["next_run"],
            json!(humantime::format_rfc3339_millis(next).to_string())
        );
    }
    assert_eq!(stand.agent.logs("rare", "tail=all").await, "rare\nrare\n");
    // By its time. The agent is killed as soon as the run is known of, and again when it is over.
    let deadline = tokio::time::Instant::now() + A_MINUTE;
    loop {
        let runs = &shown(&stand, "each").await["runs"];
        if !runs["current"].is_null() || !runs["last"][0].is_null() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{runs:#}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stand.agent.kill_9();
    stand.agent.start_again().await;
    let first = after_runs(&stand, "each", 1, A_MINUTE).await;
    stand.agent.kill_9();
    stand.agent.start_again().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = shown(&stand, "each").await;
    assert!(again["runs"]["last"].as_array().unwrap().len() <= 2);
    let second = after_runs(&stand, "each", 2, A_MINUTE).await;
    let runs = second["runs"]["last"].as_array().unwrap();
    assert_ne!(runs[0]["scheduled"], runs[1]["scheduled"], "{second:#}");
    // Its end may be known before its last line is in the log.
    let is_logged = async || stand.agent.logs("each", "tail=all").await.lines().count() > 1;
    eventually("both runs are in the log", is_logged).await;
    let log = stand.agent.logs("each", "tail=all").await;
    let lines = log.lines().count();
    assert!(log.starts_with("run-1\n"), "{log}");
    assert_eq!(lines, 2, "each time once: {log:?}, {first:#}");
    assert_eq!(
        [&runs[1]["result"], &runs[0]["result"]],
        ["failed", "succeeded"]
    );
    assert!(
        runs[0]["took_s"].is_number() && second["runs"]["last_success"].is_string(),
        "{second:#}"
    );
    let (_, metrics) = stand.agent.call("GET", "/metrics", None).await.unwrap();
    for line in [
        "chas_job_runs_total{result=\"succeeded\"} 1",
        "chas_job_last_success_timestamp_seconds{container=\"each\"}",
    ] {
        assert!(
            metrics.as_str().unwrap().contains(line),
            "{line}: {metrics}"
        );
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_done_once_whenever_the_agent_is_killed() {
    let mut stand = Stand::new().await;
    let counts = "echo x >> /count; echo run-$(wc -l < /count); while :; do sleep 0.05; done";
    let (status, answer) = stand
        .agent
        .deploy(&stand.script("counts", counts, &json!({})))
        .await;
    assert_eq!(status, 202, "{answer:#}");
    let logged = async |stand: &Stand| {
        let log = stand.agent.logs("counts", "tail=all").await;
        log.lines().count()
    };
    eventually("it runs", async || logged(&stand).await == 1).await;
    // Between the end of what runs and the note of the next start there is some of each step.
    for kill in 1..=KILLS {
        let (status, answer) = stand
            .agent
            .ask("POST", "/containers/counts/restart", None)
            .await;
        assert!(matches!(status, 200 | 202), "{answer:#}");
        let within = u64::try_from(kill).unwrap() * 350 / u64::try_from(KILLS).unwrap();
        tokio::time::sleep(Duration::from_millis(within)).await;
        stand.agent.kill_9();
        stand.agent.start_again().await;
        let is_done = async || {
            let (_, why) = stand.agent.get("/containers/counts/explain").await;
            let is_noted = why.pointer("/desired/restart_pending") == Some(&json!(false));
            is_noted && shown(&stand, "counts").await["status"] == "running"
        };
        eventually("the restart is noted", is_done).await;
        let is_logged = async || logged(&stand).await > kill;
        eventually("it has begun", is_logged).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(logged(&stand).await, 1 + KILLS, "each restart once");
    stand.end().await;
}
