//! Layers of the configuration: flags over environment over file over defaults. The topmost values
//! become the typed configuration.

use super::keys::{ConfigKey, DefaultValue, KEYS};
use super::parse::{self, Parsed};
use super::*;

/// Environment variable that names the configuration file.
pub const FILE_VARIABLE: &str = "CHAS_CONFIG";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const WEEK: Duration = Duration::from_hours(7 * 24);
const TWO_MINUTES: Duration = Duration::from_secs(120);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);

/// Flags of the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Configuration file; it must exist.
    pub file: Option<PathBuf>,
    /// Values by the name of their key.
    pub values: BTreeMap<&'static str, String>,
}

/// A value in force, as `config check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveValue {
    /// Name of the key.
    pub key: &'static str,
    /// Value as it was written; a secret is masked. `None`: unset.
    pub value: Option<String>,
    /// Origin of the value.
    pub origin: Origin,
}

/// A loaded configuration: the values in force, and the typed configuration or all errors in it.
#[derive(Debug)]
pub struct LoadedConfig {
    /// Values of all keys, in the order of the table.
    pub effective: Vec<EffectiveValue>,
    /// Typed configuration, or every error in it.
    pub outcome: Result<Config, ConfigErrors>,
}

/// Loads the configuration. A flag takes precedence over the environment, the environment over the
/// file, the file over the default; an empty variable counts as unset. Reads the configuration file
/// and the token file; blocks.
pub fn load(flags: &Flags, environment: &dyn Fn(&str) -> Option<OsString>) -> LoadedConfig {
    let mut layers = Layers {
        values: BTreeMap::new(),
        errors: Vec::new(),
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
    let outcome = if layers.errors.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors(layers.errors))
    };
    LoadedConfig { effective, outcome }
}

/// Further names of a variable, as other programs read them: proxies are set in either case.
const fn other_names(variable: &str) -> &'static [&'static str] {
    match variable.as_bytes() {
        b"HTTPS_PROXY" => &["https_proxy", "ALL_PROXY", "all_proxy"],
        b"HTTP_PROXY" => &["http_proxy", "ALL_PROXY", "all_proxy"],
        b"NO_PROXY" => &["no_proxy"],
        _ => &[],
    }
}

