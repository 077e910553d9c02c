//! The only wiring: builds every room, starts it, and stops it in order. Only this file knows everything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use state::assign::Pool;
use state::store::{Limits, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::listener::BoundedListener;
use crate::chas::credentials::{Credentials, Tokens, Transport};
use crate::chas::{Contact, Link};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::network::{Network, NetworkConfig};
use crate::node::link::{AgentLink, LinkConfig};
use crate::reconcile::{Clock, Reconciler};
use crate::runtime::containerd::client::Client;
use crate::runtime::containerd::image::Images;
use crate::runtime::containerd::registry::RegistryConfig;
use crate::runtime::containerd::{Containerd, ContainerdConfig};
use crate::writer::Writer;
use crate::{api, chas, node, notify, shutdown};

/// How long turns and requests under way may take once the agent is to stop. Whatever is cut off is found by the next
/// start's first look; systemd kills after 90 s.
const DRAIN: Duration = Duration::from_secs(15);
/// How soon the network is tried again where it could not be set up.
const NETWORK_RETRY: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop. Stops no container.
///
/// # Errors
/// What keeps it from starting: the store, the address to listen on, the host's facts.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let tracker = TaskTracker::new();
    let stop = shutdown::on_signal(&tracker).context("signals cannot be caught")?;
    let store = Arc::new(open_store(&config).await?);
    let network = Arc::new(Network::new(NetworkConfig {
        bridge: config.network.bridge.clone(),
        subnet: config.network.subnet,
        netns_dir: config.state.run_dir.join("netns"),
        files_dir: config.state.run_dir.join("files"),
    }));
    let runtime = Arc::new(containerd(&config, Arc::clone(&network))?);
    let monitor = Arc::new(Monitor::new(
        config.state.dir.clone(),
        config.network.bridge.clone(),
    )?);
    let clock = Clock::start();
    let metrics = Metrics::new();
    let writer = Writer::new(store, metrics.clone(), tracker.clone());
    let reconciler = Reconciler::new(
        Arc::clone(&runtime),
        writer.clone(),
        clock,
        config.reconcile.resync_interval,
    );
    let reconciler = reconciler.counting(metrics.clone());
    let contact = config.chas.as_ref().map(|_| Arc::new(Contact::default()));
    let (handle, logs) = (reconciler.handle(), logs_dir(&config));
    let node = Arc::new(node::AgentNode::new(
        writer.clone(),
        handle,
        Arc::clone(&monitor),
        logs,
        contact.clone(),
    ));
    let link = contact.and_then(|contact| link(&config, &node, contact, &metrics, clock.boot_id()));
    let router = api::router(
        node,
        config.api.token.clone(),
        config.monitoring.metrics_enabled.then_some(metrics),
    );
    let listener = TcpListener::bind(config.api.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.api.listen))?;
    announce(&config);

    tracker.spawn(begin(reconciler, network, stop.clone(), tracker.clone()));
    tracker.spawn(writer.keep_copies(stop.clone()));
    if let Some((link, this)) = link {
        let stop = stop.clone();
        tracker.spawn(async move {
            this.prepare().await;
            link.run(stop).await;
        });
    }
    let sampling = (
        Arc::clone(&monitor),
        config.monitoring.health_interval,
        stop.clone(),
    );
    tracker.spawn(async move { sampling.0.run(sampling.1, sampling.2).await });
    // That it has its turn among the others is the sign of life.
    tracker.spawn(notify::watchdog(|| true, stop.clone()));
    notify::ready();
    let served = serve(listener, router, stop.clone()).await;
    stop.cancel();
    notify::stopping();
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("some work did not end in time and is left to the next start");
    }
    served
}

async fn serve(
    listener: TcpListener,
    router: axum::Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let drained = stop.clone();
    let serving = axum::serve(BoundedListener::new(listener), router)
        .with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        served = async { serving.await } => served.context("the API cannot be served"),
        // Followers of logs would keep it up for ever.
        () = async { drained.cancelled().await; tokio::time::sleep(DRAIN / 3).await } => Ok(()),
    }
}

