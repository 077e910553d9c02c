//! The operator's client, by the program itself: every order against a real agent, as a person and as a
//! script gives it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::stand::{Stand, eventually};

mod sessions;
mod terminal;

/// What an order ended with: its exit code, output and errors.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) told: String,
}

/// Gives an order, with this input.
fn order_with(stand: &Stand, arguments: &[&str], input: &[u8]) -> Ended {
    // What hangs fails, and does not hang the tests.
    let mut child = Command::new("timeout")
        .args(["100", PROGRAM])
        .args(arguments)
        .env_clear()
        .envs(stand.agent.environment())
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _whatever_it_reads = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        told: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn order(stand: &Stand, line: &str) -> Ended {
    let words: Vec<_> = line.split_whitespace().collect();
    tokio::task::block_in_place(|| order_with(stand, &words, b""))
}

/// What an order shows, which ends well.
pub(crate) fn shows(stand: &Stand, line: &str) -> String {
    let ended = order(stand, line);
    assert_eq!(ended.code, 0, "{line}: {ended:?}");
    ended.out
}

fn json_of(stand: &Stand, line: &str) -> Value {
    serde_json::from_str(&shows(stand, line)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_run_looked_at_changed_and_removed_by_orders() {
    let stand = Stand::new().await;
    let (web, box_) = (stand.image("web:1"), stand.image("box:1"));
    let id = shows(
        &stand,
        &format!("run -d --name web -p 80 -e A=1 -l team=a --stop-timeout 1 {web}"),
    );
    assert_eq!(id.trim().len(), 12, "{id}");
    let again = order(&stand, &format!("run -d --name web {web}"));
    assert!(
        again.code == 125 && again.told.contains("there is a container web"),
        "{again:?}"
    );
    let listed = shows(&stand, "ps");
    let line = listed.lines().nth(1).unwrap();
    assert!(listed.starts_with("CONTAINER ID   IMAGE"), "{listed}");
    assert!(
        line.starts_with(id.trim()) && line.ends_with("web"),
        "{listed}"
    );
    assert!(
        line.contains("Up ") && line.contains("->80/tcp"),
        "{listed}"
    );
    assert_eq!(shows(&stand, "ps -q"), id);
    assert_eq!(
        json_of(&stand, "ps --json -f label=team=a")["containers"][0]["name"],
        "web"
    );
    assert_eq!(shows(&stand, "ps -q -f name=other"), "");
    assert_eq!(
        json_of(&stand, "inspect web")[0]["spec"]["labels"]["team"],
        "a"
    );
    let explained = shows(&stand, "explain web");
    assert!(
        explained.contains("Status") && explained.contains("nothing"),
        "{explained}"
    );
    assert!(shows(&stand, "status").contains("Containers   1 run"));
    assert!(shows(&stand, "plan").contains("nothing to do"));
    assert!(
        shows(&stand, "stats --no-stream")
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("web")
    );

    assert_eq!(shows(&stand, "stop web"), "web\n");
    assert_eq!(shows(&stand, "ps -q"), "", "stopped by an order");
    assert!(shows(&stand, "ps -a").contains("Exited"));
    assert_eq!(shows(&stand, "start web"), "web\n");
    assert_eq!(shows(&stand, "restart web"), "web\n");
    let unknown = order(&stand, "stop nobody web");
    assert!(unknown.code == 1 && unknown.out == "web\n", "{unknown:?}");
    assert!(unknown.told.contains("404"), "{unknown:?}");
    shows(&stand, "start web");
    let kept = order(&stand, "rm web");
    assert!(kept.code == 1 && kept.told.contains("--force"), "{kept:?}");
    assert_eq!(shows(&stand, "rm -f web"), "web\n");

    let once = order(
        &stand,
        &format!("run --rm --name once {box_} sh -c exit\\ 7"),
    );
    assert_eq!(once.code, 127, "no shell took the words apart: {once:?}");
    let words = [
        "run",
        "--rm",
        "--name",
        "once",
        &box_,
        "sh",
        "-c",
        "echo out; exit 7",
    ];
    let once = tokio::task::block_in_place(|| order_with(&stand, &words, b""));
    assert!(once.code == 7 && once.out == "out\n", "{once:?}");
    // One that never starts says why, also where it is waited for.
    let never = order(
        &stand,
        &format!("run --rm --name never {}", stand.image("none:1")),
    );
    assert!(
        never.code == 125 && never.told.contains("ImageNotFound"),
        "{never:?}"
    );
    let missing = order(
        &stand,
        &format!("run -d --name missing {}", stand.image("none:1")),
    );
    assert!(
        missing.code == 125 && missing.told.contains("ImageNotFound"),
        "{missing:?}"
    );
    shows(&stand, "rm -f missing");
    let events = shows(&stand, "events --no-follow --since 0");
    assert!(events.contains("container_exited"), "{events}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_files_are_compared_applied_and_gone_back_from() {
    let stand = Stand::new().await;
    let directory = stand.bed.dir.join("bodies");
    fs::create_dir(&directory).unwrap();
    let body = |name: &str, value: &str| {
        stand.script(
            name,
            "sleep 1000 & wait",
            &json!({"environment": {"A": value}, "labels": {"v": value}}),
        )
    };
    let write = |file: &str, text: &str| fs::write(directory.join(file), text).unwrap();
    write("a.json", &body("a", "1").to_string());
    // JSON is YAML too; two documents of one file.
    write(
        "b.yaml",
        &format!("{}\n---\n{}\n", body("b", "1"), body("c", "1")),
    );
    let path = directory.display();
    let found = order(&stand, &format!("diff -f {path}"));
    assert!(
        found.code == 3 && found.out.contains("+ a is new"),
        "{found:?}"
    );
    let unasked = order(&stand, &format!("apply -f {path}"));
    assert!(
        unasked.code == 1 && unasked.told.contains("--yes"),
        "{unasked:?}"
    );
    shows(&stand, &format!("apply --yes -f {path}"));
    for name in ["a", "b", "c"] {
        stand
            .agent
            .wait_status(name, "running", crate::stand::SOON)
            .await;
    }
    assert!(shows(&stand, &format!("apply -f {path}")).contains("nothing to do"));
    write("b.yaml", &body("b", "2").to_string());
    let found = order(&stand, &format!("diff --whole -f {path}"));
    assert_eq!(found.code, 3, "{found:?}");
    for part in ["~ b changes", "labels.v: \"1\" -> \"2\"", "- c is removed"] {
        assert!(found.out.contains(part), "{part}: {found:?}");
    }
    shows(&stand, &format!("apply --yes -f {path}"));
    eventually("c is gone", async || {
        stand.agent.get("/containers/c").await.0 == 404
    })
    .await;
    let file = directory.join("b.yaml");
    write("b.yaml", &body("b", "3").to_string());
    let deployed = shows(
        &stand,
        &format!("deploy --wait running -f {}", file.display()),
    );
    assert!(deployed.starts_with("b: generation 3"), "{deployed}");
    let history = shows(&stand, "history b");
    assert!(
        history.contains("3*") && history.contains("labels.v: \"2\" -> \"3\""),
        "{history}"
    );
    assert!(
        shows(&stand, "rollback b --to 1").starts_with("b is generation 4"),
        "{history}"
    );
    assert_eq!(json_of(&stand, "inspect b")[0]["spec"]["labels"]["v"], "1");
    write("b.yaml", "name: b\nimage: nginx\nprot: 80\nimagee: x\n");
    let refused = order(&stand, &format!("deploy -f {}", file.display()));
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in ["422", "prot", "imagee"] {
        assert!(refused.told.contains(part), "{refused:?}");
    }
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_files_volumes_and_secrets_go_through_orders() {
    let stand = Stand::new().await;
    let more = json!({"volumes": [{"volume": "data", "path": "/data"}]});
    let body = stand.script(
        "box",
        "echo first; echo \u{1b}[31mred >&2; sleep 1000 & wait",
        &more,
    );
    stand.agent.deploy_and_wait(&body).await;
    stand.printed("box", "red").await;
    assert_eq!(shows(&stand, "logs box --stream stdout"), "first\n");
    assert!(
        shows(&stand, "logs -t -n 1 box").contains("Z \u{1b}[31mred"),
        "bytes stay for a program"
    );

    let ran = order(&stand, "exec box sh -c exit");
    assert_eq!(ran.code, 0, "{ran:?}");
    let words = [
        "exec",
        "-i",
        "-e",
        "B=2",
        "-w",
        "/tmp",
        "box",
        "sh",
        "-c",
        "cat; echo $B; pwd; echo bad >&2; exit 3",
    ];
    let ran = tokio::task::block_in_place(|| order_with(&stand, &words, b"given\n"));
    assert_eq!(
        (ran.code, &*ran.out, &*ran.told),
        (3, "given\n2\n/tmp\n", "bad\n")
    );
    let ran = order(&stand, "exec box /no/such");
    assert!(
        ran.code == 125 && ran.told.contains("CommandNotFound"),
        "{ran:?}"
    );

    let directory = stand.bed.dir.join("files");
    fs::create_dir_all(directory.join("tree/below")).unwrap();
    fs::write(directory.join("tree/below/file"), "content").unwrap();
    shows(&stand, &format!("cp {}/tree box:/tmp", directory.display()));
    shows(
        &stand,
        &format!("cp box:/tmp/tree {}/back", directory.display()),
    );
    assert_eq!(
        fs::read(directory.join("back/below/file")).unwrap(),
        b"content"
    );
    shows(
        &stand,
        &format!("cp box:/tmp/tree/below/file {}", directory.display()),
    );
    assert_eq!(fs::read(directory.join("file")).unwrap(), b"content");
    let left: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    // Only what was asked for comes, and nothing that is not a file.
    let words = ["exec", "box", "sh", "-c", "mkdir /odd && mkfifo /odd/pipe"];
    tokio::task::block_in_place(|| order_with(&stand, &words, b""));
    let odd = order(&stand, &format!("cp box:/odd {}/odd", directory.display()));
    assert!(
        odd.code == 1 && odd.told.contains("pipe is a device"),
        "{odd:?}"
    );
    let wrong = order(&stand, "cp /a /b");
    assert!(
        wrong.code == 1 && wrong.told.contains("in a container"),
        "{wrong:?}"
    );

    assert!(
        shows(&stand, "volume ls")
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("data")
    );
    let used = order(&stand, "volume rm -f data");
    assert!(used.code == 1 && used.told.contains("409"), "{used:?}");
    let set = tokio::task::block_in_place(|| {
        order_with(&stand, &["secret", "set", "pw"], b"very secret")
    });
    assert_eq!((set.code, &*set.out), (0, "pw\n"), "{set:?}");
    assert!(
        shows(&stand, "secret ls")
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("pw")
    );
    assert_eq!(shows(&stand, "secret rm pw"), "pw\n");
    assert!(offered(&stand, "chas-node-agent expl").contains("explain"));
    assert!(offered(&stand, "chas-node-agent explain b").contains("box"));
    assert!(offered(&stand, "chas-node-agent volume rm d").contains("data"));
    let stand = gone_agent(stand).await;
    assert_eq!(offered(&stand, "chas-node-agent explain nobody"), "");
    stand.end().await;
}

/// Words that a shell is offered for the last one of a line.
fn offered(stand: &Stand, line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    let output = Command::new("timeout")
        .args(["100", PROGRAM, "--"])
        .args(&words)
        .env_clear()
        .envs(stand.agent.environment())
        .env("PATH", "/usr/bin:/bin")
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is told where no agent answers; it is back afterwards.
async fn gone_agent(mut stand: Stand) -> Stand {
    stand.agent.kill_9();
    let gone = order(&stand, "ps");
    assert!(
        gone.code == 2 && gone.told.contains("systemctl status"),
        "{gone:?}"
    );
    assert_eq!(order(&stand, "exec box true").code, 125);
    stand.agent.start_again().await;
    stand
}
