//! Event stream of containerd, as hints which container to look at. Reconnects for ever.

use std::time::Duration;

use containerd_client::events::{TaskDelete, TaskExit, TaskOom, TaskPaused, TaskStart};
use containerd_client::services::v1 as api;
use containerd_client::types::Envelope;
use prost::Message as _;
use state::id::InstanceName;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::client::{CallError, ContainerdClient, quick};
use crate::runtime::RuntimeEvent;

/// Topic of an event that is published until the subscription is answered, which containerd does
/// only with a first event.
const READY: &str = "/chas/ready";
/// Topic of an event that the kernel's notice of exhausted memory causes, before a process is killed.
const OOM: &str = "/tasks/oom";
const READY_EVERY: Duration = Duration::from_millis(20);
/// A frozen containerd keeps its connections: so its version is asked for now and then.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts to connect: short enough to follow a restart at once, long enough to cost
/// nothing.
const RETRY: Duration = Duration::from_millis(250);

/// Sends a hint for each event of a managed container, until the receiver is gone. Each time that
/// containerd is reached, it may be another one: `reached` comes before all else.
pub(crate) async fn follow<F: Future<Output = ()> + Send>(
    client: &ContainerdClient,
    events: &mpsc::Sender<RuntimeEvent>,
    reached: impl Fn() -> F + Send + Sync,
) {
    let mut connected = false;
    loop {
        if let Ok(stream) = subscribe(client).await {
            connected = true;
            reached().await;
            if events.send(RuntimeEvent::Connected).await.is_err() {
                return;
            }
            if !read(client, stream, events).await {
                return;
            }
        }
        if connected && events.send(RuntimeEvent::Disconnected).await.is_err() {
            return;
        }
        connected = false;
        tokio::time::sleep(RETRY).await;
    }
}

async fn subscribe(client: &ContainerdClient) -> Result<Streaming<Envelope>, CallError> {
    let of = |topic: &str| format!("topic==\"{topic}\",namespace==\"{}\"", client.namespace());
    let topics = [
        "/tasks/start",
        "/tasks/exit",
        OOM,
        "/tasks/delete",
        "/tasks/paused",
        READY,
    ];
    let request = api::SubscribeRequest {
        filters: topics.map(of).to_vec(),
    };
    let mut subscriber = client.events();
    let call = subscriber.subscribe(request);
    tokio::pin!(call);
    loop {
        let event = prost_types::Any {
            type_url: "containerd.events.NamespaceUpdate".to_owned(),
            value: Vec::new(),
        };
        let ready = api::PublishRequest {
            topic: READY.to_owned(),
            event: Some(event),
        };
        tokio::select! {
            stream = &mut call => return Ok(stream?.into_inner()),
            published = async { tokio::time::sleep(READY_EVERY).await; quick(client.events().publish(ready)).await } => published?,
        }
    }
}

/// Reads until the stream breaks. False: the receiver is gone.
async fn read(
    client: &ContainerdClient,
    mut stream: Streaming<Envelope>,
    events: &mpsc::Sender<RuntimeEvent>,
) -> bool {
    loop {
        match tokio::time::timeout(PROBE_EVERY, stream.message()).await {
            Ok(Ok(Some(envelope))) => {
                let Some(name) = subject(&envelope) else {
                    continue;
                };
                let hint = if envelope.topic == OOM {
                    RuntimeEvent::MemoryShort(name.id)
                } else {
                    RuntimeEvent::Changed(name.id)
                };
                if events.send(hint).await.is_err() {
                    return false;
                }
            }
            Ok(Ok(None) | Err(_)) => return true,
            Err(_) => {
                if !matches!(
                    tokio::time::timeout(PROBE_TIMEOUT, client.probe()).await,
                    Ok(Ok(_))
                ) {
                    return true;
                }
            }
        }
    }
}

/// Instance that an event is about; `None`: a name that no managed container has.
fn subject(envelope: &Envelope) -> Option<InstanceName> {
    let event = envelope.event.as_ref()?;
    let bytes = event.value.as_slice();
    let id = match envelope.topic.as_str() {
        "/tasks/start" => TaskStart::decode(bytes).ok()?.container_id,
        "/tasks/exit" => TaskExit::decode(bytes).ok()?.container_id,
        OOM => TaskOom::decode(bytes).ok()?.container_id,
        "/tasks/delete" => TaskDelete::decode(bytes).ok()?.container_id,
        "/tasks/paused" => TaskPaused::decode(bytes).ok()?.container_id,
        _ => return None,
    };
    id.parse().ok()
}
