//! Programs from start to end, on an engine whose container is this host.

use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::process::{Pid, Signal, kill_process_group};
use state::event::EventKind;
use state::id::ContainerId;
use state::reason::Reason;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::*;
use crate::lock::lock;
use crate::metrics::Metrics;

const SOON: Duration = Duration::from_secs(20);

/// Number of a program on this host, and the program.
type HostProgram = (u32, Arc<tokio::sync::Mutex<Child>>);

/// Engine that runs programs as processes of this host, each in a group of its own.
#[derive(Debug, Default)]
pub(crate) struct HostEngine {
    running: Mutex<BTreeMap<ExecName, HostProgram>>,
    /// Names of those that were cleared.
    pub(crate) cleared: Mutex<Vec<ExecName>>,
    /// Sizes that terminals were given.
    pub(crate) sizes: Mutex<Vec<(u16, u16)>>,
}

impl HostEngine {
    /// Numbers of the programs that run.
    pub(crate) fn running(&self) -> Vec<u32> {
        lock(&self.running).values().map(|(pid, _)| *pid).collect()
    }

    fn spawn(&self, name: &ExecName, order: &ExecOrder) -> std::io::Result<ExecStreams> {
        let mut command = Command::new(&order.command[0]);
        command.args(&order.command[1..]).envs(&order.environment);
        let stdin = if order.input {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command.stdin(stdin).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).process_group(0).spawn()?;
        let streams = ExecStreams {
            stdin: child.stdin.take().map(|pipe| Box::new(pipe) as _),
            stdout: Box::new(child.stdout.take().unwrap()),
            stderr: child.stderr.take().map(|pipe| Box::new(pipe) as _),
        };
        let pid = child.id().unwrap();
        let child = Arc::new(tokio::sync::Mutex::new(child));
        lock(&self.running).insert(name.clone(), (pid, child));
        Ok(streams)
    }
}

impl ExecEngine for HostEngine {
    fn start<'a>(
        &'a self,
        name: &'a ExecName,
        order: &'a ExecOrder,
    ) -> BoxFuture<'a, Result<ExecStreams, ExecRefusal>> {
        Box::pin(async move {
            self.spawn(name, order).map_err(|error| {
                let failure = Failure::new(Reason::CommandNotFound, error.to_string());
                ExecRefusal::Failed(failure)
            })
        })
    }

    fn ended<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ExecEnd> {
        use std::os::unix::process::ExitStatusExt as _;
        Box::pin(async move {
            let child = lock(&self.running).get(name).unwrap().1.clone();
            let status = child.lock().await.wait().await.unwrap();
            let signal = status.signal().map_or(0, |signal| 128 + signal);
            ExecEnd::Exited(status.code().unwrap_or(signal).try_into().unwrap())
        })
    }

    fn resize<'a>(&'a self, _: &'a ExecName, size: (u16, u16)) -> BoxFuture<'a, ()> {
        lock(&self.sizes).push(size);
        Box::pin(std::future::ready(()))
    }

    fn end_input<'a>(&'a self, _: &'a ExecName) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn kill<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()> {
        let group = lock(&self.running).get(name).map(|(pid, _)| *pid);
        let group = group.and_then(|pid| Pid::from_raw(pid.try_into().unwrap()));
        let _it_may_have_ended = group.map(|group| kill_process_group(group, Signal::KILL));
        Box::pin(std::future::ready(()))
    }

    fn clear<'a>(&'a self, name: &'a ExecName) -> BoxFuture<'a, ()> {
        lock(&self.running).remove(name);
        lock(&self.cleared).push(name.clone());
        Box::pin(std::future::ready(()))
    }
}

struct Bed {
    engine: Arc<HostEngine>,
    room: ExecRoom,
    journal: Journal,
    stop: CancellationToken,
}

impl Bed {
    fn new() -> Self {
        let engine = Arc::new(HostEngine::default());
        let (journal, stop) = (Journal::new(Metrics::new()), CancellationToken::new());
        let tracker = TaskTracker::new();
        let room = ExecRoom::new(
            Arc::clone(&engine) as _,
            journal.clone(),
            tracker,
            stop.clone(),
        );
        Self {
            engine,
            room,
            journal,
            stop,
        }
    }

