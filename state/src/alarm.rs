//! Alarms: states of the node in which something does not work, or needs a person. A closed set,
//! each with its weight, its meaning and its remedy; and the node's health, which follows from them.
//!
//! A room that notices such a state, or its end, tells the agent's journal, which keeps it, logs
//! it, counts it and shows it in `/health`. A new alarm is a row of the table here, and a call of
//! `Journal::set_alarm` where the state is noticed; nothing else is to be written.

use serde::{Serialize, Serializer};

/// The consequence of an alarm for the node's health, lightest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The node is healthy; a person should know.
    Notice,
    /// The node is degraded: a part of its work is not done.
    Degrading,
    /// The node is unhealthy: no container can be started or looked after.
    Disabling,
}

impl Weight {
    /// The health of a node on which an alarm of this weight is the heaviest.
    #[must_use]
    pub const fn health(self) -> NodeHealth {
        match self {
            Self::Notice => NodeHealth::Healthy,
            Self::Degrading => NodeHealth::Degraded,
            Self::Disabling => NodeHealth::Unhealthy,
        }
    }
}

/// Health of the node in a word, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeHealth {
    /// All that was asked is so.
    Healthy,
    /// A part of it is not.
    Degraded,
    /// The node does nothing for any container.
    Unhealthy,
}

impl NodeHealth {
    /// Every word, best first.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Unhealthy];

    /// The health of a node with these alarms, on which so many containers are not as desired. An
    /// unreachable CHaS is no fault of the node: its alarm is a notice.
    #[must_use]
    pub fn of(alarms: impl IntoIterator<Item = Alarm>, unsettled: usize) -> Self {
        let by_alarms = alarms.into_iter().map(|alarm| alarm.weight().health());
        let by_containers = match unsettled {
            0 => Self::Healthy,
            _ => Self::Degraded,
        };
        by_alarms.fold(by_containers, Self::max)
    }

    /// The word, as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The rule for it, in a phrase.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Healthy => {
                "no alarm but notices stands, and every container is as desired: it runs and works \
                 as far as its probe tells, or it is stopped and should be"
            }
            Self::Degraded => {
                "an alarm of the weight Degrading stands, or a container is not as desired \
                 (`unsettled` is not 0), and no heavier alarm stands"
            }
            Self::Unhealthy => "an alarm of the weight Disabling stands",
        }
    }
}

