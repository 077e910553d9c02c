//! The watch over one program, from its start until nothing of it is left.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use state::event::{Event, EventKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ExecCall, ExecEnd, ExecEngine, ExecInput, ExecName, ExecOutput, ExecRefusal, ExecStreams, pump,
};
use crate::journal::Journal;

/// Time in which a program that was killed has ended. One that has not hangs in the kernel, or its
/// shim does not tell.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Watch over one program.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) engine: Arc<dyn ExecEngine>,
    pub(super) journal: Journal,
    pub(super) name: ExecName,
    pub(super) call: ExecCall,
    /// Wish of its caller that it end.
    pub(super) cut: CancellationToken,
    pub(super) stop: CancellationToken,
}

impl Watch {
    /// Starts the program, tells its caller, and sees it to its end.
    pub(super) async fn run(
        self,
        begun: oneshot::Sender<Result<(), ExecRefusal>>,
        input: mpsc::Receiver<ExecInput>,
        output: mpsc::Sender<ExecOutput>,
    ) -> ExecEnd {
        if self.cut.is_cancelled() || self.stop.is_cancelled() {
            return ExecEnd::Cut;
        }
        let streams = match self.engine.start(&self.name, &self.call.order).await {
            Ok(streams) => streams,
            Err(refusal) => {
                let _whoever_called = begun.send(Err(refusal));
                // It keeps its place until nothing is left: a start that was given up may go on.
                self.engine.clear(&self.name).await;
                return ExecEnd::Cut;
            }
        };
        let began = Instant::now();
        self.tell(EventKind::ExecBegun, "runs");
        // A caller that has gone has cut it by that.
        let _told = begun.send(Ok(()));
        let end = self.carry(streams, input, output).await;
        self.engine.clear(&self.name).await;
        let ended = EventKind::ExecEnded {
            result: end.as_str(),
            took: began.elapsed(),
        };
        self.tell(ended, &format!("ran, and {end}:"));
        end
    }

    fn tell(&self, kind: EventKind, what: &str) {
        if self.call.is_probe {
            return;
        }
        let program = self.call.order.named();
        let said = format!("{} {what} {program}", self.call.by);
        let event = Event::from(kind).about(self.call.subject.clone());
        self.journal.record(event.saying(said));
    }

    /// Carries its streams until it has ended, and kills what it leaves behind.
    async fn carry(
        &self,
        streams: ExecStreams,
        input: mpsc::Receiver<ExecInput>,
        output: mpsc::Sender<ExecOutput>,
    ) -> ExecEnd {
        let ended = CancellationToken::new();
        let (stdout, stderr) = (streams.stdout, streams.stderr);
        let printing = async {
            let errors = async {
                if let Some(stderr) = stderr {
                    pump::hand_on(stderr, ExecOutput::Stderr, &output, &ended).await;
                }
            };
            let printed = pump::hand_on(stdout, ExecOutput::Stdout, &output, &ended);
            tokio::join!(printed, errors);
        };
        let feeding = pump::feed(
            &*self.engine,
            (&self.name, self.call.order.terminal),
            streams.stdin,
            input,
        );
        let ending = self.await_end();
        let (mut printing, mut ending) = (pin!(printing), pin!(ending));
        let (mut is_printed, mut is_fed) = (false, false);
        let end = {
            let mut feeding = pin!(feeding);
            loop {
                tokio::select! {
                    biased;
                    end = &mut ending => break end,
                    () = &mut printing, if !is_printed => is_printed = true,
                    () = &mut feeding, if !is_fed => is_fed = true,
                }
            }
        };
        ended.cancel();
        let rest = async {
            if !is_printed {
                printing.await;
            }
        };
        match end {
            // All that was printed is heard, as fast as its caller takes it.
            ExecEnd::Exited(_) | ExecEnd::ContainerEnded | ExecEnd::Lost(_) => {
                tokio::select! {
                    () = rest => {}
                    () = self.cut.cancelled() => {}
                    () = self.stop.cancelled() => {}
                }
            }
            ExecEnd::Cut | ExecEnd::AgentStopped => {
                // The last of what it printed, for a caller that still listens.
                let _late = tokio::time::timeout(pump::LAST_WORDS, rest).await;
            }
        }
        end
    }

    /// Waits until the program has ended, by itself or because it was to. No process of its session
    /// is left then.
    async fn await_end(&self) -> ExecEnd {
        let wanted = tokio::select! {
            biased;
            end = self.engine.ended(&self.name) => {
                self.engine.kill(&self.name).await;
                return end;
            }
            () = self.cut.cancelled() => ExecEnd::Cut,
            () = self.stop.cancelled() => ExecEnd::AgentStopped,
        };
        self.engine.kill(&self.name).await;
        let ended = tokio::time::timeout(KILLED_WITHIN, self.engine.ended(&self.name)).await;
        if ended.is_err() {
            tracing::warn!(exec = %self.name, "killed exec not ended, left to the next sweep");
        }
        // Processes that it had made just before it was killed.
        self.engine.kill(&self.name).await;
        wanted
    }
}
