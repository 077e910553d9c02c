//! Table of all configuration keys, from which the parser, `--help` and `config check` are made.

use DefaultValue::{Computed, Text, Unset};

/// The default of a configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultValue {
    /// A value, as it would be written.
    Text(&'static str),
    /// A value that is found out at start-up, and its description.
    Computed(&'static str),
    /// No value.
    Unset,
}

/// A configuration key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfigKey {
    /// Name in the file, `section.name`.
    pub name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Flag, without its dashes. `None` for a secret, since every user can read a command line.
    pub flag: Option<&'static str>,
    /// Placeholder that shows the form of a value.
    pub value: &'static str,
    /// Default.
    pub default: DefaultValue,
    /// Description, with range and unit.
    pub doc: &'static str,
}

impl ConfigKey {
    /// Whether the value is a secret, which is never shown and is set by the environment alone.
    #[must_use]
    pub(crate) const fn is_secret(&self) -> bool {
        self.flag.is_none()
    }

    /// The section of the file that the key belongs to.
    #[must_use]
    pub(crate) fn section(&self) -> &'static str {
        self.name
            .split_once('.')
            .map_or(self.name, |(section, _)| section)
    }

    /// The default as text for people.
    #[must_use]
    pub(crate) const fn default_text(&self) -> &'static str {
        match self.default {
            Text(text) | Computed(text) => text,
            Unset => "none",
        }
    }
}

