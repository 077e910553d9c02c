//! Start, work and end of the export: one task for spans, one for metrics, on which nobody waits.

use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::collector::{Collector, SendOutcome};
use super::convert::MetricConverter;
use super::queue::SpanQueue;
use super::settings::ExportSettings;
use super::signal_log::SignalLog;
use super::span::SpanDoor;
use super::wire::{
    ExportRequest, OtlpAttribute, OtlpItem, OtlpResource, OtlpScope, OtlpSpan, ResourceItems,
    ScopeItems, nanos,
};
use crate::lock::lock;

/// Time for what is left to be sent once the agent ends.
const END_MAX: Duration = Duration::from_secs(2);
/// Wait before the second try of a request; it doubles with each.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait before another try, whatever the collector asks for.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Export of this process, while it runs.
static RUNNING: Mutex<Option<RunningExport>> = Mutex::new(None);

#[derive(Debug)]
struct RunningExport {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Begins to send, if the environment names a collector. `node` is its id and its host name, `collect`
/// gives the text of all metrics, as OpenMetrics, until the agent is to stop. Variables that cannot be understood are logged, and
/// nothing is sent.
pub(crate) fn start<F, C>(
    environment: fn(&str) -> Option<OsString>,
    node: (&str, &str),
    (collect, stop): (F, &CancellationToken),
) where
    F: Fn() -> C + Send + Sync + 'static,
    C: Future<Output = String> + Send + 'static,
{
    let begun = ExportSettings::read(&environment).and_then(|settings| {
        settings
            .map(|settings| begin(&settings, node, (collect, stop)))
            .transpose()
    });
    match begun {
        Ok(running) => *lock(&RUNNING) = running,
        Err(fault) => tracing::error!(fault, "OTLP export refused; nothing is sent"),
    }
}

/// Sends what is left, for as long as that may take.
pub(crate) async fn end() {
    let running = lock(&RUNNING).take();
    if let Some(RunningExport { stop, tasks }) = running {
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(END_MAX, tasks.wait()).await.is_err() {
            tracing::warn!("OTLP export ended before all was sent");
        }
    }
}

fn begin<F, C>(
    settings: &ExportSettings,
    node: (&str, &str),
    (collect, stop): (F, &CancellationToken),
) -> Result<RunningExport, String>
where
    F: Fn() -> C + Send + Sync + 'static,
    C: Future<Output = String> + Send + 'static,
{
    let collector = |signal| Collector::new(signal, &settings.files);
    let traces = settings.traces.clone().map(collector).transpose()?;
    let metrics = settings.metrics.clone().map(collector).transpose()?;
    let sender = ExportSender {
        resource: resource(settings, node),
        stop: CancellationToken::new(),
    };
    let tasks = TaskTracker::new();
    if let Some(collector) = traces {
        tracing::info!(
            signal = "traces",
            host = collector.host(),
            "OTLP export started"
        );
        let door = Arc::new(SpanDoor {
            queue: SpanQueue::default(),
            sampler: settings.sampler,
        });
        door.open();
        let (sender, delay) = (sender.clone(), settings.span_delay);
        tasks.spawn(async move { sender.send_spans(&door.queue, &collector, delay).await });
    }
    if let Some(collector) = metrics {
        tracing::info!(
            signal = "metrics",
            host = collector.host(),
            "OTLP export started"
        );
        let (sender, when) = (sender.clone(), (settings.metric_interval, stop.clone()));
        tasks.spawn(async move { sender.send_metrics(collect, &collector, when).await });
    }
    let stop = sender.stop;
    Ok(RunningExport { stop, tasks })
}

fn resource(settings: &ExportSettings, (id, host): (&str, &str)) -> OtlpResource {
    let own = [
        ("service.name", "chas-node-agent"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", id),
        ("host.name", host),
        ("chas.node.id", id),
    ];
    let mut attributes = own
        .map(|(key, value)| OtlpAttribute::text(key, value))
        .to_vec();
    for (key, value) in &settings.resource {
        attributes.retain(|attribute| attribute.key != *key);
        attributes.push(OtlpAttribute::text(key, value));
    }
    OtlpResource { attributes }
}

#[derive(Clone, Debug)]
struct ExportSender {
    resource: OtlpResource,
    stop: CancellationToken,
}

impl ExportSender {
    async fn send_spans(&self, queue: &SpanQueue, collector: &Collector, delay: Duration) {
        let mut log = SignalLog::new("traces", collector.host());
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = queue.has_batch() => {}
                () = tokio::time::sleep(delay) => {}
                () = self.stop.cancelled() => {}
            }
            loop {
                log.lost(queue.take_lost());
                let batch = queue.take();
                if batch.is_empty() || !self.send_batch(batch, queue, collector, &mut log).await {
                    break;
                }
            }
        }
    }