macro_rules! alarms {
    ($($(#[doc = $doc:literal])+ $name:ident: $weight:ident, $remedy:literal;)+) => {
        /// Alarm: a state of the node in which something does not work. Programs match on its code,
        /// which never changes meaning.
        ///
        /// | code | meaning | remedy | weight |
        /// |---|---|---|---|
        $(#[doc = concat!("| `", stringify!($name), "` |", $($doc,)+ " | ", $remedy, " | ", stringify!($weight), " |")])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Alarm { $($(#[doc = $doc])+ $name,)+ }

        impl Alarm {
            /// Every alarm, in the order of the table in the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code as it appears in JSON, in logs and in metrics.
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

            /// The consequence for the node's health.
            #[must_use]
            pub const fn weight(self) -> Weight {
                match self { $(Self::$name => Weight::$weight,)+ }
            }
        }
    };
}

alarms! {
    /// containerd is unreachable; no container can be looked at, started or stopped.
    ContainerdUnreachable: Disabling, "start containerd, and read its log";
    /// A part of the agent is stuck; systemd ends and restarts the agent for it, if it watches over it.
    AgentStuck: Disabling, "nothing, where systemd watches over the agent (WatchdogSec); else restart it. Containers run on; if it comes again, the message says what to look at";
    /// A door of the API cannot be opened; nobody comes in there.
    ListenFailed: Degrading, "free what the message names (a port, a file, space on the disk), or set another one; the agent tries again every 5 s";
    /// The API listens on loopback alone, for nobody has said that other hosts may call it in the clear.
    ListenNarrowed: Degrading, "set api.plain_http or api.listen, as the message says";
    /// Other hosts call the API over plain HTTP; whoever is on the way reads their tokens and what they get.
    ApiInTheClear: Notice, "set api.cert_file and api.key_file, or let the API listen on loopback (api.listen)";
    /// The files of the API's TLS cannot be used, or the certificate does not count now.
    TlsFileUnusable: Degrading, "put a certificate and its key in place, as the message says; they are read again when they change";
    /// The certificate of the API counts only a while longer; then nobody's client believes it.
    TlsExpiring: Notice, "renew the certificate that the message names; it is read again when it changes";
    /// The network for containers cannot be set up; nothing is started or looked at until it is.
    NetworkNotReady: Disabling, "read the message; it names the interface, the rule or the program that is in the way";
    /// A host port of a container is another program's, or the agent's own API's, as well.
    PortContested: Degrading, "give the container or the other program another host port";
    /// Addresses of the containers' subnet are somebody else's on this host as well.
    SubnetShared: Degrading, "move the other, or set network.subnet (network.subnet6) to a free one and deploy the containers again";
    /// Containers get no IPv6 although it is configured: the host cannot have it. IPv4 works.
    Ipv6Unavailable: Degrading, "mend what the message names, or leave network.subnet6 out; containers get IPv6 at their next start after that";
    /// A firewall of the host drops the packets from and to containers.
    ForwardingBlocked: Degrading, "let the bridge's packets pass; the message has the commands";
    /// The kernel tracks nearly as many connections as it may, and drops new ones beyond.
    ConnectionsFull: Degrading, "raise the sysctl net.netfilter.nf_conntrack_max, or find who opens so many";
    /// The host has no name server that a container can reach: outside names do not resolve in containers.
    NoNameServer: Notice, "if containers need outside names, add an IPv4 server that is not on loopback to the host's resolv.conf";
    /// The filter at containers' links, which keeps them from sending as others, cannot be set.
    LinksUnguarded: Notice, "let the kernel have what the message names, or move the other program's filter to a later place (tc filter ... pref 2)";
    /// Containers that are to be closed to each other have a way around the node's rules.
    NeighboursNotClosed: Degrading, "mend what the message names; until then take these containers for open to each other";
    /// Rules between containers that run and whose records cannot be read are lost; until they are known,
    /// all containers without rules of their own are closed to each other.
    NetworkRulesLost: Degrading, "run a version of the agent that reads the records of the containers that the message names; a reboot ends it as well";
    /// A file for registries cannot be used, or an entry of one; pulls that need it fail.
    RegistryFileUnusable: Notice, "correct the file that the message names; it is read again when it changes";
    /// The disk of the images has no more room than its reserve; no image is pulled.
    PullsHeld: Degrading, "free space on the disk that the message names (what runs is not touched), or set image.disk_reserve lower";
    /// runc or containerd have known ways out of a container, by their version.
    RuntimeOutdated: Notice, "update what the message names; a distribution may have mended its own without another number";
    /// A file with a secret can be read or changed by others than its owner.
    SecretReadable: Degrading, "close the file as the message says, and change the secret that others may have read";
    /// The key of secrets is not there, or is not the one that values are stored under.
    SecretsKeyUnusable: Degrading, "put back the file that the message names and restart the agent; or deploy again what has values that no key opens";
    /// Containers reach services of the host, or a cloud's metadata, by defaults of a version before.
    HostOpenToContainers: Notice, "set the keys that the message names; set to what they are, they are meant so";
    /// The node is a way between its networks for others, by a default of a version before.
    RoutesBetweenNetworks: Notice, "set network.route_between_networks to what is meant";
    /// Registries may send the agent with their password to any host, by a default of a version before.
    PasswordsToAnyHost: Notice, "set registry.token_hosts to the hosts that may have them, or to nothing";
    /// Changes cannot be stored; every deploy is refused.
    StateUnwritable: Degrading, "check the disk of state.dir: its space, its permissions, the kernel's log";
    /// The newest copy of the stored state cannot be opened now; what was asked last is not known, and
    /// nothing is started, stopped or changed.
    StateUnknown: Disabling, "free space on the disk of state.dir, or mend what the message names; the agent tries again by itself";
    /// The disk of the stored state has no space left; nothing new can be deployed.
    DiskFull: Degrading, "free space on the disk that the message names";
    /// The disk of the stored state has no inode left; no file can be created on it.
    NoInodes: Degrading, "delete files on the disk that the message names; small ones count as much as large ones";
    /// The stored state was damaged, and is being rebuilt from what containerd holds.
    StateRebuilding: Degrading, "nothing to do while containerd answers; find what damaged the files";
    /// Most containers that are asked stopped working within a minute; none is stopped for its health.
    MostUnhealthy: Degrading, "find what they have in common: the node's network, a disk, a service that all of them use; what is unhealthy alone is stopped again once most work";
    /// Output of a container is lost: no process writes its log, or the disk takes no more of it.
    OutputLost: Degrading, "read the message; it needs room on the disk of the logs, or the container a restart";
    /// Leftovers of containers cannot be removed.
    SweepFailing: Degrading, "read the message; something else holds or protects what it names";
    /// Another node uses this node's id; nothing from CHaS is applied.
    IdentityConflict: Degrading, "give this node another node.id";
    /// CHaS refuses this node's calls.
    ChasRefuses: Degrading, "correct the node's token or certificates, or api.chas_url; the message is CHaS's own";
    /// CHaS does not answer; containers run on, and what was asked last stays in force.
    ChasUnreachable: Notice, "check api.chas_url, and the way to it; the node itself is well";
    /// CHaS is reached by plain HTTP beyond this machine: anybody on the way decides what runs here.
    ChasInTheClear: Degrading, "use https for api.chas_url, or set chas.plain_http: true if everybody on the way is trusted";
    /// CHaS is reached by plain HTTP, as configured.
    ChasPlainHttp: Notice, "use https for api.chas_url";
    /// The set that CHaS answers is not valid; the one before stays in force.
    SetRejected: Degrading, "correct the set in CHaS; the message says what is wrong with it";
    /// No key that this node believes signed the set that CHaS answers, or it is an old one; the one
    /// before stays in force.
    SetUnsigned: Degrading, "find who answers in place of CHaS, or sign the set with one of the node's keys; the message says what is missing";
    /// The file of the keys that sign sets cannot be used; no set is taken.
    SetKeysUnusable: Degrading, "correct the file that the message names; this is a fault of the file, not a sign of an attack";
    /// A part of the set from CHaS waits for a confirmation.
    SetUnconfirmed: Notice, "if it is meant so: chas-node-agent confirm";
    /// The policy's file cannot be used; the policy before stays in force, and without one nothing
    /// new is taken in.
    PolicyUnusable: Degrading, "correct the file that the message names, and try it: chas-node-agent policy check";
    /// The configuration was read again and has faults: the one before stays in force, and the agent will
    /// not start again with this one.
    ConfigUnusable: Degrading, "correct what the message names, then systemctl reload chas-node-agent; chas-node-agent config check shows every fault";
    /// Keys of the configuration have other values by now than those in force; a restart takes them.
    ConfigWaits: Notice, "systemctl restart chas-node-agent, which ends no container; or set the keys back and reload";
    /// The file of the API's clients cannot be used; those before may call, and no others.
    ClientsUnusable: Degrading, "correct the file that the message names; what was revoked in it may still call";
    /// Changes cannot be written down in the audit; with audit.fail_closed none is made.
    AuditFailing: Degrading, "free space on the disk of state.dir, or correct what the message names below audit/";
    /// Containers that run ask for what the policy denies; each runs on until it ends.
    PolicyViolated: Notice, "change these containers, or the policy, before they are started again";
    /// The node's clock is not set: it shows a time before this agent was built.
    ClockUnset: Degrading, "set the clock, or start its time service; certificates cannot be checked until then";
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Alarm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_health_is_that_of_the_heaviest_alarm_and_degraded_with_a_container_that_is_not_as_desired()
     {
        use NodeHealth::{Degraded, Healthy, Unhealthy};
        let (notice, part, all) = (
            Alarm::ChasUnreachable,
            Alarm::DiskFull,
            Alarm::ContainerdUnreachable,
        );
        for (alarms, unsettled, expected) in [
            (&[][..], 0, Healthy),
            (&[notice], 0, Healthy),
            (&[], 1, Degraded),
            (&[notice], 1, Degraded),
            (&[part], 0, Degraded),
            (&[notice, part], 7, Degraded),
            (&[all], 0, Unhealthy),
            (&[part, all, notice], 7, Unhealthy),
        ] {
            let health = NodeHealth::of(alarms.iter().copied(), unsettled);
            assert_eq!(health, expected, "{alarms:?} {unsettled}");
        }
    }

    #[test]
    fn no_two_alarms_mean_or_ask_for_the_same_and_each_is_a_row_of_a_table() {
        for text in [Alarm::as_str, Alarm::meaning, Alarm::remedy] {
            let all: BTreeSet<_> = Alarm::ALL.iter().map(|&alarm| text(alarm)).collect();
            assert_eq!(all.len(), Alarm::ALL.len());
        }
        for &alarm in Alarm::ALL {
            assert!(
                alarm.meaning().ends_with('.') && !alarm.remedy().ends_with('.'),
                "{alarm}"
            );
            assert!(
                !alarm.meaning().contains('|') && !alarm.remedy().contains('|'),
                "{alarm}"
            );
        }
    }
}
