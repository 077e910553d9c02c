//! The gRPC channel to containerd and how its errors read. Who calls what is left to the files beside it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1 as api;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::runtime::RuntimeError;

/// A reply may be this large: a listing of a thousand containers, each with its OCI spec and seccomp profile, is some
/// 8 MB, while tonic's own limit of 4 MiB ends at about 550 of them. containerd itself sends 16 MiB at most.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A cheap call (a look, a record) that takes longer than this counts as containerd being away.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Puts the namespace, and the lease if there is one, into every call.
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

/// The transport each generated client is built on.
pub(crate) type Scoped = InterceptedService<Channel, Scope>;

/// One connection to containerd, made at the first call and again by itself whenever it broke.
///
/// It has no HTTP/2 keep-alive: containerd's server answers the fourth ping with `ENHANCE_YOUR_CALM`.
#[derive(Clone, Debug)]
pub struct Client {
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

impl Client {
    /// A client of the containerd that listens on `socket`, for one of its namespaces. Connects at the first call.
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

    /// The containerd namespace that all calls are about.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same client, with everything it creates held by `lease`.
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

    /// Makes sure that containerd answers, and says which version it is.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] when it does not within the time for a cheap call.
    pub async fn probe(&self) -> Result<String, RuntimeError> {
        Ok(quick(self.version().version(())).await?.version)
    }
}

/// What a call's failure means to the room that made it.
#[derive(Debug)]
pub(crate) enum CallError {
    /// There is no such thing.
    NotFound(String),
    /// It is there already.
    AlreadyExists,
    /// The connection broke, or containerd does not answer.
    Unavailable(String),
    /// containerd, the shim or runc said no; its text is meant for people.
    Refused(String),
}

impl From<Status> for CallError {
    /// A broken connection arrives as `Unavailable` on new calls and as `Unknown` with a source on those under way;
    /// refusals of containerd and runc are mostly `Unknown` without one.
    fn from(status: Status) -> Self {
        let broken = std::error::Error::source(&status).is_some();
        let message = status.message().to_owned();
        if status.code() == Code::NotFound {
            Self::NotFound(message)
        } else if status.code() == Code::AlreadyExists {
            Self::AlreadyExists
        } else if broken || status.code() == Code::Unavailable {
            Self::Unavailable(message)
        } else if message.is_empty() {
            Self::Refused(status.code().description().to_owned())
        } else {
            Self::Refused(message)
        }
    }
}

impl From<CallError> for RuntimeError {
    /// For calls where every answer but success is unexpected.
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unavailable(message) => Self::Unavailable(message),
            CallError::NotFound(message) | CallError::Refused(message) => Self::failed(
                state::reason::Reason::CreateFailed,
                format!("containerd: {message}"),
            ),
            CallError::AlreadyExists => Self::failed(
                state::reason::Reason::CreateFailed,
                "containerd: it exists already",
            ),
        }
    }
}

/// Awaits a cheap call under [`CALL_TIMEOUT`]. Not for `Tasks.Create`, which must never be given up.
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
