//! The one table of what can be configured: the parser, `--help`, `config check` and the documentation are made from it.

use DefaultValue::{Computed, Text, Unset};

/// What holds when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value, as one would write it.
    Text(&'static str),
    /// What this describes; found out at start-up.
    Computed(&'static str),
    /// Nothing.
    Unset,
}

/// One thing that can be configured.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file, `section.name`.
    pub name: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The flag, without its dashes. `None` for a secret: a command line can be read by everybody.
    pub flag: Option<&'static str>,
    /// What a value looks like.
    pub value: &'static str,
    /// What holds otherwise.
    pub default: DefaultValue,
    /// What it is for, with range and unit.
    pub doc: &'static str,
}

impl Key {
    /// A secret is never shown, and only the environment may hold it.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        self.flag.is_none()
    }

    /// The part of the file it stands in.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.name
            .split_once('.')
            .map_or(self.name, |(section, _)| section)
    }

    /// The default, for people.
    #[must_use]
    pub const fn default_text(&self) -> &'static str {
        match self.default {
            Text(text) | Computed(text) => text,
            Unset => "none",
        }
    }
}

/// The key of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(
    name: &'static str,
    env: &'static str,
    flag: &'static str,
    value: &'static str,
    default: DefaultValue,
    doc: &'static str,
) -> Key {
    Key {
        name,
        env,
        flag: Some(flag),
        value,
        default,
        doc,
    }
}

/// Everything that can be configured, in the order in which it is shown.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("api.chas_url", "CHAS_API_URL", "chas-url", "URL", Unset,
        "The CHaS API server. Without it the agent registers nowhere and runs only what is pushed to it"),
    key("api.port", "NODE_PORT", "port", "PORT", Text("9090"),
        "The port the agent's own API listens on, 1 to 65535"),
    key("api.listen", "CHAS_LISTEN", "listen", "ADDRESS", Computed("127.0.0.1, or 0.0.0.0 with a token"),
        "The address the agent's own API listens on. Anything but loopback needs a token"),
    key("api.token_file", "CHAS_TOKEN_FILE", "token-file", "PATH", Unset,
        "A file with the token that callers of the agent's API present, at least 16 characters"),
    Key { name: "api.token", env: "CHAS_TOKEN", flag: None, value: "TOKEN", default: Unset,
        doc: "The token itself, where a file will not do; only from the environment" },
    key("chas.token_file", "CHAS_API_TOKEN_FILE", "chas-token-file", "PATH", Unset,
        "A file with the token that the agent presents to CHaS; read anew for every call, so that it can be changed"),
    Key { name: "chas.token", env: "CHAS_API_TOKEN", flag: None, value: "TOKEN", default: Unset,
        doc: "That token itself, where a file will not do; only from the environment" },
    key("chas.ca_file", "CHAS_API_CA_FILE", "chas-ca-file", "PATH", Unset,
        "Certificates (PEM) that CHaS is trusted by, instead of the system's"),
    key("chas.cert_file", "CHAS_API_CERT_FILE", "chas-cert-file", "PATH", Unset,
        "The certificate (PEM, with its chain) that the agent presents to CHaS; with chas.key_file"),
    key("chas.key_file", "CHAS_API_KEY_FILE", "chas-key-file", "PATH", Unset,
        "The key (PEM) of chas.cert_file"),
    key("node.id", "NODE_ID", "node-id", "NAME", Computed("the hostname"),
        "The node's name in CHaS, 1 to 253 letters, digits, '.', '-' and '_'"),
    key("node.hostname", "NODE_HOSTNAME", "hostname", "NAME", Computed("the hostname"),
        "The hostname the node registers with"),
    key("node.address", "NODE_ADDRESS", "node-address", "ADDRESS", Computed("the address of the default route"),
        "The IP address that the node registers with"),
    key("node.labels", "NODE_LABELS", "node-labels", "KEY=VALUE[,KEY=VALUE]", Unset,
        "What the node registers with for schedulers to choose by; a list in the file"),
    key("containerd.socket", "CONTAINERD_SOCKET", "containerd-socket", "PATH", Text("/run/containerd/containerd.sock"),
        "containerd's socket"),
    key("containerd.namespace", "CHAS_NAMESPACE", "namespace", "NAME", Text("chas"),
        "containerd's namespace for our containers; what is in others is never touched"),
    key("monitoring.health_interval", "HEALTH_INTERVAL", "health-interval", "DURATION", Text("30"),
        "How often the node's health is sampled and reported, 1s to 1h; a bare number means seconds"),
    key("monitoring.metrics_enabled", "METRICS_ENABLED", "metrics-enabled", "BOOL", Text("true"),
        "Whether GET /metrics answers"),
    key("logging.level", "LOG_LEVEL", "log-level", "LEVEL", Text("INFO"),
        "ERROR, WARN, INFO, DEBUG, TRACE or OFF, or directives such as info,chas_node_agent::reconcile=debug"),
    key("logging.format", "LOG_FORMAT", "log-format", "FORMAT", Text("text"),
        "text or json"),
    key("logging.file", "LOG_FILE", "log-file", "PATH", Unset,
        "A file the agent's own log is appended to, instead of stderr"),
    key("state.dir", "CHAS_STATE_DIR", "state-dir", "PATH", Text("/var/lib/chas/node-agent"),
        "What must survive a reboot: the desired state, volumes, the containers' output"),
    key("state.run_dir", "CHAS_RUN_DIR", "run-dir", "PATH", Text("/run/chas"),
        "What must not survive a reboot; on a tmpfs"),
    key("network.bridge", "CHAS_BRIDGE", "bridge", "NAME", Text("chas0"),
        "The bridge the containers are attached to, at most 15 characters"),
    key("network.subnet", "CHAS_SUBNET", "subnet", "CIDR", Text("10.231.0.0/16"),
        "The containers' addresses: a private IPv4 network, /8 to /29"),
    key("network.port_range", "CHAS_PORT_RANGE", "port-range", "FIRST-LAST", Text("20000-29999"),
        "Host ports given to containers that ask for any"),
    key("registry.insecure", "CHAS_REGISTRY_INSECURE", "registry-insecure", "HOST[,HOST]", Unset,
        "Registries that are spoken to in plain HTTP, as host or host:port; a list in the file"),
    key("registry.auth_file", "CHAS_REGISTRY_AUTH_FILE", "registry-auth-file", "PATH", Unset,
        "Credentials for registries, in the format of docker's config.json"),
    key("registry.ca_file", "CHAS_REGISTRY_CA_FILE", "registry-ca-file", "PATH", Unset,
        "Certificates (PEM) that registries are trusted by, besides the system's"),
    key("registry.stall_timeout", "CHAS_REGISTRY_STALL_TIMEOUT", "registry-stall-timeout", "DURATION", Text("30s"),
        "A pull that receives nothing for so long is tried again, 1s to 10m"),
    key("containers.max", "CHAS_CONTAINERS_MAX", "containers-max", "COUNT", Text("1000"),
        "Containers this node accepts, 1 to 10000"),
    key("reconcile.resync_interval", "CHAS_RESYNC_INTERVAL", "resync-interval", "DURATION", Text("30s"),
        "How often everything is compared anew, 1s to 10m; events are acted on at once"),
];