/// Sets up the network and reconciles. The network comes first, since a container cannot start without; as long as it
/// cannot be had, the reason is said and containers that run are left alone.
async fn begin(
    reconciler: Reconciler<Containerd>,
    network: Arc<Network>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    while let Err(error) = network.prepare().await {
        tracing::error!(error = %crate::runtime::RuntimeError::from(error), "the network cannot be set up; trying again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NETWORK_RETRY) => {}
        }
    }
    reconciler.run(stop, tracker).await;
}

fn announce(config: &Config) {
    tracing::info!(listen = %config.api.listen, node = %config.node.id, version = env!("CARGO_PKG_VERSION"), "serving");
    match &config.chas {
        None => tracing::info!(
            "no api.chas_url (CHAS_API_URL) is configured: nothing is pulled or reported, containers come by push only"
        ),
        Some(chas)
            if chas.url.scheme() == "http"
                && (chas.token.is_some() || chas.token_file.is_some()) =>
        {
            tracing::warn!(url = %chas.url, "the token for CHaS goes over plain HTTP: whoever is on the way can read it");
        }
        Some(_) => {}
    }
}

fn link(
    config: &Config,
    node: &Arc<node::AgentNode>,
    contact: Arc<Contact>,
    metrics: &Metrics,
    boot_id: String,
) -> Option<(Link<AgentLink>, Arc<AgentLink>)> {
    let chas = config.chas.as_ref()?;
    let host = chas.url.host_str();
    let registered = LinkConfig {
        node: config.node.clone(),
        port: config.api.listen.port(),
        chas_address: host.and_then(|host| host.trim_matches(['[', ']']).parse().ok()),
    };
    let this = Arc::new(AgentLink::new(
        Arc::clone(node),
        Arc::clone(&contact),
        registered,
    ));
    let tokens = Tokens::new(chas, Some(config.state.dir.join("token")));
    let credentials = Credentials {
        transport: Arc::new(Transport::new(chas)),
        tokens: Arc::new(tokens),
    };
    let client = chas::client::Client::new(chas.url.clone(), config.node.id.clone(), credentials);
    let settings = chas::Settings {
        boot_id,
        health_interval: config.monitoring.health_interval,
    };
    Some((
        Link::new(
            Arc::clone(&this),
            client,
            settings,
            contact,
            metrics.clone(),
        ),
        this,
    ))
}

fn logs_dir(config: &Config) -> PathBuf {
    config.state.dir.join("logs")
}

async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let mut addresses = config.network.subnet.container_addresses();
    let (first, last) = (addresses.next(), addresses.next_back());
    let first = first.context("network.subnet has no address for a container")?;
    let pool = Pool {
        addresses: first..=last.unwrap_or(first),
        ports: config.network.port_range.clone(),
    };
    let limits = Limits {
        pool,
        containers_max: usize::try_from(config.containers.max)?,
        random: state::store::random,
    };
    let directory = config.state.dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&directory, limits)).await??;
    store
        .losses()
        .iter()
        .for_each(|loss| tracing::error!(%loss, "the stored state is not as it was left"));
    Ok(store)
}

fn containerd(config: &Config, network: Arc<Network>) -> anyhow::Result<Containerd> {
    let client = Client::new(&config.containerd.socket, &config.containerd.namespace);
    let registry = RegistryConfig {
        insecure: config.registry.insecure.clone(),
        auth_file: config.registry.auth_file.clone(),
        ca_file: config.registry.ca_file.clone(),
        stall_timeout: config.registry.stall_timeout,
        ..RegistryConfig::default()
    };
    let images = Images::new(client.clone(), registry)?;
    let executable = std::env::current_exe().context("the agent's own path is not known")?;
    let settings = ContainerdConfig {
        socket: config.containerd.socket.clone(),
        namespace: config.containerd.namespace.clone(),
        logs_dir: logs_dir(config),
        executable,
        run_dir: config.state.run_dir.clone(),
    };
    Containerd::new(settings, client, network, images).context("the host's facts cannot be read")
}