    async fn begin(&self, script: &str, input: bool) -> ExecSession {
        self.room.begin(call(script, input)).await.unwrap()
    }

    /// Words for the programs that have ended.
    fn results(&self) -> Vec<&'static str> {
        let entries = self.journal.after(0).into_iter();
        let results = entries.filter_map(|entry| {
            let EventKind::ExecEnded { result, .. } = entry.event.kind else {
                return None;
            };
            Some(result)
        });
        results.collect()
    }

    /// Waits until nothing is left of so many programs.
    async fn until_cleared(&self, count: usize) {
        let cleared = async {
            while lock(&self.engine.cleared).len() < count || self.results().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, cleared).await.unwrap();
        assert!(self.engine.running().is_empty());
    }
}

/// A room of its own on an engine.
pub(crate) fn room(engine: &Arc<HostEngine>) -> ExecRoom {
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let journal = Journal::new(Metrics::new());
    ExecRoom::new(Arc::clone(engine) as _, journal, tracker, stop)
}

pub(crate) fn call(script: &str, input: bool) -> ExecCall {
    let id = ContainerId::from_bits(0xabc);
    ExecCall {
        instance: InstanceName { id, generation: 1 },
        subject: EventSubject::new(id, None),
        by: "token".to_owned(),
        is_local: false,
        is_probe: false,
        order: ExecOrder {
            command: ["sh", "-c", script].map(str::to_owned).into(),
            input,
            ..ExecOrder::default()
        },
    }
}

/// All that it prints, and its end.
async fn to_its_end(mut session: ExecSession) -> (String, String, ExecEnd) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(piece) = session.output.recv().await {
        match piece {
            ExecOutput::Stdout(bytes) => stdout.extend(bytes),
            ExecOutput::Stderr(bytes) => stderr.extend(bytes),
        }
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr), session.end().await)
}

#[tokio::test]
async fn a_program_prints_and_ends_with_its_code_and_the_journal_tells() {
    let bed = Bed::new();
    let session = bed.begin("echo out; echo err >&2; exit 3", false).await;
    let (stdout, stderr, end) = to_its_end(session).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(end, ExecEnd::Exited(3));
    bed.until_cleared(1).await;
    assert_eq!(bed.results(), ["failed"]);
    let last = bed.journal.after(0).pop().unwrap().event.message.unwrap();
    assert!(
        last.contains("exit code 3") && last.ends_with("sh with 2 arguments"),
        "{last}"
    );
}

#[tokio::test]
async fn input_comes_whole_and_its_end_is_seen() {
    let bed = Bed::new();
    let session = bed.begin("cat; echo over", true).await;
    for n in 0..40 {
        let piece = Bytes::from(vec![b'a' + n % 26; 8 << 10]);
        session.input.send(ExecInput::Bytes(piece)).await.unwrap();
        if n == 8 {
            // More than fits: somebody has to take what comes back.
            break;
        }
    }
    session.input.send(ExecInput::End).await.unwrap();
    let (stdout, _, end) = to_its_end(session).await;
    assert_eq!(stdout.len(), (9 << 13) + "over\n".len());
    assert_eq!(end, ExecEnd::Exited(0));
}

