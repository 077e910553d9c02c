//! Why a container is not as desired: a closed set of codes, one at a time, each with a sentence beside it.

use serde::{Deserialize, Serialize};

/// When a reason comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// While the image is fetched.
    Image,
    /// While the container is created and started.
    Start,
    /// While it is stopped or removed.
    End,
    /// Its process ended.
    Exit,
    /// None of these: nothing of the container's own failed.
    Node,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident, $remedy:literal;)+) => {
        /// Why a container is not (yet) as desired. The code is what programs match on; it never changes meaning.
        ///
        /// | code | meaning | what would help | comes up |
        /// |---|---|---|---|
        $(#[doc = concat!("| `", stringify!($name), "` |", $($doc,)+ " | ", $remedy, " | ", stringify!($kind), " |")])+
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

            /// What would help, for the person who reads it: a phrase without a full stop.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }

            /// When it comes up. How long is waited before the next attempt follows from it.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }
        }
    };
}

reasons! {
    /// The registry has no such repository, tag or digest.
    ImageNotFound: Image, "correct the image's name or tag, or push it";
    /// The registry has the image's manifest, but not a layer or the configuration that it names.
    ImageBlobMissing: Image, "push the image again: the registry has lost a part of it";
    /// The registry wants credentials, and none are configured for it.
    RegistryUnauthorized: Image, "add the registry to registry.auth_file";
    /// The registry refuses the credentials that it was given.
    RegistryCredentialsRefused: Image, "correct the user and password in registry.auth_file";
    /// The registry knows who asks, and does not let them have this image.
    RegistryForbidden: Image, "give the user the right to pull the repository";
    /// The registry's host name cannot be resolved.
    RegistryNameUnknown: Image, "correct the registry's name, or the node's name servers";
    /// The registry's host refuses the connection, or there is no way to it.
    RegistryUnreachable: Image, "start the registry, or correct its port or the node's routes";
    /// The registry does not answer in time, or stopped sending.
    RegistryTimeout: Image, "look for a firewall or an overloaded registry; a slow one needs a longer registry.stall_timeout";
    /// The registry's TLS certificate is not trusted, has ended, or is for another name.
    RegistryCertificateInvalid: Image, "name the authority that signed it in registry.ca_file, or renew the certificate";
    /// The registry speaks plain HTTP, and is not listed as one that may.
    RegistryNotTls: Image, "give the registry TLS, or list it under registry.insecure if the network can be trusted";
    /// The registry speaks TLS, and is listed as one that speaks plain HTTP.
    RegistryNotInsecure: Image, "take the registry out of registry.insecure";
    /// The registry leads to an address that is not followed: plain HTTP that is not listed, a circle, or no URL.
    RegistryRedirectRefused: Image, "list the host that it leads to under registry.insecure, or correct the registry's configuration";
    /// The registry asks for fewer requests for a while.
    RegistryRateLimited: Image, "wait, or use credentials with a higher limit, or a mirror";
    /// The service where the registry sends for tokens fails, or answers without one.
    RegistryTokenFailed: Image, "look after the token service that the message names";
    /// What answered does not speak as a registry does.
    RegistryAnswerInvalid: Image, "look for a proxy or login page before the registry, or correct the address";
    /// The registry answered with an error of its own.
    RegistryError: Image, "look into the registry's log";
    /// The connection was cut again and again while the image came.
    ImageDownloadInterrupted: Image, "look for what cuts connections between node and registry; what came is kept, and the next attempt goes on there";
    /// What the registry sent is not what its digest promises.
    DigestMismatch: Image, "look for what changes data on the way (a proxy), or push the image again";
    /// The image has no variant for this machine's processor and system.
    ImagePlatformMismatch: Image, "build the image for this platform, or use a node that suits it";
    /// The image is of a kind or format that cannot be run: schema 1, not a container, an unknown layer type.
    ImageFormatUnsupported: Image, "push the image again with a current tool, as an OCI or docker (schema 2) container image";
    /// The image's manifest or configuration contradicts itself, or cannot be read.
    ImageInvalid: Image, "build and push the image again";
    /// A layer came as it was pushed, and cannot be unpacked.
    ImageLayerInvalid: Image, "build the image again: one of its layers is no archive of its type";
    /// The image is not on the node, and `image_pull` is `never`.
    ImageNotPresent: Image, "import the image, or change image_pull";
    /// The image's files on the node were found missing or damaged; it is fetched again.
    ImageLost: Start, "nothing; if it comes again, look at the disk and at who else deletes containerd's images";
    /// Neither the image nor the deploy body says what to run.
    NoCommand: Start, "give a command";
    /// The command is not in the image.
    CommandNotFound: Start, "correct the command, or the PATH it is searched in";
    /// The command is in the image, and may not be executed: a directory, or without the permission.
    CommandNotExecutable: Start, "make the file executable in the image, or run it by its interpreter";
    /// The working directory is a file or below one, or may not be entered.
    WorkingDirInvalid: Start, "correct working_dir";
    /// The user is not in the image.
    UserNotFound: Start, "name a user that the image's /etc/passwd has, or give a number";
    /// The group is not in the image.
    GroupNotFound: Start, "name a group that the image's /etc/group has, or give a number";
    /// The memory limit is too small even to start the container.
    MemoryLimitTooSmall: Start, "raise resources.history; a start alone takes some MiB";
    /// A limit asked for cannot be set on this host.
    LimitRefused: Start, "ask for no more than the control group above allows, and look at the message";
    /// A mount that every container gets does not fit into the image.
    MountFailed: Start, "look at what the image has at the path in the message";
    /// containerd has a container of that name that is not the agent's.
    NameTaken: Start, "remove it with the tool that made it";
    /// Another process on this host listens on the host port.
    PortTaken: Start, "end that process, or use another host port";
    /// The container's network namespace could not be made or taken away.
    NetnsFailed: Start, "look at the path in the message, below state.run_dir";
    /// The bridge could not be made, or the container not be connected to it.
    BridgeFailed: Start, "look for another link of the bridge's name; its name is network.bridge";
    /// The rules for host ports or forwarding could not be written.
    FirewallFailed: Start, "look whether nft works on the host, and what else changes the agent's table";
    /// The container's hosts and resolv.conf could not be written.
    NameFilesFailed: Start, "look at the path in the message, and whether its disk is full";
    /// The container's network could not be set up for a reason that no other code names.
    NetworkError: Start, "read the message; it is the kernel's";
    /// containerd could not make the container's file system.
    SnapshotFailed: Start, "look into containerd's log and at its root directory";
    /// The container's logging process could not be started.
    LoggerFailed: Start, "put the agent's program back where it was started from, or restart the agent";
    /// containerd finds no runc or shim, or cannot run it.
    RuntimeBroken: Start, "install runc and containerd's shim where containerd looks for them";
    /// The runtime refused to create or start the container for a reason that no other code names.
    CreateFailed: Start, "read the message, and containerd's log";
    /// The disk is full.
    DiskFull: Start, "free some space on the disk that the message names";
    /// The agent cannot write its own state.
    StateUnwritable: Start, "look at the disk and the permissions of state.dir";
    /// The container's process, or what runc keeps of it, could not be ended.
    StopFailed: End, "look into containerd's log, and at who else is in the container's control group";
    /// The container's process does not end even by SIGKILL: it hangs in the kernel.
    ProcessStuck: End, "look for a lost disk or network file system, or a frozen control group; else reboot";
    /// What the container leaves (snapshot, record, logs) could not be removed.
    RemoveFailed: End, "read the message; something else holds or protects it";
    /// The container's process ended with an error.
    Exited: Exit, "read the container's log";
    /// The container's process ended without an error, and is to run always.
    ExitedCleanly: Exit, "run it in the foreground, or use the restart policy on-failure if ending is its purpose";
    /// The container's process was ended by a signal.
    Signaled: Exit, "look who sent the signal; SIGSEGV and the like are faults of the program";
    /// The container's process was lost together with the shim that containerd kept for it.
    ShimLost: Exit, "look who killed containerd-shim-runc-v2";
    /// The container's process ended, and its restart policy leaves it so.
    Completed: Exit, "nothing; it has done what it was to do";
    /// The container used more memory than its limit and was killed by the kernel.
    OutOfMemory: Exit, "raise resources.history, or make the program use less";
    /// The container's process keeps ending soon after its start.
    CrashLoop: Exit, "read the container's log; deploy a version that stays";
    /// It ended more often than `restart.max_retries` allows.
    RetriesExhausted: Exit, "read the container's log, then start it again";
    /// containerd cannot be reached; nothing is done until it is back.
    RuntimeUnavailable: Node, "start containerd";
    /// The stored state was damaged; this was found in containerd's labels instead.
    StateLost: Node, "nothing; look what damaged the files, which are under quarantine/ in state.dir";
    /// It came while the node was cordoned, which takes nothing new.
    NodeCordoned: Node, "lift the cordon in CHaS, or run it on another node";
    /// It was asked to be stopped.
    StopRequested: Node, "nothing; start it to run it again";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_codes_mean_or_ask_for_the_same() {
        let different = |text: fn(Reason) -> &'static str| {
            Reason::ALL
                .iter()
                .map(|&reason| text(reason))
                .collect::<BTreeSet<_>>()
        };
        assert!(Reason::ALL.len() >= 40);
        for text in [Reason::code, Reason::meaning, Reason::remedy] {
            assert_eq!(different(text).len(), Reason::ALL.len());
        }
    }

    #[test]
    fn a_code_is_read_back_as_it_is_written_and_fits_into_a_row_of_the_table() {
        for &reason in Reason::ALL {
            let written = serde_json::to_string(&reason).unwrap();
            assert_eq!(
                (
                    written.trim_matches('"'),
                    serde_json::from_str(&written).unwrap()
                ),
                (reason.code(), reason)
            );
            assert!(
                reason.meaning().ends_with('.') && !reason.remedy().ends_with('.'),
                "{reason}"
            );
            assert!(
                !reason.meaning().contains('|') && !reason.remedy().contains('|'),
                "{reason}"
            );
        }
    }
}
