//! Programs run in containers by exec: what they get, how they end, and that nothing of them is left.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::audit::lines;
use crate::harness::{Testbed, run};
use crate::stand::{SOON, Stand, eventually};

mod watched;

/// Programs of the great run, and those of them at once.
const MANY: usize = 1000;
const AT_ONCE: usize = 50;

const RESTS: &str = "sleep 1000 & wait";

async fn exec(stand: &Stand, name: &str, body: &Value) -> (u16, Value) {
    let path = format!("/containers/{name}/exec");
    stand.agent.ask("POST", &path, Some(body)).await
}

fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

/// What a script prints, which ends well.
async fn prints(stand: &Stand, name: &str, body: &Value) -> String {
    let (status, answer) = exec(stand, name, body).await;
    assert_eq!(
        (status, &answer["exit_code"]),
        (200, &json!(0)),
        "{body}: {answer}"
    );
    answer["stdout"].as_str().unwrap().to_owned()
}

/// Pipes of programs, by their directories.
fn pipes(stand: &Stand) -> Vec<PathBuf> {
    let entries = fs::read_dir(stand.bed.dir.join("run/exec"))
        .into_iter()
        .flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Processes in a container's control group.
fn processes(stand: &Stand, shown: &Value) -> Vec<String> {
    let instance = format!(
        "{}/{}-{}",
        stand.bed.namespace,
        shown["id"].as_str().unwrap(),
        shown["generation"]
    );
    let paths = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| format!("{root}/{instance}"));
    let text = paths
        .iter()
        .find_map(|path| fs::read_to_string(format!("{path}/cgroup.procs")).ok());
    text.unwrap().lines().map(str::to_owned).collect()
}