    /// Sends spans until the collector has them, or refuses them, or the agent ends. Meanwhile others
    /// wait in the queue, whose bound is the bound of it all. False: there is no use in another batch.
    async fn send_batch(
        &self,
        spans: Vec<OtlpSpan>,
        queue: &SpanQueue,
        collector: &Collector,
        log: &mut SignalLog,
    ) -> bool {
        let count = u64::try_from(spans.len()).unwrap_or_default();
        let body = self.body(spans);
        let mut wait = RETRY_MIN;
        loop {
            match collector.send(body.clone()).await {
                SendOutcome::Taken { refused, fault } => {
                    log.worked();
                    log.refused(refused, &fault);
                    return true;
                }
                SendOutcome::Refused { fault } => {
                    log.failed(&fault);
                    log.lost(count);
                    return true;
                }
                SendOutcome::Failed { fault, retry_after } => {
                    log.lost(queue.take_lost());
                    log.failed(&fault);
                    if self.stop.is_cancelled() {
                        return false;
                    }
                    // Not all nodes at once.
                    let part = state::store::random() % 256;
                    let some =
                        wait.mul_f64(1.0 + f64::from(u8::try_from(part).unwrap_or(0)) / 512.0);
                    let wait_now = retry_after.unwrap_or_default().max(some).min(RETRY_MAX);
                    let slept = tokio::time::sleep(wait_now);
                    self.stop.run_until_cancelled(slept).await;
                    wait = (2 * wait).min(RETRY_MAX);
                }
            }
        }
    }

    /// Sends the metrics at each interval, and once more when the agent is to stop. Then `collect` is
    /// given up first of all: tasks that the agent waits for may end only with what it holds. A call
    /// that fails is not repeated: the next one tells more.
    async fn send_metrics<F, C>(
        &self,
        collect: F,
        collector: &Collector,
        (interval, stop): (Duration, CancellationToken),
    ) where
        F: Fn() -> C + Sync,
        C: Future<Output = String>,
    {
        let mut log = SignalLog::new("metrics", collector.host());
        let mut converter = MetricConverter::new(nanos(SystemTime::now()));
        let mut due = Instant::now();
        loop {
            due = (due + interval).max(Instant::now());
            let slept = tokio::time::sleep_until(due);
            if stop.run_until_cancelled(slept).await.is_none() {
                break;
            }
            let sending = async {
                let text = tokio::time::timeout(collector.timeout(), collect()).await;
                let text = text.ok();
                self.send_text(text, collector, (&mut converter, &mut log))
                    .await;
            };
            stop.run_until_cancelled(sending).await;
        }
        let text = tokio::time::timeout(END_MAX, collect()).await.ok();
        drop(collect);
        self.send_text(text, collector, (&mut converter, &mut log))
            .await;
    }

    async fn send_text(
        &self,
        text: Option<String>,
        collector: &Collector,
        (converter, log): (&mut MetricConverter, &mut SignalLog),
    ) {
        let Some(text) = text else {
            return log.failed("the metrics were not collected in time");
        };
        let metrics = converter.convert(&text, nanos(SystemTime::now()));
        drop(text);
        let body = self.body(metrics);
        match collector.send(body).await {
            SendOutcome::Taken { refused, fault } => {
                log.worked();
                log.refused(refused, &fault);
            }
            SendOutcome::Failed { fault, .. } | SendOutcome::Refused { fault } => {
                log.failed(&fault);
            }
        }
    }

    /// Body of a request with these items.
    fn body<I: OtlpItem>(&self, items: Vec<I>) -> Bytes {
        let scope = Some(OtlpScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let request = ExportRequest {
            resources: vec![ResourceItems {
                resource: Some(self.resource.clone()),
                scopes: vec![ScopeItems { scope, items }],
            }],
        };
        request.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests;
