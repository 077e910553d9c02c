//! Reasons for which a container is not as desired: a closed set of codes, each with its meaning
//! and its remedy.

use serde::{Deserialize, Serialize};

/// Moment at which a reason comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// While the image is pulled.
    Image,
    /// While the container is created and started.
    Start,
    /// While the container is stopped or removed.
    End,
    /// The container's task ended.
    Exit,
    /// Any moment: the cause is the node, or an order.
    Node,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident, $remedy:literal;)+) => {
        /// Reason why a container is not (yet) as desired. Programs match on its code, which never
        /// changes meaning.
        ///
        /// | code | meaning | remedy | comes up |
        /// |---|---|---|---|
        $(#[doc = concat!("| `", stringify!($name), "` |", $($doc,)+ " | ", $remedy, " | ", stringify!($kind), " |")])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every code, in the order of the table in the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code as it appears in JSON and in logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The code's meaning, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// The remedy, for a person: a phrase without a full stop.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }

            /// Moment at which the reason comes up. The wait before the next attempt follows from
            /// it.
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
    /// The registry has the image's manifest, but lacks a layer or the configuration that it names.
    ImageBlobMissing: Image, "push the image again: the registry has lost a part of it";
    /// The registry requires credentials, and none are configured for it.
    RegistryUnauthorized: Image, "add the registry to registry.auth_file";
    /// The registry rejects the configured credentials.
    RegistryCredentialsRefused: Image, "correct the user and password in registry.auth_file";
    /// The registry accepts the credentials, but denies access to this image.
    RegistryForbidden: Image, "give the user the right to pull the repository";
    /// The registry's host name cannot be resolved.
    RegistryNameUnknown: Image, "correct the registry's name, or the node's name servers";
    /// The registry's host refuses the connection, or has no route to it.
    RegistryUnreachable: Image, "start the registry, or correct its port or the node's routes";
    /// The registry timed out, before its answer or in the middle of it.
    RegistryTimeout: Image, "look for a firewall or an overloaded registry; a slow one needs a longer registry.stall_timeout";
    /// The registry's TLS certificate is not trusted, has expired, or is for another name.
    RegistryCertificateInvalid: Image, "add the authority that signed it to registry.ca_file, or renew the certificate";
    /// The registry speaks plain HTTP, and is not listed as insecure.
    RegistryNotTls: Image, "give the registry TLS, or list it under registry.insecure if the network can be trusted";
    /// The registry speaks TLS, but is listed as insecure (plain HTTP).
    RegistryNotInsecure: Image, "remove the registry from registry.insecure";
    /// The registry redirects to an address that is not followed: plain HTTP that is not listed, a
    /// loop, or no URL.
    RegistryRedirectRefused: Image, "correct the registry's configuration, or list the host under the key that the message names";
    /// The proxy between node and registry cannot be reached, or refuses the connection.
    RegistryProxyFailed: Image, "start the proxy that the message names, or correct registry.https_proxy, registry.http_proxy and registry.no_proxy";
    /// The file that says where the registry's images are (`hosts.toml`) cannot be used.
    RegistryConfigInvalid: Image, "correct the file below registry.hosts_dir that the message names; it is read again at once";
    /// The registry limits the rate of requests.
    RegistryRateLimited: Image, "wait, or use credentials with a higher limit, or a mirror";
    /// The registry's token service fails, or answers without a token.
    RegistryTokenFailed: Image, "check the token service that the message names";
    /// The registry's address gives an answer that no registry gives.
    RegistryAnswerInvalid: Image, "look for a proxy or login page in front of the registry, or correct the address";
    /// The registry answered with an internal error.
    RegistryError: Image, "read the registry's log";
    /// The connection was cut again and again during the download.
    ImageDownloadInterrupted: Image, "look for the cause of cut connections between node and registry; downloaded parts are kept, and the next attempt resumes there";
    /// The data from the registry does not match its digest.
    DigestMismatch: Image, "look for a proxy that changes data on the way, or push the image again";
    /// The image has no variant for this node's processor and system.
    ImagePlatformMismatch: Image, "build the image for this platform, or use a node that suits it";
    /// The image's kind or format cannot be run: schema 1, not a container, or an unknown layer
    /// type.
    ImageFormatUnsupported: Image, "push the image again with a current tool, as an OCI or docker (schema 2) container image";
    /// The image's manifest or configuration contradicts itself, or cannot be read.
    ImageInvalid: Image, "build and push the image again";
    /// A layer matches its digest, but cannot be unpacked.
    ImageLayerInvalid: Image, "build the image again: one of its layers is no archive of its type";
    /// The image takes more of the disk than an image may, once it is unpacked.
    ImageTooLarge: Image, "make the image smaller, or raise image.max_unpacked";
    /// The image is not on the node, and `image_pull` is `never`.
    ImageNotPresent: Image, "import the image, or change image_pull";
    /// The image's files on the node are missing or damaged; the image is pulled again.
    ImageLost: Start, "nothing to do; if it recurs, check the disk, and what else deletes containerd's images";
    /// Neither the image nor the deploy body names a command.
    NoCommand: Start, "give a command";
    /// The command is not in the image.
    CommandNotFound: Start, "correct the command, or the PATH it is searched in";
    /// The command is in the image, but cannot be executed: a directory, a file without the
    /// permission, a script without its interpreter, a program without its loader, or longer than
    /// the kernel takes.
    CommandNotExecutable: Start, "make the file executable in the image, or run it by an interpreter that the image has";
    /// The working directory is a file or below one, or may not be entered.
    WorkingDirInvalid: Start, "correct working_dir";
    /// The user is not in the image.
    UserNotFound: Start, "name a user that the image's /etc/passwd has, or give a number";
    /// The group is not in the image.
    GroupNotFound: Start, "name a group that the image's /etc/group has, or give a number";
    /// The memory limit is too small even to start the container.
    MemoryLimitTooSmall: Start, "raise resources.memory; a start alone takes some MiB";
    /// A requested limit cannot be set on this host.
    LimitRefused: Start, "request no more than the control group above allows, and read the message";
    /// A sysctl that the container asks for cannot be set: this kernel has none of that name in the
    /// container's namespaces, or refuses the value.
    SysctlRefused: Start, "correct the name or value under sysctls, or load the kernel's module that has it";
    /// A mount of the container does not fit into the image.
    MountFailed: Start, "check what the image has at the path in the message";
    /// A volume that was made once is not there.
    VolumeMissing: Start, "mount the disk that the volume is on; or remove the note of it that the message names, and it begins anew";
    /// Two generations of the container would write to one volume at once.
    VolumeNotShared: Start, "name a volume for the path in the message that says \"shared\": true, or a tmpfs; or update with the strategy stop-first";
    /// A path of the host that the container mounts is not there, leads out of what the node gives, or
    /// cannot be mounted as asked.
    HostPathUnusable: Start, "make the path on this host as the message says: it is made by nobody else, and looked at again";
    /// A secret value of the container cannot be opened with the node's key, or not be given to it.
    SecretUnavailable: Start, "put back the key of secrets (secrets.key_file) and restart the agent, or deploy the container again";
    /// A device that the container asks for is not on this host, or no CDI file names it.
    DeviceMissing: Start, "connect the device, load its driver, or install its CDI file; the message names what is missing";
    /// containerd has an unmanaged container of that name.
    NameTaken: Start, "remove that container with the tool that created it";
    /// The node's policy denies what the container asks for.
    PolicyDenied: Start, "read the message: it names the rule; change the container, or the policy (policy.file)";
    /// Another process on this host listens on the host port, or a rule of another program
    /// publishes it.
    PortTaken: Start, "end that process, remove what the other program publishes, or use another host port";
    /// The container's network namespace could not be created or removed.
    NetnsFailed: Start, "check the path in the message, below state.run_dir";
    /// The bridge could not be created, or the container not be connected to it.
    BridgeFailed: Start, "look for another interface of the bridge's name; its name is network.bridge";
    /// The rules for host ports or forwarding could not be written.
    FirewallFailed: Start, "check whether nft works on the host, and what else changes the agent's table";
    /// The container's hosts and resolv.conf could not be written.
    NameFilesFailed: Start, "check the path in the message, and whether its disk is full";
    /// The container's network could not be set up for a reason that no other code names.
    NetworkError: Start, "read the message; it is the kernel's";
    /// The container's file system could not be prepared by containerd.
    SnapshotFailed: Start, "read containerd's log, and check its root directory";
    /// The container's logger could not be started.
    LoggerFailed: Start, "put the agent's program back where it was started from, or restart the agent";
    /// containerd finds no runc or shim, or cannot run it.
    RuntimeBroken: Start, "install runc and containerd's shim where containerd looks for them";
    /// The node's control groups are not mounted, or lack a controller that runc needs.
    CgroupMissing: Start, "mount the control groups at /sys/fs/cgroup, and let the kernel's command line enable the controller that the message names";
    /// The runtime could not create or start the container for a reason that no other code names.
    CreateFailed: Start, "read the message, and containerd's log";
    /// The disk is full.
    DiskFull: Start, "free some space on the disk that the message names";
    /// The agent cannot write its own state.
    StateUnwritable: Start, "check the disk and the permissions of state.dir";
    /// The container's task could not be ended, or what runc keeps of it not be deleted.
    StopFailed: End, "read containerd's log, and look for other processes in the container's control group";
    /// The container's process does not end even by SIGKILL: it hangs in the kernel.
    ProcessStuck: End, "look for a lost disk or network file system, or a frozen control group; else reboot";
    /// The container's snapshot, containerd record or logs could not be removed.
    RemoveFailed: End, "read the message; something else holds or protects them";
    /// The container's shim does not answer containerd, so whether the container runs cannot be told.
    ShimUnresponsive: End, "look for what holds up its containerd-shim-runc-v2 (stopped, swapped out, a hanging runc below it); to stop or remove the container ends the shim, and what it runs, in the end";
    /// The container's process ended with an error.
    Exited: Exit, "read the container's log";
    /// The container's process ended without an error, but is to run always.
    ExitedCleanly: Exit, "run the program in the foreground, or use the restart policy on-failure if ending is its purpose";
    /// The container's process was ended by a signal.
    Signaled: Exit, "find the sender of the signal; SIGSEGV and the like are faults of the program";
    /// The container's shim was lost, and its process with it.
    ShimLost: Exit, "find what killed containerd-shim-runc-v2";
    /// The container's process ended, and its restart policy leaves it ended.
    Completed: Exit, "nothing to do; the container has done its work";
    /// The container used more memory than its limit and was killed by the kernel.
    OutOfMemory: Exit, "raise resources.memory, or make the program use less";
    /// The container's process keeps ending soon after its start.
    CrashLoop: Exit, "read the container's log, and deploy a version that stays up";
    /// The container ended more often than `restart.max_retries` allows.
    RetriesExhausted: Exit, "read the container's log, then start the container again";
    /// The container's probe fails: it runs, and does not work.
    Unhealthy: Exit, "read the probe's last answer in the message, and the container's log; correct health if the container does work";
    /// containerd is unreachable; no step is taken until it is back.
    RuntimeUnavailable: Node, "see `systemctl status containerd` and its log, and start it; correct containerd.socket if it listens elsewhere than the message says";
    /// The stored state was damaged; this container's record is from containerd's labels.
    StateLost: Node, "nothing to do; find what damaged the files, which are under quarantine/ in state.dir";
    /// The last change of this container is lost with damaged files, so nobody knows whether it is to
    /// run.
    ChangeLost: Node, "deploy, start, stop or delete the container: what is asked of it now counts";
    /// The container waits for other containers before its first start.
    WaitsFor: Node, "read the message: it names each of them and its state; mend that one, give the entry under after a timeout, or leave it out";
    /// The node is cordoned and starts no new containers.
    NodeCordoned: Node, "lift the cordon, in CHaS or by chas-node-agent uncordon, as the message says; or run the container on another node";
    /// The node is drained: everything that can be stopped is stopped, and nothing is started.
    NodeDrained: Node, "run chas-node-agent uncordon once the work on the node is done, which starts it again";
    /// CHaS has not answered for longer than the container is to run without it.
    Disconnected: Node, "restore the way to CHaS, whose next answer starts it again; or deploy it with another on_disconnect.stop_after, or none";
    /// The newest generation was given up, and the one before is back.
    RolledBack: Node, "read the message; then deploy a body that is corrected, or has a higher revision";
    /// The container waits for the next time of its schedule.
    Scheduled: Node, "nothing to do; next_run says when it runs, and a restart runs it now";
    /// The container was asked to stop.
    StopRequested: Node, "nothing to do; start the container to run it again";
}

impl Reason {
    /// Whether a process that ended for it ended as it was meant to.
    #[must_use]
    pub const fn is_harmless_end(self) -> bool {
        matches!(
            self,
            Self::Completed
                | Self::StopRequested
                | Self::ExitedCleanly
                | Self::Disconnected
                | Self::NodeDrained
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
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
        for text in [Reason::as_str, Reason::meaning, Reason::remedy] {
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
                (reason.as_str(), reason)
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
