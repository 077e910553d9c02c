//! A node without containers: the agent's own link and client, with the last set in a variable as
//! its store.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chas_node_agent::chas::client::{ChasClient, ChasError, PollReply};
use chas_node_agent::chas::credentials::{ChasCredentials, Tokens, Transport};
use chas_node_agent::chas::wire::{
    CapacityReport, NodeCapacity, RegisterReply, Registration, Report, ReportContent, ReportReply,
    ResourceUsage, SupportedSchemas, Vitals,
};
use chas_node_agent::chas::{ChasCalls, ChasLink, LastApplied, LinkNode, LinkSettings, LinkState};
use chas_node_agent::config::{ChasSection, Secret};
use chas_node_agent::journal::Journal;
use chas_node_agent::metrics::Metrics;
use state::desired::marks;
use state::ownership::{ChasSet, SetOutcome};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::JOIN_TOKEN;
use crate::tally::{Call, Tally};

struct FleetNode {
    number: usize,
    last_applied: Mutex<LastApplied>,
    changes: watch::Sender<u64>,
    state: Arc<LinkState>,
    begun: Instant,
    cluster_size: u64,
    tally: Arc<Tally>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FleetNode {
    fn uuid(&self) -> String {
        format!("{:032x}", self.number + 1)
    }
}

impl LinkNode for FleetNode {
    fn registration(&self) -> Registration {
        let name = name(self.number);
        Registration {
            node_id: name.clone(),
            hostname: name,
            ip_address: Some([10, 0, 0, 1].into()),
            port: 9090,
            resources: NodeCapacity {
                cpu_cores: 4,
                memory_total: "8GB".to_owned(),
                disk_total: "100GB".to_owned(),
            },
            capacity: CapacityReport::default(),
            instance_uuid: self.uuid(),
            boot_id: self.uuid(),
            agent_version: env!("CARGO_PKG_VERSION"),
            api: SupportedSchemas::default(),
            labels: BTreeMap::new(),
        }
    }

    fn report(&self) -> Report {
        let LastApplied {
            generation, epoch, ..
        } = lock(&self.last_applied).clone();
        let resources = ResourceUsage {
            cpu_usage: 12.3,
            memory_usage: 45.6,
            disk_available: "50GB".to_owned(),
            container_count: 0,
        };
        let content = ReportContent {
            status: "healthy",
            boot_id: self.uuid(),
            instance_uuid: self.uuid(),
            observed_generation: generation,
            observed_epoch: epoch,
            applied_generation: generation,
            converged: true,
            ..ReportContent::default()
        };
        let vitals = Vitals {
            seq: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            resources,
            uptime: 86400 + self.begun.elapsed().as_secs(),
            load_average: [0.12, 0.34, 0.56],
            desired: self.state.status().freshness,
        };
        Report {
            vitals,
            content,
            up_to_seq: 0,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn last_applied(&self) -> LastApplied {
        lock(&self.last_applied).clone()
    }

    fn apply_set(&self, set: ChasSet) -> impl Future<Output = Result<SetOutcome, String>> + Send {
        let mut last_applied = lock(&self.last_applied);
        let stale = last_applied.generation >= Some(set.generation);
        if !stale {
            (
                last_applied.generation,
                last_applied.epoch,
                last_applied.etag,
            ) = (Some(set.generation), Some(set.epoch), set.etag);
            self.tally.has(set.generation);
            self.changes.send_modify(|count| *count += 1);
        }
        ready(Ok(SetOutcome {
            stale,
            ..SetOutcome::default()
        }))
    }

    fn report_acknowledged(&self, _: u64) -> impl Future<Output = ()> + Send {
        self.tally.answered(self.number, Instant::now());
        ready(())
    }

    fn identity(&self) -> marks::NodeIdentity {
        // The node registered in an earlier boot.
        marks::NodeIdentity {
            cluster_size: self.cluster_size,
            ..marks::NodeIdentity::default()
        }
    }

    fn registered(&self, _: Option<u64>) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// The agent's client, which counts calls that reached the server.
struct CountedClient {
    client: ChasClient,
    tally: Arc<Tally>,
}

impl CountedClient {
    fn count<T>(&self, call: Call, at: Instant, result: &Result<T, ChasError>) {
        if result
            .as_ref()
            .err()
            .is_none_or(|error| !error.kind.is_unreachable())
        {
            self.tally.called(call, at);
        }
    }
}

impl ChasCalls for CountedClient {
    async fn register(&self, registration: &Registration) -> Result<RegisterReply, ChasError> {
        let at = Instant::now();
        let result = self.client.register(registration).await;
        self.count(Call::Register, at, &result);
        result
    }

    async fn report(&self, report: &Report, is_full: bool) -> Result<ReportReply, ChasError> {
        let at = Instant::now();
        let result = self.client.report(report, is_full).await;
        self.count(Call::Report, at, &result);
        result
    }

    async fn poll(
        &self,
        etag: Option<&str>,
        requested_at_seq: u64,
        wait: Duration,
    ) -> Result<PollReply, ChasError> {
        let at = Instant::now();
        let result = self.client.poll(etag, requested_at_seq, wait).await;
        self.count(Call::Poll, at, &result);
        result
    }

    async fn has_other_credentials(&self, than: u64) -> bool {
        self.client.has_other_credentials(than).await
    }
}

fn name(number: usize) -> String {
    format!("worker-{number:05}")
}

/// Starts the links of all nodes, which share one HTTP client and its connections.
pub(crate) fn start_all(
    nodes: usize,
    url: &str,
    health_interval: Duration,
    tally: &Arc<Tally>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let url = format!("{url}/")
        .parse()
        .context("the URL of the server is invalid")?;
    let token = Some(Secret::new(JOIN_TOKEN));
    let chas = ChasSection {
        url,
        token,
        token_file: None,
        ca_file: None,
        identity: None,
        plain_http: false,
        set_key_file: None,
    };
    let transport = Arc::new(Transport::new(&chas));
    for number in 0..nodes {
        let credentials = ChasCredentials {
            transport: Arc::clone(&transport),
            tokens: Arc::new(Tokens::new(&chas, None)),
        };
        let client = ChasClient::new(chas.url.clone(), name(number), credentials);
        let state = Arc::new(LinkState::default());
        let node = Arc::new(FleetNode {
            number,
            last_applied: Mutex::new(LastApplied {
                fully_applied: true,
                ..LastApplied::default()
            }),
            changes: watch::Sender::new(0),
            state: Arc::clone(&state),
            begun: Instant::now(),
            cluster_size: nodes as u64,
            tally: Arc::clone(tally),
        });
        let settings = LinkSettings {
            boot_id: node.uuid(),
            health_interval,
        };
        let counted = CountedClient {
            client,
            tally: Arc::clone(tally),
        };
        tracker.spawn(
            ChasLink::new(node, counted, settings, state, Journal::new(Metrics::new()))
                .run(stop.clone()),
        );
    }
    Ok(())
}