/// The key with this name.
#[must_use]
pub(crate) fn find(name: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(
    name: &'static str,
    env: &'static str,
    flag: &'static str,
    value: &'static str,
    default: DefaultValue,
    doc: &'static str,
) -> ConfigKey {
    ConfigKey {
        name,
        env,
        flag: Some(flag),
        value,
        default,
        doc,
    }
}

/// All configuration keys, in the order in which they are shown.
#[rustfmt::skip]
pub(crate) const KEYS: &[ConfigKey] = &[
    key("api.chas_url", "CHAS_API_URL", "chas-url", "URL", Unset,
        "URL of the CHaS API server. Without it, the node does not register and runs only \
         containers that are pushed to it"),
    key("api.port", "NODE_PORT", "port", "PORT", Text("9090"),
        "Port the agent's own API listens on, 1 to 65535"),
    key("api.listen", "CHAS_LISTEN", "listen", "ADDRESS", Computed("127.0.0.1; 0.0.0.0 on a node from before 0.2 that has a token"),
        "IP address the agent's own API listens on, besides the socket agent.sock in \
         state.run_dir. Any address but loopback requires api.cert_file or api.plain_http"),
    key("api.plain_http", "CHAS_PLAIN_HTTP", "plain-http", "BOOL", Text("false"),
        "Whether other hosts may call the API over plain HTTP, where everybody on the way reads \
         the token: true or false"),
    key("api.hosts", "CHAS_HOSTS", "hosts", "NAME[,NAME]", Unset,
        "Names by which the API is called, besides node.hostname, node.id, localhost and addresses; a \
         call for another name is refused; a list in the file"),
    key("api.token_file", "CHAS_TOKEN_FILE", "token-file", "PATH", Unset,
        "File with the token that callers of the agent's API present over TCP, at least 16 \
         characters. Without one, the agent makes a token, in the file admin-token in state.dir"),
    key("api.cert_file", "CHAS_TLS_CERT_FILE", "tls-cert-file", "PATH", Unset,
        "File of the certificate (PEM, with its chain) that the API shows; with it, api.port speaks TLS \
         and nothing else. Read again when it changes; requires api.key_file"),
    key("api.key_file", "CHAS_TLS_KEY_FILE", "tls-key-file", "PATH", Unset,
        "File of the private key (PEM) of api.cert_file"),
    key("api.client_ca_file", "CHAS_TLS_CLIENT_CA_FILE", "tls-client-ca-file", "PATH", Unset,
        "File of CA certificates (PEM) whose certificates prove who a client of api.clients_file is; \
         requires api.cert_file"),
    key("api.clients_file", "CHAS_CLIENTS_FILE", "clients-file", "PATH", Text("/etc/chas/clients.yaml"),
        "File of the clients of the API, with their roles and the fingerprints of their tokens; read \
         again when it changes, written by `token`. Without the file there are none"),
    ConfigKey { name: "api.token", env: "CHAS_TOKEN", flag: None, value: "TOKEN", default: Unset,
        doc: "The token itself, instead of a file; set by the environment only" },
    key("chas.token_file", "CHAS_API_TOKEN_FILE", "chas-token-file", "PATH", Unset,
        "File with the token that the agent presents to CHaS; read for every call, so that it can \
         be replaced"),
    ConfigKey { name: "chas.token", env: "CHAS_API_TOKEN", flag: None, value: "TOKEN", default: Unset,
        doc: "This token itself, instead of a file; set by the environment only" },
    key("chas.ca_file", "CHAS_API_CA_FILE", "chas-ca-file", "PATH", Unset,
        "File of CA certificates (PEM) to trust for CHaS, instead of the system's"),
    key("chas.cert_file", "CHAS_API_CERT_FILE", "chas-cert-file", "PATH", Unset,
        "File of the client certificate (PEM, with its chain) that the agent presents to CHaS; \
         requires chas.key_file"),
    key("chas.key_file", "CHAS_API_KEY_FILE", "chas-key-file", "PATH", Unset,
        "File of the private key (PEM) of chas.cert_file"),
    key("chas.plain_http", "CHAS_API_PLAIN_HTTP", "chas-plain-http", "BOOL", Text("false"),
        "Whether CHaS may be reached by http beyond this machine; without it the node works, and is \
         degraded: true or false"),
    key("chas.set_key_file", "CHAS_SET_KEY_FILE", "chas-set-key-file", "PATH", Unset,
        "File of public keys (PEM, ed25519), of which one must have signed each set of CHaS; read \
         for every set"),
    key("node.id", "NODE_ID", "node-id", "NAME", Computed("the hostname"),
        "Unique name of the node in CHaS, 1 to 253 letters, digits, '.', '-' and '_'"),
    key("node.hostname", "NODE_HOSTNAME", "hostname", "NAME", Computed("the hostname"),
        "Hostname that the node registers"),
    key("node.address", "NODE_ADDRESS", "node-address", "ADDRESS", Computed("the address of the default route"),
        "IP address that the node registers"),
    key("node.labels", "NODE_LABELS", "node-labels", "KEY=VALUE[,KEY=VALUE]", Unset,
        "Labels that the node registers, by which schedulers choose nodes; at most 64; a list in \
         the file"),
    key("containerd.socket", "CONTAINERD_SOCKET", "containerd-socket", "PATH", Text("/run/containerd/containerd.sock"),
        "Path of containerd's socket"),
    key("containerd.namespace", "CHAS_NAMESPACE", "namespace", "NAME", Text("chas"),
        "containerd namespace of the agent's containers; other namespaces are never touched"),
    key("monitoring.health_interval", "HEALTH_INTERVAL", "health-interval", "DURATION", Text("30"),
        "Interval at which the node's health is sampled and reported, 1s to 1h; a bare number \
         means seconds"),
    key("monitoring.metrics_enabled", "METRICS_ENABLED", "metrics-enabled", "BOOL", Text("true"),
        "Whether GET /metrics is served: true or false"),
    key("logging.level", "LOG_LEVEL", "log-level", "LEVEL", Text("INFO"),
        "Level of the agent's own log: ERROR, WARN, INFO, DEBUG, TRACE or OFF, or directives such \
         as info,chas_node_agent::reconcile=debug"),
    key("logging.format", "LOG_FORMAT", "log-format", "FORMAT", Text("text"),
        "Format of the agent's own log: text or json"),
    key("logging.file", "LOG_FILE", "log-file", "PATH", Unset,
        "File that the agent's own log is appended to, instead of stderr"),
    key("logging.max_size", "LOG_MAX_SIZE", "log-max-size", "SIZE", Text("64MiB"),
        "Size of logging.file beyond which it becomes <file>.1 and another one is begun, 64KiB to 10GiB"),
    key("logging.max_files", "LOG_MAX_FILES", "log-max-files", "COUNT", Text("5"),
        "Number of such files that are kept, with the one that is written, 1 to 100"),
    key("state.dir", "CHAS_STATE_DIR", "state-dir", "PATH", Text("/var/lib/chas/node-agent"),
        "Directory that must survive a reboot: holds the desired state, volumes and the \
         containers' logs"),
    key("state.run_dir", "CHAS_RUN_DIR", "run-dir", "PATH", Text("/run/chas"),
        "Directory that must not survive a reboot; on a tmpfs"),
    key("network.bridge", "CHAS_BRIDGE", "bridge", "NAME", Text("chas0"),
        "Name of the bridge that containers are attached to, at most 15 characters"),
    key("network.subnet", "CHAS_SUBNET", "subnet", "CIDR|auto", Text("10.231.0.0/16"),
        "Subnet of the containers' addresses: a private IPv4 network, /8 to /29; or auto, which is one \
         that no address, route or name server of the host overlaps when the agent first starts, kept \
         in the file subnet in state.dir"),
    key("network.subnet6", "CHAS_SUBNET6", "subnet6", "CIDR|auto", Unset,
        "IPv6 subnet of the containers' addresses beside the IPv4 one, /48 to /112, unique local or led \
         to this host; or auto, which is a unique local one that is drawn at the first start and kept in \
         the file subnet6 in state.dir. Without it containers have no IPv6"),
    key("network.port_range", "CHAS_PORT_RANGE", "port-range", "FIRST-LAST", Text("20000-29999"),
        "Host ports for containers that ask for any port, 1024 to 65535"),
    key("network.host_access", "CHAS_HOST_ACCESS", "host-access", "open|closed|PORT[,PORT]", Computed("closed; open on a node from before 0.2"),
        "Services of this host that containers reach: open for all, closed for name servers (port \
         53) and ping alone, or these and ports such as tcp/8080,udp/8125; a list in the file. \
         Published ports of containers are not meant"),
    key("network.link_local", "CHAS_LINK_LOCAL", "link-local", "BOOL", Computed("false; true on a node from before 0.2"),
        "Whether containers reach link-local addresses (169.254.0.0/16), where clouds hand out \
         the node's credentials; name servers there are reached always: true or false"),
    key("network.isolation", "CHAS_ISOLATION", "isolation", "open|isolated", Text("open"),
        "Whether containers of this node reach each other and see each other's names: open, or \
         isolated, where they reach each other's published ports only; for those with \
         network.groups or network.allow in their bodies, these decide"),
    key("network.source_guard", "CHAS_SOURCE_GUARD", "source-guard", "BOOL", Text("true"),
        "Whether a container can send from its own addresses only, so that none takes a \
         neighbour's: true or false"),
    key("network.route_between_networks", "CHAS_ROUTE_BETWEEN_NETWORKS", "route-between-networks", "BOOL", Computed("false; true on a node from before 0.2"),
        "Whether others may use this node as a way between its networks, once the agent has switched \
         forwarding on for containers; a node that forwarded before goes on: true or false"),
    key("registry.insecure", "CHAS_REGISTRY_INSECURE", "registry-insecure", "HOST[,HOST]", Unset,
        "Registries to call over plain HTTP, as host or host:port; a list in the file"),
    key("registry.auth_file", "CHAS_REGISTRY_AUTH_FILE", "registry-auth-file", "PATH", Unset,
        "File of credentials for registries, in the format of docker's config.json or podman's \
         auth.json"),
    key("registry.token_hosts", "CHAS_REGISTRY_TOKEN_HOSTS", "registry-token-hosts", "HOST[,HOST]", Unset,
        "Hosts of other domains to which registries may send the agent, with the registry's \
         password, for tokens; a list in the file; \"any\" is every host with TLS, and the default \
         of a node from 0.1"),
    key("registry.ca_file", "CHAS_REGISTRY_CA_FILE", "registry-ca-file", "PATH", Unset,
        "File of CA certificates (PEM) to trust for registries, besides the system's"),
    key("registry.stall_timeout", "CHAS_REGISTRY_STALL_TIMEOUT", "registry-stall-timeout", "DURATION", Text("30s"),
        "Time after which a connection that brings nothing, or less than 1 KiB/s, is given up and \
         retried, 1s to 10m"),
    key("registry.connect_timeout", "CHAS_REGISTRY_CONNECT_TIMEOUT", "registry-connect-timeout", "DURATION", Text("10s"),
        "Time to look up and connect to a registry, TLS included, 1s to 2m"),
    key("registry.answer_timeout", "CHAS_REGISTRY_ANSWER_TIMEOUT", "registry-answer-timeout", "DURATION", Computed("registry.stall_timeout"),
        "Time from a request to the head of a registry's answer, connecting included, 1s to 10m"),
    key("registry.pulls_max", "CHAS_REGISTRY_PULLS_MAX", "registry-pulls-max", "COUNT", Text("8"),
        "Pulls of the node at once, 1 to 64; one that does not move leaves its place to others"),
    key("registry.pulls_per_registry", "CHAS_REGISTRY_PULLS_PER_REGISTRY", "registry-pulls-per-registry", "COUNT", Text("3"),
        "Pulls from one registry at once, 1 to 64"),
    key("registry.hosts_dir", "CHAS_REGISTRY_HOSTS_DIR", "registry-hosts-dir", "PATH", Text("/etc/containerd/certs.d"),
        "Directory of mirrors, certificates and headers by registry, as containerd reads it \
         (HOST/hosts.toml); it need not exist"),
    key("registry.follow_interval", "CHAS_REGISTRY_FOLLOW_INTERVAL", "registry-follow-interval", "DURATION", Unset,
        "Interval at which the tags of running containers with image_pull: always are asked for \
         anew, 1m to 7d; a container whose tag has moved is restarted from the new image. Without \
         it, they are asked for when somebody restarts or pulls"),
    key("registry.https_proxy", "HTTPS_PROXY", "registry-https-proxy", "URL", Unset,
        "Proxy to registries with TLS; https_proxy and ALL_PROXY count too"),
    key("registry.http_proxy", "HTTP_PROXY", "registry-http-proxy", "URL", Unset,
        "Proxy to registries without TLS; http_proxy and ALL_PROXY count too"),
    key("registry.no_proxy", "NO_PROXY", "registry-no-proxy", "HOST[,HOST]", Unset,
        "Hosts, domains and networks that are reached without a proxy; no_proxy counts too; \
         loopback always is"),
    key("image.max_unpacked", "CHAS_IMAGE_MAX_UNPACKED", "image-max-unpacked", "SIZE", Computed("64Gi; none on a node from before 0.2"),
        "Most of the disk that one image may take once it is unpacked; 1Mi or more"),
    key("image.disk_reserve", "CHAS_IMAGE_DISK_RESERVE", "image-disk-reserve", "SIZE", Computed("5 % of the disk, at most 2Gi; 1 %, at most 256Mi, on a node from before 0.2"),
        "Part of the disks of containerd's images that pulls leave free: below it they wait; 0 is none"),
    key("containers.max", "CHAS_CONTAINERS_MAX", "containers-max", "COUNT", Text("1000"),
        "Most containers that this node accepts, 1 to 10000"),
    key("containers.system_cpu", "CHAS_SYSTEM_CPU", "system-cpu", "CPUS", Text("0"),
        "CPU time of the system itself, such as 0.5: what containers reserve has to fit into the rest"),
    key("containers.system_memory", "CHAS_SYSTEM_MEMORY", "system-memory", "SIZE", Text("0"),
        "Memory of the system itself, such as 512m: what containers reserve has to fit into the rest"),
    key("containers.allow_new_privileges", "CHAS_ALLOW_NEW_PRIVILEGES", "allow-new-privileges", "BOOL", Text("false"),
        "Whether a container may ask for security.no_new_privileges: false, with which setuid \
         programs such as sudo work: true or false"),
    key("containers.allow_host_network", "CHAS_ALLOW_HOST_NETWORK", "allow-host-network", "BOOL", Text("false"),
        "Whether a container may ask for network: host, and so reach and be all that the host is on \
         its networks, loopback among them: true or false"),
    key("containers.capabilities", "CHAS_CAPABILITIES", "capabilities", "NAME[,NAME]",
        Text("AUDIT_WRITE,CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,NET_BIND_SERVICE,SETFCAP,SETGID,SETPCAP,SETUID,SYS_CHROOT"),
        "Capabilities that a container may have, if it asks for them or drops none; a list in the \
         file. Docker's NET_RAW and MKNOD are withheld by default; ALL means docker's whole list, \
         NONE means none. One beyond docker's list has who asks for it by \
         security.capabilities.add. Counts for containers that are created from then on"),
    key("containers.devices", "CHAS_DEVICES", "devices", "NAME[,NAME]", Unset,
        "Devices that a container may ask for by devices: device nodes, names of the Container Device \
         Interface (CDI), or the beginning of some and '*', such as /dev/fuse,vendor.com/gpu=*; a list in \
         the file. Without it there are none"),
    key("containers.host_paths", "CHAS_HOST_PATHS", "host-paths", "PATH[:ro][,PATH[:ro]]", Unset,
        "Directories and files of this host that containers may mount by host_path, with all below them, \
         such as /srv/data,/etc/ssl/certs:ro (only to be read); a list in the file. Nothing that is the \
         agent's, containerd's or the kernel's. Without it there are none"),
    key("containers.runtimes", "CHAS_RUNTIMES", "runtimes", "NAME=RUNTIME[,NAME=RUNTIME]", Unset,
        "Runtimes that a container may ask for by runtime, besides runc: NAME=PROGRAM with the path of a \
         program that is called as runc is, or NAME=SHIM with a runtime of containerd, such as \
         crun=/usr/bin/crun,kata=io.containerd.kata.v2; a list in the file"),
    key("containers.allow_socketcall", "CHAS_ALLOW_SOCKETCALL", "allow-socketcall", "BOOL", Text("false"),
        "Whether 32 bit programs on x86 may make sockets by socketcall, as those of glibc and Go do, \
         at the price that they can make ones that reach past the container: true or false"),
    key("containers.user_namespaces", "CHAS_USER_NAMESPACES", "user-namespaces", "auto|off", Computed("auto; off on a node from before 0.2"),
        "Whether a container's users and groups have ids of their own on this host, so that its root is \
         nobody here: auto, where containerd (2.0 or later) and the kernel can map them, or off. Counts \
         for containers that are created from then on"),
    key("containers.user_ids", "CHAS_USER_IDS", "user-ids", "FIRST-LAST", Text("2000224256-2147352575"),
        "Ids of this host for containers, 65536 for each, 65536 to 2147483647; what /etc/subuid, \
         /etc/subgid and accounts have is left out"),
    key("logs.rate", "CHAS_LOG_RATE", "log-rate", "SIZE", Unset,
        "Most bytes that a container may print in a second, over ten seconds, 64KiB to 1GiB; what \
         is beyond is left out of its log, which says how much. Unset: any number"),
    key("logs.user", "CHAS_LOG_USER", "log-user", "USER", Computed("chas-logger if there is such a user, else root"),
        "User who writes the containers' logs, by its name in /etc/passwd or its number; counts for \
         containers that start from then on"),
    key("audit.fail_closed", "CHAS_AUDIT_FAIL_CLOSED", "audit-fail-closed", "BOOL", Text("false"),
        "Whether a change that cannot be written into the audit is refused, stops and removals \
         among them; each line is then synced to disk first: true or false"),
    key("policy.file", "CHAS_POLICY_FILE", "policy-file", "PATH", Text("/etc/chas/policy.yaml"),
        "File with the rules by which this node denies what containers ask for, whoever asks; read \
         again when it changes. The default one need not exist, one that is named must"),
    key("secrets.key_file", "CHAS_SECRETS_KEY_FILE", "secrets-key-file", "PATH",
        Computed("the systemd credential secrets-key if there is one, else secrets.key in state.dir"),
        "File with the key that secret values are stored under, at least 32 random bytes. The one in \
         state.dir is made at the first start; one that is named must be there"),
    key("reconcile.resync_interval", "CHAS_RESYNC_INTERVAL", "resync-interval", "DURATION", Text("30s"),
        "Interval at which all containers are compared with the desired state, 1s to 10m; events \
         are handled at once"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_configuration_has_a_row_for_each_key() {
        let page = include_str!("../../contrib/docs/configuration.md");
        let rows: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let cell = |text: &str| text.replace('|', "\\|");
        for key in KEYS {
            let flag = key
                .flag
                .map(|flag| format!("`--{flag} {}`", cell(key.value)));
            let row = format!(
                "| `{}` | `{}` | {} | {} | {} |",
                key.name,
                key.env,
                flag.as_deref().unwrap_or("none"),
                cell(key.default_text()),
                cell(key.doc)
            );
            assert!(rows.contains(&row.as_str()), "the page lacks: {row}");
        }
        assert_eq!(rows.len(), KEYS.len());
    }
}
