//! gRPC channel to containerd, and the one place that says what a failed call means.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1 as api;
use hyper_util::rt::TokioIo;
use state::reason::Reason;
use state::text::shown;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::cause;
use crate::runtime::RuntimeError;

/// Largest reply that is read: a listing of a thousand containers, each with its OCI spec and
/// seccomp profile, is some 8 MB, while tonic's own limit of 4 MiB ends at about 550 of them.
/// containerd itself sends 16 MiB at most.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A cheap call (a look, a label) that takes longer than this counts as containerd being
/// unreachable.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// containerd answers a question about itself within this, or not at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Words of the kernel for a disk without space, as containerd passes them on.
const FULL_DISK: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// Namespace, and lease if there is one, of every call.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Scope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request
                .metadata_mut()
                .insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// Transport that each generated client is built on.
pub(crate) type Scoped = InterceptedService<Channel, Scope>;

/// Connection to containerd, made at the first call and again by itself whenever it broke.
///
/// There is no HTTP/2 keep-alive: containerd's server answers the fourth ping with
/// `ENHANCE_YOUR_CALM`.
#[derive(Clone, Debug)]
pub struct ContainerdClient {
    channel: Channel,
    scope: Scope,
    namespace: String,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $client:ident in $($module:ident)::+;)+) => {
        $($(#[$doc])*
        pub(crate) fn $name(&self) -> $($module)::+::$client<Scoped> {
            let service = InterceptedService::new(self.channel.clone(), self.scope.clone());
            $($module)::+::$client::new(service).max_decoding_message_size(REPLY_BYTES_MAX)
        })+
    };
}

impl ContainerdClient {
    /// Client of the containerd that listens on `socket`, for one of its namespaces. Connects at
    /// the first call.
    ///
    /// # Panics
    /// Never: the URI is a constant that the connector ignores.
    #[must_use]
    pub fn new(socket: &Path, namespace: &str) -> Self {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://containerd.invalid")
            .connect_timeout(Duration::from_secs(3))
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
            }));
        let value = namespace
            .parse()
            .expect("configuration lets only namespace names through");
        Self {
            channel,
            scope: Scope {
                namespace: value,
                lease: None,
            },
            namespace: namespace.to_owned(),
        }
    }

    /// Namespace of containerd that all calls are about.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Client with the same connection whose creations `lease` keeps from the garbage collector.
    #[must_use]
    pub(crate) fn leased(&self, lease: &str) -> Self {
        let mut client = self.clone();
        client.scope.lease = lease.parse().ok();
        client
    }

    services! {
        containers: ContainersClient in api::containers_client;
        content: ContentClient in api::content_client;
        diff: DiffClient in api::diff_client;
        events: EventsClient in api::events_client;
        images: ImagesClient in api::images_client;
        introspection: IntrospectionClient in api::introspection_client;
        leases: LeasesClient in api::leases_client;
        snapshots: SnapshotsClient in api::snapshots::snapshots_client;
        tasks: TasksClient in api::tasks_client;
        version: VersionClient in api::version_client;
    }

    /// Error of a call that a shim was to answer and that timed out: the shim's, if containerd itself
    /// answers.
    pub(crate) async fn blame_shim(&self, doing: &str, waited: Duration) -> CallError {
        let seconds = waited.as_secs();
        match tokio::time::timeout(PROBE_TIMEOUT, self.probe()).await {
            Ok(Ok(_)) => CallError::ShimUnresponsive(format!(
                "the shim did not {doing} within {seconds} s, while containerd itself answers"
            )),
            Ok(Err(_)) | Err(_) => CallError::Unavailable(format!("no answer within {seconds} s")),
        }
    }

    /// Version of containerd, as a proof that it answers.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] when it does not within the time for a cheap call.
    pub async fn probe(&self) -> Result<String, RuntimeError> {
        let reply = quick(self.version().version(())).await;
        let reply =
            reply.map_err(|error| error.into_error(Reason::CreateFailed, "tell its version"))?;
        Ok(reply.version)
    }
}

/// Failure of a call, cut by what its caller does next.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The object is absent.
    NotFound(String),
    /// The object exists already.
    AlreadyExists,
    /// The connection broke, or containerd does not answer.
    Unavailable(String),
    /// containerd answers, and the shim that it handed the call on to does not.
    ShimUnresponsive(String),
    /// containerd, the shim or runc refused; the text is meant for people.
    Refused(String),
}

impl From<Status> for CallError {
    /// A broken connection arrives as `Unavailable` on new calls and as `Unknown` with a source on
    /// those under way; refusals of containerd and runc are mostly `Unknown` without one.
    fn from(status: Status) -> Self {
        let broken = std::error::Error::source(&status).is_some();
        // It may repeat an image's words, and its end says why: it is not cut here.
        let message = shown(status.message(), usize::MAX).into_owned();
        if status.code() == Code::NotFound {
            Self::NotFound(message)
        } else if status.code() == Code::AlreadyExists {
            Self::AlreadyExists
        } else if broken {
            Self::Unavailable(format!("{message}: {}", cause::root(&status)))
        } else if status.code() == Code::Unavailable {
            Self::Unavailable(message)
        } else if message.is_empty() {
            Self::Refused(status.code().description().to_owned())
        } else {
            Self::Refused(message)
        }
    }
}

impl CallError {
    /// Error for a caller that expected nothing but success of `doing`, as in `list containers`:
    /// shown under `reason`, unless the disk is full, which has a reason of its own.
    pub(crate) fn into_error(self, reason: Reason, doing: &str) -> RuntimeError {
        let text = match self {
            Self::Unavailable(message) => return RuntimeError::Unavailable(message),
            Self::AlreadyExists => "it exists already".to_owned(),
            Self::ShimUnresponsive(message) => {
                return RuntimeError::failed(Reason::ShimUnresponsive, message);
            }
            Self::NotFound(text) | Self::Refused(text) => text,
        };
        if FULL_DISK.iter().any(|words| text.contains(words)) {
            let message =
                format!("the disk that holds containerd's data is full: {text}; free some space");
            return RuntimeError::failed(Reason::DiskFull, message);
        }
        RuntimeError::failed(reason, format!("containerd could not {doing}: {text}"))
    }
}

/// Awaits a cheap call under [`CALL_TIMEOUT`]. Not for `Tasks.Create`, which must never be given
/// up.
pub(crate) async fn quick<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(CallError::Unavailable(format!(
            "no answer within {} s",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: CallError) -> (Reason, String) {
        let error = error.into_error(Reason::StopFailed, "delete a task");
        let RuntimeError::Failed(failure) = error else {
            panic!("{error:?}")
        };
        (failure.reason, failure.message)
    }

    #[test]
    fn a_refused_call_has_its_caller_s_reason_unless_the_disk_is_full() {
        let (reason, message) = failed(CallError::Refused("no".to_owned()));
        assert_eq!(reason, Reason::StopFailed);
        assert_eq!(message, "containerd could not delete a task: no");
        assert_eq!(failed(CallError::AlreadyExists).0, Reason::StopFailed);
        for words in FULL_DISK {
            let (reason, message) = failed(CallError::Refused(format!("write /x: {words}")));
            assert_eq!(reason, Reason::DiskFull, "{message}");
        }
        let away = CallError::Unavailable("broken pipe".to_owned());
        let away = away.into_error(Reason::StopFailed, "delete a task");
        assert!(matches!(away, RuntimeError::Unavailable(_)), "{away:?}");
    }
}