/// Open files and threads of the agent that its shims and pipes would be among.
fn open_files(stand: &Stand) -> usize {
    let fds = format!("/proc/{}/fd", stand.agent.pid());
    fs::read_dir(fds).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_confined_as_its_container_and_has_what_it_is_given() {
    let stand = Stand::new().await;
    let facts = "cat /proc/self/oom_score_adj; grep -E '^(Cap(Bnd|Eff|Prm)|NoNewPrivs|Seccomp):' /proc/self/status; ulimit -c; id; pwd; echo $A";
    let more = json!({"environment": {"A": "b c"}, "working_dir": "/www",
        "resources": {"memory": "64m"}});
    let script = format!("{facts}; echo the-end; {RESTS}");
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("web", &script, &more))
        .await;
    let log = stand.printed("web", "the-end").await;
    let expected = log.replace("the-end\n", "");
    assert_eq!(prints(&stand, "web", &sh(facts)).await, expected);
    let own = json!({"command": ["sh", "-c", "id -un; pwd; echo $A$B $HOME; cat"], "user": "web",
        "working_dir": "/tmp", "environment": {"B": "2"}, "stdin": "in\n"});
    let printed = prints(&stand, "web", &own).await;
    assert!(printed.starts_with("web\n/tmp\nb c2 /"), "{printed}");
    assert!(printed.ends_with("\nin\n"), "{printed}");
    // A user that the running container has, and its image has not.
    let adds = "echo 'later:x:4321:0::/later:/bin/sh' >>/etc/passwd";
    prints(&stand, "web", &sh(adds)).await;
    let later = json!({"command": ["sh", "-c", "id -u; echo $HOME"], "user": "later"});
    assert_eq!(prints(&stand, "web", &later).await, "4321\n/later\n");
    let tty = json!({"command": ["sh", "-c", "tty; echo $TERM; echo err >&2"], "tty": true});
    let (_, answer) = exec(&stand, "web", &tty).await;
    assert_eq!(
        answer["stdout"], "/dev/pts/0\r\nxterm\r\nerr\r\n",
        "{answer}"
    );
    // The end of its input is seen on a terminal, too.
    let reads = json!({"command": ["sh", "-c", "cat; echo over"], "tty": true, "stdin": "x\n"});
    let printed = prints(&stand, "web", &reads).await;
    assert!(printed.ends_with("x\r\nover\r\n"), "{printed:?}");
    // It counts against the container's memory.
    let hog = sh("tail /dev/zero");
    let (_, answer) = exec(&stand, "web", &hog).await;
    assert_eq!(answer["exit_code"], 137, "{answer}");
    let (_, shown_again) = stand.agent.get("/containers/web").await;
    assert_eq!(shown_again["status"], "running");
    assert_eq!(processes(&stand, &shown).len(), 2);
    // A later generation whose change kept the process.
    let mut live = stand.script("web", &script, &more);
    live["labels"] = json!({"a": "b"});
    stand.agent.deploy(&live).await;
    let applied = "/containers/web?wait=applied&generation=2&timeout=30s";
    assert_eq!(stand.agent.get(applied).await.0, 200);
    prints(&stand, "web", &sh("true")).await;
    assert_eq!(
        stand.agent.get("/containers/web").await.1["restart_count"],
        0
    );
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_refused_with_its_reason_and_nothing_is_left() {
    let stand = Stand::new().await;
    let shown = stand
        .agent
        .deploy_and_wait(&stand.script("web", RESTS, &json!({})))
        .await;
    for (body, status, code, says) in [
        (
            json!({"command": ["/nope"]}),
            422,
            "CommandNotFound",
            "/nope",
        ),
        (
            json!({"command": ["nope"]}),
            422,
            "CommandNotFound",
            "$PATH",
        ),
        (
            json!({"command": ["/etc/passwd"]}),
            422,
            "CommandNotExecutable",
            "permission denied",
        ),
        (
            json!({"command": ["id"], "user": "nobody-here"}),
            422,
            "UserNotFound",
            "nobody-here",
        ),
        (
            json!({"command": ["id"], "working_dir": "/proc/self/fd/7"}),
            403,
            "PolicyDenied",
            "",
        ),
        (json!({"command": []}), 422, "InvalidSpec", "command"),
    ] {
        let (got, answer) = exec(&stand, "web", &body).await;
        assert_eq!(
            (got, &answer["code"]),
            (status, &json!(code)),
            "{body}: {answer}"
        );
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.contains(says) && !detail.contains("exec-"),
            "{answer}"
        );
    }
    let instance = format!("{}-1", shown["id"].as_str().unwrap());
    stand.bed.ctr(&["tasks", "pause", &instance]);
    let (status, answer) = exec(&stand, "web", &sh("true")).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("is paused"));
    stand.bed.ctr(&["tasks", "resume", &instance]);
    eventually("nothing is left", async || pipes(&stand).is_empty()).await;
    stand.agent.ask("POST", "/containers/web/stop", None).await;
    stand.agent.wait_status("web", "stopped", SOON).await;
    let (status, answer) = exec(&stand, "web", &sh("true")).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("stopped"));
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_root_by_exec_where_the_policy_lets_no_root_run() {
    let bed = Testbed::new();
    let policy = bed.dir.join("policy.yaml");
    fs::write(
        &policy,
        "rules:\n- name: nobody-is-root\n  non_root: true\n",
    )
    .unwrap();
    let stand = Stand::with(bed, &[("CHAS_POLICY_FILE", policy.to_str().unwrap())]).await;
    let body = stand.script("web", RESTS, &json!({"user": "1000:1000"}));
    stand.agent.deploy_and_wait(&body).await;
    let as_user = |user: &str| json!({"command": ["id", "-u"], "user": user});
    for root in ["0", "root", "0:1000"] {
        let (status, answer) = exec(&stand, "web", &as_user(root)).await;
        assert_eq!(
            (status, &answer["code"], &answer["rule"]),
            (403, &json!("PolicyDenied"), &json!("nobody-is-root")),
            "{root}: {answer}"
        );
    }
    assert_eq!(prints(&stand, "web", &as_user("33")).await, "33\n");
    let own = json!({"command": ["id", "-u"]});
    assert_eq!(prints(&stand, "web", &own).await, "1000\n");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_with_its_time_its_caller_and_its_container_and_takes_its_children_along() {
    let stand = Stand::new().await;
    let body = stand.script("web", RESTS, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let at_rest = processes(&stand, &shown);
    let leaves = "echo begun; (sleep 1000 & sleep 1000 & wait) & sleep 1000";
    let mut late = sh(leaves);
    late["timeout"] = json!("500ms");
    let (status, answer) = exec(&stand, "web", &late).await;
    assert_eq!(
        (status, &answer["code"], &answer["stdout"]),
        (504, &json!("ExecTimedOut"), &json!("begun\n"))
    );
    // What was killed is in the list until the kernel has let go of it.
    let are_gone = async || processes(&stand, &shown) == at_rest;
    eventually("its processes are gone", are_gone).await;
    // One that leaves something behind takes it along, too.
    prints(&stand, "web", &sh("sleep 1000 & sleep 1000 &")).await;
    eventually("its processes are gone", are_gone).await;
    // Whoever called is gone.
    let left = sh(leaves);
    let waiting = exec(&stand, "web", &left);
    assert!(
        tokio::time::timeout(Duration::from_millis(700), waiting)
            .await
            .is_err()
    );
    eventually("nothing of it is left", async || {
        processes(&stand, &shown) == at_rest && pipes(&stand).is_empty()
    })
    .await;
    let watched = async { exec(&stand, "web", &sh(leaves)).await };
    let stops = async {
        eventually("it runs", async || {
            processes(&stand, &shown).len() > at_rest.len() + 2
        })
        .await;
        let stop = "/containers/web/stop?wait=stopped";
        stand.agent.ask("POST", stop, None).await
    };
    let ((status, answer), _) = tokio::join!(watched, stops);
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("ContainerEnded")),
        "{answer}"
    );
    let kinds: Vec<_> = lines(&stand)
        .into_iter()
        .filter(|line| line["kind"] == "exec")
        .collect();
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    assert_eq!(
        (&kinds[0]["command"], &kinds[0]["name"]),
        (&json!(["sh", "-c", leaves]), &json!("web"))
    );
    let (_, metrics) = stand.agent.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "chas_execs_running 0",
        "chas_exec_duration_seconds_count{result=\"container_ended\"} 1",
        "chas_exec_duration_seconds_count{result=\"cut\"} 2",
        "chas_exec_duration_seconds_count{result=\"succeeded\"} 1",
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line}: {metrics}"
        );
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_s_programs_are_ended_by_the_next_and_a_stopped_one_s_at_once() {
    let mut stand = Stand::new().await;
    let body = stand.script("web", RESTS, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    let at_rest = processes(&stand, &shown);
    for ends_well in [false, true] {
        let leaves = sh("while :; do echo more; done & sleep 1000 & sleep 1000");
        {
            // Its caller waits still when the agent ends.
            let mut waiting = pin!(exec(&stand, "web", &leaves));
            let runs = eventually("it runs", async || {
                processes(&stand, &shown).len() >= at_rest.len() + 3
            });
            tokio::select! {
                answer = &mut waiting => panic!("{answer:?}"),
                () = runs => {}
            }
            if ends_well {
                stand.agent.signal(Signal::TERM);
                let (status, answer) = waiting.await;
                assert_eq!(
                    (status, &answer["code"]),
                    (503, &json!("ExecLost")),
                    "{answer}"
                );
            } else {
                stand.agent.killer().kill_9();
            }
        }
        // Waits for the end.
        stand.agent.terminate();
        if ends_well {
            assert_eq!(processes(&stand, &shown), at_rest);
            assert!(pipes(&stand).is_empty());
        } else {
            assert!(processes(&stand, &shown).len() > at_rest.len());
        }
        stand.agent.start_again().await;
        eventually("nothing of it is left", async || {
            processes(&stand, &shown) == at_rest && pipes(&stand).is_empty()
        })
        .await;
    }
    let (_, again) = stand.agent.get("/containers/web").await;
    assert_eq!(again["restart_count"], shown["restart_count"]);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_programs_fifty_at_once_leave_nothing() {
    let stand = Stand::new().await;
    let body = stand.script("web", RESTS, &json!({}));
    let shown = stand.agent.deploy_and_wait(&body).await;
    prints(&stand, "web", &sh("true")).await;
    let (at_rest, files) = (processes(&stand, &shown), open_files(&stand));
    let shim = format!("containerd-shim.* {} ", stand.bed.namespace);
    // Processes of the shim, and what these have open: a descriptor for each pipe of a program.
    let shims = || {
        let pids = run("pgrep", ["--full", &shim]).unwrap_or_default();
        let files = |pid: &str| Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count());
        let files: usize = pids.lines().filter_map(files).sum();
        (pids.lines().count(), files)
    };
    let shims_before = shims();
    assert_eq!(shims_before.0, 1);
    let began = Instant::now();
    let runs = (0..MANY).map(|n| {
        let stand = &stand;
        async move {
            let script = format!("echo {n}; sleep 1000 & exit {}", n % 7);
            let (status, answer) = exec(stand, "web", &sh(&script)).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["stdout"], format!("{n}\n"), "{answer}");
            assert_eq!(answer["exit_code"], n % 7, "{answer}");
        }
    });
    let done = stream::iter(runs).buffer_unordered(AT_ONCE).count().await;
    assert_eq!(done, MANY);
    eprintln!(
        "{MANY} programs, {AT_ONCE} at once, in {:?}",
        began.elapsed()
    );
    assert_eq!(processes(&stand, &shown), at_rest);
    assert!(pipes(&stand).is_empty());
    eventually("the shim has closed all of it", async || {
        let (count, files) = shims();
        count == 1 && files <= shims_before.1 + 2
    })
    .await;
    eventually("its connections are closed", async || {
        open_files(&stand) <= files + AT_ONCE
    })
    .await;
    let (_, metrics) = stand.agent.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("chas_execs_running 0"));
    stand.end().await;
}
