//! A node without containers: the agent's own link and client, with a store that is a variable.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chas_node_agent::chas::client::{Client, Fault, Polled};
use chas_node_agent::chas::credentials::{Credentials, Tokens, Transport};
use chas_node_agent::chas::wire::{
    Acknowledgement, Capacity, Content, Registration, Report, Resources, Speaks, Vitals, Welcome,
};
use chas_node_agent::chas::{Asking, Calls, Contact, Link, Node, Settings};
use chas_node_agent::config::{Chas, Secret};
use chas_node_agent::metrics::Metrics;
use state::desired::marks;
use state::ownership::{ChasSet, SetOutcome};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::JOIN_TOKEN;
use crate::tally::{Call, Tally};

struct Bare {
    number: usize,
    asking: Mutex<Asking>,
    changes: watch::Sender<u64>,
    contact: Arc<Contact>,
    begun: Instant,
    cluster_size: u64,
    tally: Arc<Tally>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bare {
    fn uuid(&self) -> String {
        format!("{:032x}", self.number + 1)
    }
}

impl Node for Bare {
    fn registration(&self) -> Registration {
        let name = name(self.number);
        Registration {
            node_id: name.clone(),
            hostname: name,
            ip_address: Some([10, 0, 0, 1].into()),
            port: 9090,
            resources: Capacity {
                cpu_cores: 4,
                memory_total: "8GB".to_owned(),
                disk_total: "100GB".to_owned(),
            },
            instance_uuid: self.uuid(),
            boot_id: self.uuid(),
            agent_version: env!("CARGO_PKG_VERSION"),
            api: Speaks::default(),
            labels: BTreeMap::new(),
        }
    }

    fn report(&self) -> Report {
        let Asking {
            generation, epoch, ..
        } = lock(&self.asking).clone();
        let resources = Resources {
            cpu_usage: 12.3,
            memory_usage: 45.6,
            disk_available: "50GB".to_owned(),
            container_count: 0,
        };
        let content = Content {
            status: "healthy",
            boot_id: self.uuid(),
            instance_uuid: self.uuid(),
            observed_generation: generation,
            observed_epoch: epoch,
            applied_generation: generation,
            converged: true,
            ..Content::default()
        };
        let vitals = Vitals {
            seq: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            resources,
            uptime: 86400 + self.begun.elapsed().as_secs(),
            load_average: [0.12, 0.34, 0.56],
            desired: self.contact.standing().freshness,
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

    fn asking(&self) -> Asking {
        lock(&self.asking).clone()
    }

    fn pull(&self, set: ChasSet) -> impl Future<Output = Result<SetOutcome, String>> + Send {
        let mut asking = lock(&self.asking);
        let stale = asking.generation >= Some(set.generation);
        if !stale {
            (asking.generation, asking.epoch, asking.etag) =
                (Some(set.generation), Some(set.epoch), set.etag);
            self.tally.has(set.generation);
            self.changes.send_modify(|count| *count += 1);
        }
        ready(Ok(SetOutcome {
            stale,
            ..SetOutcome::default()
        }))
    }

    fn acknowledged(&self, _: u64) -> impl Future<Output = ()> + Send {
        self.tally.answered(self.number, Instant::now());
        ready(())
    }

    fn link(&self) -> marks::NodeIdentity {
        // It met CHaS before it was booted.
        marks::NodeIdentity {
            cluster_size: self.cluster_size,
            ..marks::NodeIdentity::default()
        }
    }

    fn met(&self, _: Option<u64>) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// The agent's client, counted: what did not reach the server is no call.
struct Counted {
    client: Client,
    tally: Arc<Tally>,
}

impl Counted {
    fn count<T>(&self, call: Call, at: Instant, result: &Result<T, Fault>) {
        if result
            .as_ref()
            .err()
            .is_none_or(|fault| !fault.kind.is_silence())
        {
            self.tally.called(call, at);
        }
    }
}

impl Calls for Counted {
    async fn register(&self, registration: &Registration) -> Result<Welcome, Fault> {
        let at = Instant::now();
        let result = self.client.register(registration).await;
        self.count(Call::Register, at, &result);
        result
    }

    async fn report(&self, report: &Report, whole: bool) -> Result<Acknowledgement, Fault> {
        let at = Instant::now();
        let result = self.client.report(report, whole).await;
        self.count(Call::Report, at, &result);
        result
    }

    async fn poll(
        &self,
        etag: Option<&str>,
        requested_at_seq: u64,
        hold: Duration,
    ) -> Result<Polled, Fault> {
        let at = Instant::now();
        let result = self.client.poll(etag, requested_at_seq, hold).await;
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

/// Starts all nodes' links. They share the HTTP client, as they share the process: its connections are theirs.
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
        .context("the server's own address")?;
    let token = Some(Secret::new(JOIN_TOKEN));
    let chas = Chas {
        url,
        token,
        token_file: None,
        ca_file: None,
        identity: None,
    };
    let transport = Arc::new(Transport::new(&chas));
    for number in 0..nodes {
        let credentials = Credentials {
            transport: Arc::clone(&transport),
            tokens: Arc::new(Tokens::new(&chas, None)),
        };
        let client = Client::new(chas.url.clone(), name(number), credentials);
        let contact = Arc::new(Contact::default());
        let node = Arc::new(Bare {
            number,
            asking: Mutex::new(Asking {
                whole: true,
                ..Asking::default()
            }),
            changes: watch::Sender::new(0),
            contact: Arc::clone(&contact),
            begun: Instant::now(),
            cluster_size: nodes as u64,
            tally: Arc::clone(tally),
        });
        let settings = Settings {
            boot_id: node.uuid(),
            health_interval,
        };
        let counted = Counted {
            client,
            tally: Arc::clone(tally),
        };
        tracker
            .spawn(Link::new(node, counted, settings, contact, Metrics::new()).run(stop.clone()));
    }
    Ok(())
}
