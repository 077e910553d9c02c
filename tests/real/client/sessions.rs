//! `run` with `-i` or `-t`: a new container whose program has the caller's input and terminal, and which
//! ends with it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::terminal::Person;
use super::{order, order_with};
use crate::doors::over_tcp;
use crate::harness::agent::PROGRAM;
use crate::harness::image::Image;
use crate::harness::{Testbed, run};
use crate::rights::stand_with;
use crate::stand::{Stand, eventually};
use crate::upgrade::previous;

/// A program that is all that there is of its image.
const ALONE: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(int words, char **word) {
    char line[100];
    printf("%s at %d with %s, pid %s\n", word[0], isatty(0), words > 1 ? word[1] : "none",
        getpid() == 1 ? "1" : "other");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 9;
    printf("read %s", line);
    return 3;
}
"#;

async fn is_gone(stand: &Stand, name: &str) -> bool {
    stand.agent.get(&format!("/containers/{name}")).await.0 == 404
}

/// Waits until a container has ended with this exit code.
async fn ends(stand: &Stand, name: &str, exit_code: i32) {
    let path = format!("/containers/{name}");
    eventually("it has ended", async || {
        let (_, shown) = stand.agent.get(&path).await;
        shown["exit_code"] == exit_code && shown["status"] != "running"
    })
    .await;
}

