//! Puts flags, environment, file and defaults over one another, and makes the typed configuration of what is on top.

use super::keys::{DefaultValue, KEYS, Key};
use super::parse::{self, Parsed};
use super::*;

/// The environment variable that names the file.
pub const FILE_VARIABLE: &str = "CHAS_CONFIG";

const SECOND: Duration = Duration::from_secs(1);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The file; it must exist.
    pub file: Option<PathBuf>,
    /// Values by key.
    pub values: BTreeMap<&'static str, String>,
}

/// A value in force, for showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// The value as it was written; a secret's is masked. `None`: unset.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// What loading gave: what is in force (as far as it is known), and the configuration or all its faults.
#[derive(Debug)]
pub struct Loaded {
    /// Every key, in the table's order.
    pub effective: Vec<Effective>,
    /// The configuration, if nothing is wrong.
    pub outcome: Result<Config, ConfigFaults>,
}

/// Loads the configuration: a flag wins over the environment, that over the file, that over the default. An empty variable
/// counts as unset. Reads the configuration's and the token's file; blocks.
pub fn load(flags: &Flags, environment: &dyn Fn(&str) -> Option<OsString>) -> Loaded {
    let mut layers = Layers {
        values: BTreeMap::new(),
        faults: Vec::new(),
    };
    layers.read_file(flags, environment);
    layers.read_environment(environment);
    for (name, value) in &flags.values {
        if let Some((key, flag)) = keys::find(name).and_then(|key| Some((key, key.flag?))) {
            layers
                .values
                .insert(key.name, (value.clone(), Origin::Flag(flag)));
        }
    }
    let config = layers.config();
    let effective = KEYS.iter().map(|key| layers.effective(key)).collect();
    let outcome = if layers.faults.is_empty() {
        Ok(config)
    } else {
        Err(ConfigFaults(layers.faults))
    };
    Loaded { effective, outcome }
}

/// The topmost text of each key, and what was found wrong so far.
struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
    faults: Vec<Fault>,
}