#[tokio::test]
async fn whoever_goes_ends_the_program_and_what_it_started() {
    let bed = Bed::new();
    let session = bed.begin("sleep 1000 & sleep 1000", false).await;
    let [group] = bed.engine.running()[..] else {
        panic!("one runs")
    };
    drop(session);
    bed.until_cleared(1).await;
    let group = Pid::from_raw(group.try_into().unwrap()).unwrap();
    let is_gone = async {
        while rustix::process::test_kill_process_group(group).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, is_gone).await.unwrap();
    assert_eq!(bed.results(), ["cut"]);
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let bed = Bed::new();
    let began = Instant::now();
    let session = bed.begin("sleep 1000 & echo left", false).await;
    let (stdout, _, end) = to_its_end(session).await;
    assert_eq!((stdout.as_str(), end), ("left\n", ExecEnd::Exited(0)));
    // Beyond its reach, it holds the streams open, and nobody waits for it.
    let session = bed.begin("setsid sleep 3 & echo left", false).await;
    let (stdout, _, end) = to_its_end(session).await;
    assert_eq!((stdout.as_str(), end), ("left\n", ExecEnd::Exited(0)));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_prints_on_beyond_a_program_s_session_does_not_hold_its_end_up() {
    let bed = Bed::new();
    for chat in ["while :; do echo x; sleep 0.3; done", "yes"] {
        let script = format!("setsid timeout 20 sh -c '{chat}' & exit 7");
        let began = Instant::now();
        let session = bed.begin(&script, false).await;
        let (_, _, end) = to_its_end(session).await;
        assert_eq!(end, ExecEnd::Exited(7));
        assert!(began.elapsed() < Duration::from_secs(15), "{chat}");
    }
}

#[tokio::test]
async fn the_end_is_told_although_the_output_was_never_taken() {
    let bed = Bed::new();
    let session = bed.begin("head -c 200000 /dev/zero; exit 3", false).await;
    let end = timeout(SOON, session.end()).await.unwrap();
    assert_eq!(end, ExecEnd::Exited(3));
}

#[tokio::test]
async fn a_program_whose_output_nobody_takes_waits_and_ends_with_its_caller() {
    let bed = Bed::new();
    let mut session = bed.begin("yes", false).await;
    assert!(session.output.recv().await.is_some());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(session.output.len() <= PIECES_MAX);
    let cut = session.cut();
    let end = timeout(SOON, cut.end()).await.unwrap();
    assert_eq!(end, ExecEnd::Cut);
    bed.until_cleared(1).await;
}

#[tokio::test]
async fn the_agent_s_stop_ends_programs_and_begins_none() {
    let bed = Bed::new();
    let session = bed.begin("echo here; sleep 1000", false).await;
    bed.stop.cancel();
    let (_, _, end) = timeout(SOON, to_its_end(session)).await.unwrap();
    assert_eq!(end, ExecEnd::AgentStopped);
    bed.until_cleared(1).await;
    bed.room.tracker().close();
    timeout(SOON, bed.room.tracker().wait()).await.unwrap();
    let refused = bed.room.begin(call("true", false)).await;
    assert!(matches!(refused, Err(ExecRefusal::Unavailable(_))));
}

#[tokio::test]
async fn whoever_goes_while_it_is_started_ends_it_as_well() {
    let bed = Bed::new();
    // Asked once, and given up: its task goes on alone.
    let begun = bed.room.begin(call("sleep 1000", false)).now_or_never();
    assert!(begun.is_none());
    bed.room.tracker().close();
    timeout(SOON, bed.room.tracker().wait()).await.unwrap();
    assert!(bed.engine.running().is_empty());
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_refused_and_takes_no_place() {
    let bed = Bed::new();
    for _ in 0..100 {
        let mut nope = call("", false);
        nope.order.command = vec!["/nope".to_owned()];
        let refused = bed.room.begin(nope).await;
        let Err(ExecRefusal::Failed(failure)) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(failure.reason, Reason::CommandNotFound);
    }
    assert!(bed.results().is_empty());
}

#[test]
fn a_command_is_told_in_its_words_and_cut_where_it_is_long() {
    let told = |words: &[&str]| {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        ExecOrder {
            command,
            ..ExecOrder::default()
        }
        .told()
    };
    assert_eq!(told(&["sh", "-c", "a\nb"]), ["sh", "-c", "a\\nb"]);
    let long = "x".repeat(5000);
    let cut = told(&["sh", &long, "more", "words"]);
    assert_eq!((cut.len(), cut[2].as_str()), (3, "…"));
    assert!(cut[1].chars().count() <= COMMAND_CHARS_MAX);
}