fn piped(stand: &Stand, words: &[&str], input: &[u8]) -> super::Ended {
    tokio::task::block_in_place(|| order_with(stand, words, input))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_in_a_new_container_is_at_the_caller_s_terminal_and_nothing_is_left_of_it() {
    let stand = Stand::new().await;
    let line = format!(
        "run -it --rm --name mine -e A=b -m 64m -u 1000:1000 -w /tmp {} sh",
        stand.image("box:1")
    );
    let mut person = Person::begin(&stand, &line);
    person.sees("$").await;
    person.types("stty size; id -u; pwd; echo $A-$TERM\n");
    for shown in ["30 100", "1000", "/tmp", "b-xterm"] {
        person.sees(shown).await;
    }
    person.types("echo begun-$((1+0)); sleep 1000; echo slept-$((1+1))\n");
    person.sees("begun-1").await;
    // The key of SIGINT goes to the program, once.
    person.types("\u{3}");
    person.types("trap 'echo caught-$((1+1))' INT; kill -INT $$; echo alive-$((2+1))\n");
    person.sees("alive-3").await;
    person.sees("caught-2").await;
    assert!(!person.shown().contains("slept-2"));
    // A full-screen program of the same terminal.
    person.types("vi /tmp/file\n");
    person.sees("\u{1b}[").await;
    person.types("iwritten");
    person.sees("written").await;
    // Keys that come with it would make another key of it.
    person.types("\u{1b}");
    person.sees("- /tmp/file [Modified]").await;
    person.types(":wq\n");
    person.sees("\u{1b}[?1049l").await;
    person.types("cat /tmp/file\n");
    person.sees("written\r\n").await;
    person.types("exit 7\n");
    assert_eq!(person.ends(), Some(7), "{}", person.shown());
    assert!(is_gone(&stand, "mine").await);

    // What the image says is run where nothing else is, and the container stays as one that has ended.
    let image = Image::busybox()
        .config("Entrypoint", json!(["sh", "-c"]))
        .config("Cmd", json!(["tty; echo own-$((1+1)); sleep 1; exit 5"]));
    image.push(&stand.registry, "own:1").await;
    let line = format!("run -it --name own {}", stand.image("own:1"));
    let mut person = Person::begin(&stand, &line);
    person.sees("own-2").await;
    person.sees("/dev/pts/").await;
    assert_eq!(person.ends(), Some(5), "{}", person.shown());
    ends(&stand, "own", 5).await;
    let listed = order(&stand, "ps").out;
    assert!(listed.contains("Failed: Exited"), "{listed}");
    assert_eq!(order(&stand, "wait own").out, "5\n");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_no_terminal_goes_to_the_program_and_its_end_too() {
    let stand = Stand::new().await;
    let image = stand.image("box:1");
    let words = ["run", "-i", "--rm", "--name", "piped", &image, "sh"];
    let ran = piped(&stand, &words, b"echo hi; echo bad >&2; exit 4\n");
    assert_eq!(
        (ran.code, &*ran.out, &*ran.told),
        (4, "hi\n", "bad\n"),
        "{ran:?}"
    );
    assert!(is_gone(&stand, "piped").await);
    // All of a large output comes, to one who is slow too.
    let words = "run -i --rm --name large";
    let script =
        format!("head -c 3000000 /dev/zero | {PROGRAM} {words} {image} cat | (sleep 2; wc -c)");
    let mut shell = Command::new("timeout");
    shell.args(["100", "sh", "-c", &script]).env_clear();
    shell
        .envs(stand.agent.environment())
        .env("PATH", "/usr/bin:/bin");
    let output = tokio::task::block_in_place(|| shell.output()).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3000000\n");
    // A terminal without an input, and none to be had.
    let words = ["run", "-t", "--rm", &image, "tty"];
    let ran = piped(&stand, &words, b"");
    assert_eq!((ran.code, &*ran.out), (0, "/dev/pts/0\r\n"), "{ran:?}");
    let words = ["run", "-it", "--rm", "--name", "none", &image, "tty"];
    let ran = piped(&stand, &words, b"");
    assert!(
        ran.code == 125 && ran.told.contains("leave out --tty"),
        "{ran:?}"
    );
    let ran = order(&stand, &format!("run -dit --name none {image} sh"));
    assert!(ran.code == 64 && ran.told.contains("--detach"), "{ran:?}");
    assert!(is_gone(&stand, "none").await, "nothing was made");
    // One whose program is not there says so, and so does one whose image is not.
    let ran = order(&stand, &format!("run -i --rm --name absent {image} nope"));
    assert!(
        ran.code != 0 && ran.told.contains("CommandNotFound"),
        "{ran:?}"
    );
    assert!(is_gone(&stand, "absent").await);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_pipe_of_the_first_process_open_keeps_no_container() {
    let stand = Stand::new().await;
    let image = stand.image("box:1");
    let script =
        "setsid sh -c 'exec 9>/proc/1/fd/0; echo open; exec sleep 99999' & sleep 1; exit 5\n";
    let words = ["run", "-i", "--name", "kept", &image, "sh"];
    let ran = piped(&stand, &words, script.as_bytes());
    assert_eq!((ran.code, &*ran.out), (5, "open\n"), "{ran:?}");
    ends(&stand, "kept", 5).await;
    stand.agent.delete_and_wait("kept").await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_static_program_is_run_by_its_caller() {
    let stand = Stand::new().await;
    let directory = tempfile::tempdir().unwrap();
    let [source, program] = ["alone.c", "alone"].map(|name| directory.path().join(name));
    std::fs::write(&source, ALONE).unwrap();
    let (source, built) = (source.to_str().unwrap(), program.to_str().unwrap());
    run("cc", ["-static", "-O1", "-o", built, source]).unwrap();
    Image::busybox()
        .empty()
        .program("/alone", &std::fs::read(&program).unwrap())
        .config("Entrypoint", json!(["/alone"]))
        .config("Cmd", json!(null))
        .config("User", json!("65532:65532"))
        .push(&stand.registry, "alone:1")
        .await;
    let image = stand.image("alone:1");
    let ran = piped(&stand, &["run", "-i", "--rm", &image, "word"], b"line\n");
    let expected = "/alone at 0 with word, pid other\nread line\n";
    assert_eq!((ran.code, &*ran.out), (3, expected), "{ran:?}");
    let mut person = Person::begin(&stand, &format!("run -it --rm --name alone {image}"));
    person.sees("/alone at 1 with none").await;
    person.types("typed\n");
    person.sees("read typed").await;
    assert_eq!(person.ends(), Some(3), "{}", person.shown());
    assert!(is_gone(&stand, "alone").await);
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_ends_with_its_caller_and_one_that_nobody_comes_for_ends_too() {
    let stand = Stand::new().await;
    let image = stand.image("box:1");
    let script = "trap '' HUP INT TERM; echo begun; while :; do sleep 1; done";
    let begin = |name: &str| {
        let mut child = Command::new(PROGRAM)
            .args([
                "run", "-i", "--rm", "--name", name, &image, "sh", "-c", script,
            ])
            .env_clear()
            .envs(stand.agent.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0; 6];
        let printed = child.stdout.as_mut().unwrap();
        std::io::Read::read_exact(printed, &mut begun).unwrap();
        child
    };
    // One that was killed leaves a container that has ended, for everybody to see.
    let mut child = tokio::task::block_in_place(|| begin("killed"));
    let second = "GET /containers/killed/exec?stdin=true HTTP/1.1\r\nHost: localhost\r\n";
    let token = &stand.agent.environment()["CHAS_TOKEN"];
    let request = format!(
        "{second}Authorization: Bearer {token}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let answer = over_tcp(&stand.agent, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    assert!(answer.contains("runs already"), "{answer}");
    child.kill().unwrap();
    child.wait().unwrap();
    ends(&stand, "killed", 137).await;
    assert!(order(&stand, "ps").out.contains("killed"));
    let log = order(&stand, "logs killed");
    assert!(log.out.contains("the session was cut"), "{log:?}");
    assert_eq!(order(&stand, "rm killed").code, 0);
    // One that is asked to end takes it away.
    for signal in ["TERM", "INT", "HUP"] {
        let mut child = tokio::task::block_in_place(|| begin("asked"));
        run("kill", [&format!("-{signal}"), &child.id().to_string()]).unwrap();
        let status = tokio::task::block_in_place(|| child.wait()).unwrap();
        assert!(status.code() > Some(128), "{status}");
        assert!(is_gone(&stand, "asked").await, "{signal}");
    }
    // Somebody else stops it: at once, though its program would not end.
    let child = tokio::task::block_in_place(|| begin("stopped"));
    let before = std::time::SystemTime::now();
    assert_eq!(order(&stand, "stop stopped").code, 0);
    assert!(before.elapsed().unwrap() < Duration::from_secs(8));
    let ended = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
    assert_eq!(ended.status.code(), Some(143));
    eventually("it is removed", async || is_gone(&stand, "stopped").await).await;
    // Nobody comes.
    let body = json!({"name": "alone", "image": image, "interactive": true,
        "restart": {"policy": "never"}});
    stand.agent.deploy_and_wait(&body).await;
    tokio::time::sleep(Duration::from_secs(58)).await;
    ends(&stand, "alone", 124).await;
    let log = stand.agent.logs("alone", "tail=all").await;
    assert!(log.contains("nobody came within 60 s"), "{log}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_restarted_ends_the_session_and_the_container() {
    let mut stand = Stand::new().await;
    let image = stand.image("box:1");
    for (name, is_killed) in [("ended", false), ("killed", true)] {
        let line = format!("run -it --rm --name {name} {image} sh");
        let mut person = Person::begin(&stand, &line);
        person.sees("#").await;
        person.types("echo alive-$((2+1))\n");
        person.sees("alive-3").await;
        match is_killed {
            true => stand.agent.kill_9(),
            false => stand.agent.terminate(),
        }
        stand.agent.start_again().await;
        let code = tokio::task::block_in_place(|| person.ends());
        assert!(code == Some(125) || code == Some(137), "{}", person.shown());
        eventually("it is removed", async || is_gone(&stand, name).await).await;
    }
    // Without --rm it is there, and has ended.
    let line = format!("run -it --name stays {image} sh");
    let mut person = Person::begin(&stand, &line);
    person.sees("#").await;
    stand.agent.kill_9();
    stand.agent.start_again().await;
    tokio::task::block_in_place(|| person.ends());
    ends(&stand, "stays", 137).await;
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_run_nothing_in_containers_hears_it_before_one_is_made() {
    let create = ["create", "ci", "--role", "deploy"];
    let runs = ["create", "dev", "--role", "exec"];
    let (stand, _, made) = stand_with(&[&create, &runs]).await;
    let (image, host) = (
        stand.image("box:1"),
        format!("http://{}", stand.agent.address()),
    );
    let way = ["run", "--host", &host, "--insecure", "--token-file"];
    let with = |token: &str, more: &[&str]| {
        let file = stand.bed.dir.join("token");
        let mut opened = std::fs::File::create(&file).unwrap();
        opened.write_all(token.as_bytes()).unwrap();
        run("chmod", ["600", file.to_str().unwrap()]).unwrap();
        let words = [&way[..], &[file.to_str().unwrap()], more].concat();
        piped(&stand, &words, b"echo hi\n")
    };
    let line = ["-i", "--rm", "--name", "mine", &image, "sh"];
    let refused = with(&made[0], &line);
    assert_eq!(refused.code, 125, "{refused:?}");
    for said in ["the role exec", "deploy", "nothing was made"] {
        assert!(refused.told.contains(said), "{refused:?}");
    }
    assert!(is_gone(&stand, "mine").await);
    let events = order(&stand, "events --no-follow --since 0").out;
    assert!(!events.contains("mine"), "{events}");
    let ran = with(&made[1], &line);
    assert_eq!((ran.code, &*ran.out), (0, "hi\n"), "{ran:?}");
    stand.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_knows_no_sessions_refuses_and_the_client_says_why() {
    let bed = Testbed::new();
    let program = bed.dir.join("chas-node-agent");
    std::fs::copy(previous::program(), &program).unwrap();
    let stand = Stand::of(bed, &program, &[]).await;
    let host = format!("http://{}", stand.agent.address());
    let line = format!(
        "run --host {host} --insecure -i --name mine {} sh",
        stand.image("box:1")
    );
    let refused = order(&stand, &line);
    assert!(
        refused.code == 125 && refused.told.contains("of an older version"),
        "{refused:?}"
    );
    assert!(is_gone(&stand, "mine").await);
    stand.end().await;
}
