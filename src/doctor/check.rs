//! The checks of `doctor`: a closed set, each with its group, its meaning and its remedy; and their answers.
//!
//! A new check is a row of the table here, its facts and its judgement in the file of its group, and rows
//! of that file's test: one on which it is well, and one on which it is not.

/// Groups of checks, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CheckGroup {
    /// Configuration and the files that it names.
    Configuration,
    /// Kernel of the node.
    Kernel,
    /// containerd, and the programs below it.
    Containerd,
    /// Network of the node.
    Network,
    /// Clock, disks and files.
    Host,
    /// Servers that the agent calls.
    Outside,
    /// Things of the agent that nobody has a record of.
    Leftovers,
    /// Agent that runs.
    Agent,
}

/// Verdict of a check, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CheckVerdict {
    /// Well.
    Ok,
    /// Not looked at.
    Skipped,
    /// Not as it should be; the node works.
    Warn,
    /// At fault: something does not work, or will not.
    Fail,
}

impl CheckVerdict {
    /// The word for it, as it stands in JSON and in the output.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skip",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// Answer of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckAnswer {
    pub(super) check: DoctorCheck,
    pub(super) verdict: CheckVerdict,
    /// The facts, in a phrase.
    pub(super) message: String,
    /// Remedy for just this; `None`: that of the check.
    pub(super) remedy: Option<String>,
}

impl CheckAnswer {
    /// The same answer with a remedy of its own.
    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// The remedy, where there is something to remedy.
    pub(super) fn remedy(&self) -> Option<&str> {
        let own = self.remedy.as_deref();
        let is_faulty = self.verdict > CheckVerdict::Skipped;
        is_faulty.then(|| own.unwrap_or(self.check.remedy()))
    }
}

