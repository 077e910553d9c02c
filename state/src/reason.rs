//! Why a container is not as desired: a closed set of codes, one at a time, each with a sentence beside it.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a container is not (yet) as desired. The code is what programs match on; it never changes meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every code, in the order of the table in the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code as it appears in JSON and in logs.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// What the code means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The registry has no such repository, tag or digest.
    ImageNotFound,
    /// The registry wants credentials, or refuses those it was given.
    RegistryUnauthorized,
    /// The registry cannot be reached, or does not answer in time.
    RegistryUnreachable,
    /// The registry answered with an error of its own, or asked to be left alone for a while.
    RegistryError,
    /// What the registry sent is not what its digest promises.
    DigestMismatch,
    /// The image has no variant for this machine's processor and system.
    ImagePlatformMismatch,
    /// The image's manifest, configuration or layers cannot be understood.
    ImageInvalid,
    /// The image is not on the node, and `image_pull` is `never`.
    ImageNotPresent,
    /// The image's files on the node were found missing or damaged; it is fetched again.
    ImageLost,
    /// The command is not in the image, or may not be executed.
    CommandNotFound,
    /// The user or group is not in the image.
    UserNotFound,
    /// Another process on this host listens on the host port.
    PortTaken,
    /// The container's network could not be set up.
    NetworkError,
    /// A limit asked for cannot be set on this host.
    LimitRefused,
    /// The runtime refused to create or start the container.
    CreateFailed,
    /// The container could not be stopped or removed.
    RemoveFailed,
    /// The container's process ended and is started again.
    Exited,
    /// The container's process ended, and its restart policy leaves it so.
    Completed,
    /// The container used more memory than its limit and was killed by the kernel.
    OutOfMemory,
    /// The container's process keeps ending soon after its start.
    CrashLoop,
    /// It ended more often than `restart.max_retries` allows.
    RetriesExhausted,
    /// containerd cannot be reached; nothing is done until it is back.
    RuntimeUnavailable,
    /// It was asked to be stopped.
    StopRequested,
    /// The disk is full.
    DiskFull,
    /// The stored state was damaged; this was found in containerd's labels instead.
    StateLost,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}