impl Layers {
    fn read_file(&mut self, flags: &Flags, environment: &dyn Fn(&str) -> Option<OsString>) {
        let named = flags
            .file
            .clone()
            .map(|path| (path, Origin::Flag("config")));
        let named = named.or_else(|| {
            Some((
                PathBuf::from(environment(FILE_VARIABLE)?),
                Origin::Environment(FILE_VARIABLE),
            ))
        });
        let (path, named) = named.map_or_else(
            || (PathBuf::from(DEFAULT_FILE), None),
            |(path, origin)| (path, Some(origin)),
        );
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let (values, faults) = file::read(&path, &text);
                self.values.extend(values);
                self.faults.extend(faults);
            }
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.faults.push(Fault {
                    origin: named.unwrap_or(Origin::Default),
                    key: String::new(),
                    message,
                });
            }
        }
    }

    fn read_environment(&mut self, environment: &dyn Fn(&str) -> Option<OsString>) {
        for key in KEYS {
            let Some(value) = environment(key.env).filter(|value| !value.is_empty()) else {
                continue;
            };
            let origin = Origin::Environment(key.env);
            match value.into_string() {
                Ok(text) => drop(self.values.insert(key.name, (text, origin))),
                Err(_) => self.faults.push(Fault {
                    origin,
                    key: key.name.to_owned(),
                    message: "is not UTF-8".to_owned(),
                }),
            }
        }
    }

    fn effective(&self, key: &'static Key) -> Effective {
        let (value, origin) = match (self.values.get(key.name), key.default) {
            (Some((text, origin)), _) => (Some(text.clone()), origin.clone()),
            (None, DefaultValue::Text(text)) => (Some(text.to_owned()), Origin::Default),
            (None, DefaultValue::Computed(_) | DefaultValue::Unset) => (None, Origin::Default),
        };
        Effective {
            key: key.name,
            value: value.map(|text| {
                if key.is_secret() {
                    "***".to_owned()
                } else {
                    text
                }
            }),
            origin,
        }
    }

    /// The key's value, if it is set and right.
    fn optional<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let (text, _) = self.values.get(name)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(name, message);
                None
            }
        }
    }

    /// The key's value; its default if it is unset, or wrong, so that the rest can be looked at too.
    fn value<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> T {
        self.optional(name, &parse).unwrap_or_else(|| {
            let default = keys::find(name)
                .expect("only keys of the table are asked for")
                .default_text();
            parse(default).expect("the table's defaults are right: a test loads them")
        })
    }

    /// As `value`, with a default that is found out only now, and shown as if it had been written.
    fn computed<T>(
        &mut self,
        name: &'static str,
        default: String,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        self.values
            .entry(name)
            .or_insert((default, Origin::Default));
        self.optional(name, parse)
    }

    fn fault(&mut self, name: &'static str, message: String) {
        let origin = self
            .values
            .get(name)
            .map_or(Origin::Default, |(_, origin)| origin.clone());
        self.faults.push(Fault {
            origin,
            key: name.to_owned(),
            message,
        });
    }

    fn config(&mut self) -> Config {
        let hostname = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let pulls = parse::duration(SECOND..=TEN_MINUTES);
        Config {
            api: self.api(),
            chas: self.chas(),
            node: Node {
                id: self
                    .computed("node.id", hostname.clone(), parse::node_name)
                    .unwrap_or_default(),
                hostname: self
                    .computed("node.hostname", hostname, parse::node_name)
                    .unwrap_or_default(),
                address: self.optional("node.address", parse::address),
                labels: self
                    .optional("node.labels", parse::labels)
                    .unwrap_or_default(),
            },
            containerd: Containerd {
                socket: self.value("containerd.socket", parse::path),
                namespace: self.value("containerd.namespace", parse::namespace),
            },
            monitoring: Monitoring {
                health_interval: self
                    .value("monitoring.health_interval", parse::duration(SECOND..=HOUR)),
                metrics_enabled: self.value("monitoring.metrics_enabled", parse::flag),
            },
            logging: Logging {
                level: self.value("logging.level", parse::log_level),
                format: self.value("logging.format", parse::log_format),
                file: self.optional("logging.file", parse::path),
            },
            state: State {
                dir: self.value("state.dir", parse::path),
                run_dir: self.value("state.run_dir", parse::path),
            },
            network: Network {
                bridge: self.value("network.bridge", parse::interface),
                subnet: self.value("network.subnet", parse::subnet),
                port_range: self.value("network.port_range", parse::port_range),
            },
            registry: Registry {
                insecure: self
                    .optional("registry.insecure", parse::hosts)
                    .unwrap_or_default(),
                auth_file: self.optional("registry.auth_file", parse::path),
                ca_file: self.optional("registry.ca_file", parse::path),
                stall_timeout: self.value("registry.stall_timeout", &pulls),
            },
            containers: Containers {
                max: self.value("containers.max", parse::number(1..=10_000)),
            },
            reconcile: Reconcile {
                resync_interval: self.value("reconcile.resync_interval", pulls),
            },
        }
    }

    fn api(&mut self) -> Api {
        let faults_before = self.faults.len();
        let token = self.token();
        let token_is_wrong = self.faults.len() > faults_before;
        let default = if token.is_some() || token_is_wrong {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        };
        let listen = self
            .computed("api.listen", default.to_string(), parse::address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if token.is_none() && !token_is_wrong && !listen.is_loopback() {
            let why = "can be reached from other hosts, and without a token anybody there could run containers as root here";
            self.fault(
                "api.listen",
                format!("{listen} {why}: set api.token_file, or listen on 127.0.0.1"),
            );
        }
        let port = self.value("api.port", parse::number(1..=u16::MAX));
        Api {
            listen: SocketAddr::new(listen, port),
            token,
        }
    }

    fn chas(&mut self) -> Option<Chas> {
        let url = self.optional("api.chas_url", parse::url);
        let token = self.optional("chas.token", parse::token);
        // The files are read when they are needed: CHaS is on no way to a start.
        let [token_file, ca_file, cert_file, key_file] = [
            "chas.token_file",
            "chas.ca_file",
            "chas.cert_file",
            "chas.key_file",
        ]
        .map(|name| self.optional(name, parse::path));
        if token.is_some() && token_file.is_some() {
            self.fault(
                "chas.token_file",
                "CHAS_API_TOKEN is set too: keep one of them".to_owned(),
            );
        }
        for (one, other, is_alone) in [
            (
                "chas.cert_file",
                "chas.key_file",
                cert_file.is_some() && key_file.is_none(),
            ),
            (
                "chas.key_file",
                "chas.cert_file",
                cert_file.is_none() && key_file.is_some(),
            ),
        ] {
            if is_alone {
                self.fault(one, format!("is of no use without {other}"));
            }
        }
        if url.as_ref().is_some_and(|url| url.scheme() == "http")
            && (ca_file.is_some() || cert_file.is_some())
        {
            self.fault(
                "api.chas_url",
                "chas.ca_file and chas.cert_file are for an https URL".to_owned(),
            );
        }
        Some(Chas {
            url: url?,
            token,
            token_file,
            ca_file,
            identity: cert_file.zip(key_file),
        })
    }

    fn token(&mut self) -> Option<Secret> {
        let given = self.optional("api.token", parse::token);
        let from_file = self.optional("api.token_file", |text| {
            let path: &Path = &parse::path(text)?;
            let secret = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            parse::token(&secret).map_err(|why| format!("{}: {why}", path.display()))
        });
        if self.values.contains_key("api.token") && self.values.contains_key("api.token_file") {
            self.fault(
                "api.token_file",
                "CHAS_TOKEN is set too: keep one of them".to_owned(),
            );
        }
        given.or(from_file)
    }
}

#[cfg(test)]
mod tests;