/// The topmost text of each key, and the errors found so far.
struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
    errors: Vec<ConfigError>,
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
                let (values, errors) = file::read(&path, &text);
                self.values.extend(values);
                self.errors.extend(errors);
            }
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.errors.push(ConfigError {
                    origin: named.unwrap_or(Origin::Default),
                    key: String::new(),
                    message,
                });
            }
        }
    }

    fn read_environment(&mut self, environment: &dyn Fn(&str) -> Option<OsString>) {
        for key in KEYS {
            let names = [key.env]
                .into_iter()
                .chain(other_names(key.env).iter().copied());
            let set = |name| Some((name, environment(name).filter(|value| !value.is_empty())?));
            let Some((name, value)) = names.into_iter().find_map(set) else {
                continue;
            };
            let origin = Origin::Environment(name);
            match value.into_string() {
                Ok(text) => drop(self.values.insert(key.name, (text, origin))),
                Err(_) => self.errors.push(ConfigError {
                    origin,
                    key: key.name.to_owned(),
                    message: "the value is not UTF-8".to_owned(),
                }),
            }
        }
    }

    fn effective(&self, key: &'static ConfigKey) -> EffectiveValue {
        let (value, origin) = match (self.values.get(key.name), key.default) {
            (Some((text, origin)), _) => (Some(text.clone()), origin.clone()),
            (None, DefaultValue::Text(text)) => (Some(text.to_owned()), Origin::Default),
            (None, DefaultValue::Computed(_) | DefaultValue::Unset) => (None, Origin::Default),
        };
        EffectiveValue {
            key: key.name,
            value: value.map(|text| {
                if key.is_secret() {
                    "***".to_owned()
                } else if key.env.ends_with("_PROXY") {
                    parse::without_password(&text)
                } else {
                    text
                }
            }),
            origin,
        }
    }

    /// The value of a key. `None`: it is unset or invalid.
    fn optional<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let (text, _) = self.values.get(name)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(name, message);
                None
            }
        }
    }

    /// The value of a key; its default if it is unset, or invalid, so that the other keys can be
    /// checked too.
    fn value<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> T {
        self.optional(name, &parse).unwrap_or_else(|| {
            let default = keys::find(name)
                .expect("only keys of the table are asked for")
                .default_text();
            parse(default).expect("the table's defaults are valid: a test loads them")
        })
    }

    /// The value of a key with a computed default, which is shown as if it had been written.
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

    fn error(&mut self, name: &'static str, message: String) {
        let origin = self
            .values
            .get(name)
            .map_or(Origin::Default, |(_, origin)| origin.clone());
        self.errors.push(ConfigError {
            origin,
            key: name.to_owned(),
            message,
        });
    }

    fn config(&mut self) -> Config {
        let ten_minutes = parse::duration(SECOND..=TEN_MINUTES);
        Config {
            api: self.api(),
            chas: self.chas(),
            node: self.node(),
            containerd: ContainerdSection {
                socket: self.value("containerd.socket", parse::path),
                namespace: self.value("containerd.namespace", parse::namespace),
            },
            monitoring: MonitoringSection {
                health_interval: self
                    .value("monitoring.health_interval", parse::duration(SECOND..=HOUR)),
                metrics_enabled: self.value("monitoring.metrics_enabled", parse::flag),
            },
            logging: LoggingSection {
                level: self.value("logging.level", parse::log_level),
                format: self.value("logging.format", parse::log_format),
                file: self.optional("logging.file", parse::path),
            },
            state: StateSection {
                dir: self.value("state.dir", parse::path),
                run_dir: self.value("state.run_dir", parse::path),
            },
            network: NetworkSection {
                bridge: self.value("network.bridge", parse::interface),
                subnet: self.value("network.subnet", parse::subnet),
                port_range: self.value("network.port_range", parse::port_range),
                host_access: self.value("network.host_access", parse::host_access),
                link_local: self.value("network.link_local", parse::flag),
            },
            registry: self.registry(),
            containers: ContainersSection {
                max: self.value("containers.max", parse::number(1..=10_000)),
                allow_new_privileges: self.value("containers.allow_new_privileges", parse::flag),
                capabilities: self.value("containers.capabilities", parse::capabilities),
                allow_socketcall: self.value("containers.allow_socketcall", parse::flag),
            },
            reconcile: ReconcileSection {
                resync_interval: self.value("reconcile.resync_interval", ten_minutes),
            },
        }
    }

    fn registry(&mut self) -> RegistrySection {
        let ten_minutes = parse::duration(SECOND..=TEN_MINUTES);
        let count = parse::number(1..=64);
        let stall_timeout = self.value("registry.stall_timeout", &ten_minutes);
        RegistrySection {
            insecure: self
                .optional("registry.insecure", parse::hosts)
                .unwrap_or_default(),
            auth_file: self.optional("registry.auth_file", parse::path),
            ca_file: self.optional("registry.ca_file", parse::path),
            hosts_dir: self.value("registry.hosts_dir", parse::path),
            follow_interval: self
                .optional("registry.follow_interval", parse::duration(MINUTE..=WEEK)),
            https_proxy: self.optional("registry.https_proxy", parse::proxy),
            http_proxy: self.optional("registry.http_proxy", parse::proxy),
            no_proxy: self
                .optional("registry.no_proxy", parse::no_proxy)
                .unwrap_or_default(),
            stall_timeout,
            connect_timeout: self.value(
                "registry.connect_timeout",
                parse::duration(SECOND..=TWO_MINUTES),
            ),
            answer_timeout: self
                .optional("registry.answer_timeout", &ten_minutes)
                .unwrap_or(stall_timeout),
            pulls_max: self.value("registry.pulls_max", &count),
            pulls_per_registry: self.value("registry.pulls_per_registry", &count),
        }
    }

    fn node(&mut self) -> NodeSection {
        let hostname = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        NodeSection {
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
        }
    }

    fn api(&mut self) -> ApiSection {
        let errors_before = self.errors.len();
        let token = self.token();
        let token_is_invalid = self.errors.len() > errors_before;
        let default = if token.is_some() || token_is_invalid {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        };
        let listen = self
            .computed("api.listen", default.to_string(), parse::address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if token.is_none() && !token_is_invalid && !listen.is_loopback() {
            let message = format!(
                "{listen} accepts calls from other hosts, and without a token any of them could run \
                 containers as root: set api.token_file, or listen on 127.0.0.1"
            );
            self.error("api.listen", message);
        }
        let port = self.value("api.port", parse::number(1..=u16::MAX));
        ApiSection {
            listen: SocketAddr::new(listen, port),
            token,
        }
    }

    fn token(&mut self) -> Option<Secret> {
        let given = self.optional("api.token", parse::token);
        let from_file = self.optional("api.token_file", |text| {
            let path: &Path = &parse::path(text)?;
            let secret = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            parse::token(&secret).map_err(|error| format!("{}: {error}", path.display()))
        });
        if self.values.contains_key("api.token") && self.values.contains_key("api.token_file") {
            let message = "conflicts with CHAS_TOKEN, which is set too: unset one of them";
            self.error("api.token_file", message.to_owned());
        }
        given.or(from_file)
    }

    fn chas(&mut self) -> Option<ChasSection> {
        let url = self.optional("api.chas_url", parse::url);
        let token = self.optional("chas.token", parse::token);
        // These files are read when they are used, since the agent starts without CHaS.
        let [token_file, ca_file, cert_file, key_file] = [
            "chas.token_file",
            "chas.ca_file",
            "chas.cert_file",
            "chas.key_file",
        ]
        .map(|name| self.optional(name, parse::path));
        if token.is_some() && token_file.is_some() {
            let message = "conflicts with CHAS_API_TOKEN, which is set too: unset one of them";
            self.error("chas.token_file", message.to_owned());
        }
        self.check_pair(cert_file.is_some(), key_file.is_some());
        if url.as_ref().is_some_and(|url| url.scheme() == "http")
            && (ca_file.is_some() || cert_file.is_some())
        {
            let message = "chas.ca_file and chas.cert_file require an https URL";
            self.error("api.chas_url", message.to_owned());
        }
        Some(ChasSection {
            url: url?,
            token,
            token_file,
            ca_file,
            identity: cert_file.zip(key_file),
        })
    }

    fn check_pair(&mut self, has_certificate: bool, has_key: bool) {
        let (lone, missing) = match (has_certificate, has_key) {
            (true, false) => ("chas.cert_file", "chas.key_file"),
            (false, true) => ("chas.key_file", "chas.cert_file"),
            (true, true) | (false, false) => return,
        };
        self.error(
            lone,
            format!("requires {missing}: set both of them, or none"),
        );
    }
}

#[cfg(test)]
mod tests;