macro_rules! checks {
    ($($group:ident { $($(#[doc = $doc:literal])+ $name:ident $code:literal, $remedy:literal;)+ })+) => {
        /// Check of `doctor`. Programs match on its code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum DoctorCheck { $($($(#[doc = $doc])+ $name,)+)+ }

        impl DoctorCheck {
            /// Every check, in the order in which they are shown.
            pub(super) const ALL: &'static [Self] = &[$($(Self::$name,)+)+];

            /// The code, as it stands in JSON and in the output.
            pub(super) const fn code(self) -> &'static str {
                match self { $($(Self::$name => $code,)+)+ }
            }

            /// The group that it is shown in.
            pub(super) const fn group(self) -> CheckGroup {
                match self { $($(Self::$name => CheckGroup::$group,)+)+ }
            }

            /// The meaning of a check that is well, in a sentence.
            #[cfg(test)]
            pub(super) const fn meaning(self) -> &'static str {
                match self { $($(Self::$name => concat!($($doc,)+).trim_ascii(),)+)+ }
            }

            /// The remedy, for a person: a phrase without a full stop.
            pub(super) const fn remedy(self) -> &'static str {
                match self { $($(Self::$name => $remedy,)+)+ }
            }
        }
    };
}

checks! {
    Configuration {
        /// The configuration has no error.
        Configuration "configuration", "correct what the message names; chas-node-agent config check shows every value with its origin";
        /// Policy, clients and TLS files of the API can be used.
        ConfiguredFiles "configured-files", "correct the file that the message names; it is read again when it changes";
        /// Nothing of the configuration is a known risk.
        ConfigurationRisks "configuration-risks", "decide whether it is meant so; the message says what to set";
    }
    Kernel {
        /// The kernel has the namespaces that containers need.
        Namespaces "namespaces", "run a kernel with CONFIG_NAMESPACES and what belongs to it; every distribution's has them";
        /// Containers may have user namespaces of their own.
        UserNamespaces "user-namespaces", "set the sysctl user.max_user_namespaces above 0; until then containers run with the host's ids";
        /// The kernel has the file system overlay, on which containers stand.
        Overlay "overlayfs", "modprobe overlay, and load it at boot (/etc/modules-load.d)";
        /// The kernel has nf_tables, and the program nft works.
        NfTables "nf-tables", "install nftables, and modprobe nf_tables nft_chain_nat";
        /// The kernel filters system calls.
        Seccomp "seccomp", "run a kernel with CONFIG_SECCOMP_FILTER; without it no container is started";
        /// Control groups are mounted, with the controllers by which containers are limited.
        ControlGroups "control-groups", "mount control groups, and let the kernel's command line not switch off what the message names (cgroup_disable)";
        /// The agent, or this program in its place, may open enough files, and the machine has some left.
        OpenFiles "open-files", "set LimitNOFILE=65536 in the agent's unit, or raise the sysctl fs.file-max";
    }
    Containerd {
        /// containerd answers at containerd.socket.
        Reachable "containerd-reachable", "start it (systemctl start containerd) and read its log (journalctl -u containerd); or correct containerd.socket";
        /// containerd is of a version that the agent works with, without known faults.
        ContainerdVersion "containerd-version", "update containerd";
        /// containerd has the snapshotter overlayfs, on a file system that carries it.
        Snapshotter "snapshotter", "let /etc/containerd/config.toml not disable overlayfs, and its root lie on ext4 or xfs; restart containerd";
        /// containerd finds its shim and runc.
        RuntimePrograms "runtime-programs", "install runc and containerd-shim-runc-v2 into a directory of containerd's PATH";
        /// runc has no known way out of a container.
        RuncVersion "runc-version", "update runc; a distribution may have mended its own without another number";
        /// The containerd namespace is the agent's alone.
        Namespace "containerd-namespace", "set containerd.namespace to one that no other program uses; what is in it and not managed is never touched";
    }
    Network {
        /// The kernel forwards packets.
        Forwarding "forwarding", "sysctl -w net.ipv4.ip_forward=1, and find what switches it off (/etc/sysctl.d, a VPN, a hardening script); the agent sets it at its next look";
        /// No firewall beside the agent (docker, ufw, firewalld) drops the packets of containers.
        Firewall "firewall", "let the bridge's packets pass, as the message says";
        /// Nobody else on this host has addresses of the containers' subnet.
        Subnet "subnet", "set network.subnet to a free one (or auto) and deploy the containers again, or move the other";
        /// The host has a name server that containers can reach.
        NameServers "name-servers", "if containers need outside names, add an IPv4 server that is not on loopback to the host's resolv.conf";
        /// Names of the servers that the agent calls can be resolved.
        Dns "dns", "correct the name, or the host's resolv.conf; getent hosts NAME asks as the agent does";
        /// The kernel has room for connections.
        Connections "connections", "raise the sysctl net.netfilter.nf_conntrack_max, or find who opens so many";
        /// The port of the API is free, or the agent's.
        ApiPort "api-port", "end the other program (ss -ltnp), or set api.port to another one";
    }
    Host {
        /// The clock is set, and kept so.
        Clock "clock", "start a time service (systemd-timesyncd, chrony); certificates, tokens and times in logs need it";
        /// The disks of state and images have space.
        DiskSpace "disk-space", "free space on the disk that the message names; without any, nothing can be deployed";
        /// The disks of state and images have inodes.
        Inodes "inodes", "delete files on the disk that the message names; small ones count as much as large ones";
        /// Directories and files with secrets are their owner's alone.
        FileModes "file-modes", "close it as the message says, and change a secret that others may have read";
    }
    Outside {
        /// CHaS answers at api.chas_url.
        Chas "chas", "check api.chas_url, the way to it, and chas.ca_file; containers run on without";
        /// Certificates between the agent and its callers, and CHaS, count, and will for a while.
        Certificates "certificates", "renew the certificate that the message names";
        /// Registries answer for the images that are desired.
        Registries "registries", "read the message; chas-node-agent explain NAME tells more of a container";
    }
    Leftovers {
        /// Nothing of the agent is left without a record.
        Unrecorded "left-overs", "start the agent: it removes them; if they stay, the message names what holds them";
    }
    Agent {
        /// The agent answers, and is of this program's version.
        Running "agent", "systemctl status chas-node-agent; journalctl -u chas-node-agent";
        /// No alarm stands, and every container is as desired.
        Alarms "alarms", "read the message; contrib/docs/alarms.md explains each";
    }
}

impl DoctorCheck {
    const fn answers(self, verdict: CheckVerdict, message: String) -> CheckAnswer {
        CheckAnswer {
            check: self,
            verdict,
            message,
            remedy: None,
        }
    }

    /// The check is well.
    pub(super) fn ok(self, message: impl Into<String>) -> CheckAnswer {
        self.answers(CheckVerdict::Ok, message.into())
    }

    /// The facts of the check cannot be known.
    pub(super) fn skipped(self, message: impl Into<String>) -> CheckAnswer {
        self.answers(CheckVerdict::Skipped, message.into())
    }

    /// The check is not as it should be.
    pub(super) fn warn(self, message: impl Into<String>) -> CheckAnswer {
        self.answers(CheckVerdict::Warn, message.into())
    }

    /// The check is at fault.
    pub(super) fn fail(self, message: impl Into<String>) -> CheckAnswer {
        self.answers(CheckVerdict::Fail, message.into())
    }
}
