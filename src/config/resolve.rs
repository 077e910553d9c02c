//! Layers of the configuration: flags over environment over file over defaults. The topmost values
//! become the typed configuration.

use super::keys::{ConfigKey, DefaultValue, KEYS};
use super::logs;
use super::parse::{self, Parsed};
use super::*;

mod api;
mod chas;
mod containers;
mod network;
mod purpose;
mod registry;

pub use purpose::{LoadFor, load, load_keys};

/// Environment variable that names the configuration file.
pub const FILE_VARIABLE: &str = "CHAS_CONFIG";

/// Keys of files that hold secrets.
const SECRET_FILES: [&str; 6] = [
    "api.token_file",
    "api.key_file",
    "chas.token_file",
    "chas.key_file",
    "registry.auth_file",
    "secrets.key_file",
];

/// Variable by which systemd names the directory of a service's credentials, and the name of the one
/// that is the key of secrets.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
const KEY_CREDENTIAL: &str = "secrets-key";

const SECOND: Duration = Duration::from_secs(1);
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

/// The layers, and what they make together.
fn layered(flags: &Flags, environment: &dyn Fn(&str) -> Option<OsString>) -> (Layers, Config) {
    let mut layers = Layers {
        values: BTreeMap::new(),
        errors: Vec::new(),
        of_doors: Vec::new(),
        earlier: Vec::new(),
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
    let mut config = layers.config();
    config.earlier_defaults = std::mem::take(&mut layers.earlier);
    (layers, config)
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
    /// Errors that take one door of the API alone.
    of_doors: Vec<ConfigError>,
    /// Keys that hold a default of a version before.
    earlier: Vec<&'static str>,
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

    /// The value of a key whose default is more open on a node from before than on a new one.
    fn by_age<T>(
        &mut self,
        name: &'static str,
        [earlier, current]: [&str; 2],
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        let is_earlier = self.defaults() == Defaults::Earlier;
        if is_earlier && !self.values.contains_key(name) {
            self.earlier.push(name);
        }
        let default = if is_earlier { earlier } else { current };
        self.computed(name, default.to_owned(), parse)
    }

    fn error(&mut self, name: &'static str, message: String) {
        let error = self.error_of(name, message);
        self.errors.push(error);
    }

    fn error_of(&self, name: &'static str, message: String) -> ConfigError {
        let value = self.values.get(name);
        ConfigError {
            origin: value.map_or(Origin::Default, |(_, origin)| origin.clone()),
            key: name.to_owned(),
            message,
        }
    }

    fn config(&mut self) -> Config {
        let ten_minutes = parse::duration(SECOND..=TEN_MINUTES);
        Config {
            secret_files: self.secret_files(),
            earlier_defaults: Vec::new(),
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
                size_max: self.value("logging.max_size", logs::file_size),
                files_max: self.value("logging.max_files", parse::number(1..=100)),
            },
            state: self.state(),
            network: self.network(),
            registry: self.registry(),
            image: self.image(),
            containers: self.containers(),
            logs: LogsSection {
                rate: self.optional("logs.rate", logs::rate),
                user: self
                    .computed("logs.user", logs::default_user().to_owned(), logs::user)
                    .flatten(),
            },
            audit: AuditSection {
                fail_closed: self.value("audit.fail_closed", parse::flag),
            },
            policy: PolicySection {
                file: self.value("policy.file", parse::path),
            },
            secrets: SecretsSection {
                key_file: self.secrets_key(),
            },
            reconcile: ReconcileSection {
                resync_interval: self.value("reconcile.resync_interval", ten_minutes),
            },
        }
    }

    /// Files that hold secrets, as keys name them.
    fn secret_files(&self) -> Vec<PathBuf> {
        let named = SECRET_FILES.iter().filter_map(|key| self.values.get(key));
        let mut files: BTreeSet<PathBuf> = named.map(|(text, _)| text.trim().into()).collect();
        for (key, (text, origin)) in &self.values {
            // A proxy's URL may have a password.
            if key.ends_with("_proxy")
                && let Origin::File { path, .. } = origin
                && parse::without_password(text) != *text
            {
                files.insert(path.clone());
            }
        }
        files.into_iter().collect()
    }

    fn state(&mut self) -> StateSection {
        let section = StateSection {
            defaults: self.defaults(),
            dir: self.value("state.dir", parse::path),
            run_dir: self.value("state.run_dir", parse::path),
        };
        if let Some(fault) = section.socket_fault() {
            let error = self.error_of("state.run_dir", fault);
            self.of_doors.push(error);
        }
        section
    }

    /// File of the key of secrets, as it is set or as systemd hands it over.
    fn secrets_key(&mut self) -> Option<PathBuf> {
        let credentials = environment(CREDENTIALS_VARIABLE).map(PathBuf::from);
        let credential = credentials.map(|directory| directory.join(KEY_CREDENTIAL));
        match credential.filter(|file| file.exists()) {
            Some(file) => {
                let file = file.display().to_string();
                self.computed("secrets.key_file", file, parse::path)
            }
            None => self.optional("secrets.key_file", parse::path),
        }
    }

    /// Directory of the state, whether its path is valid or not.
    fn state_dir(&self) -> &Path {
        let default = keys::find("state.dir").expect("a key of the table");
        let dir = self.values.get("state.dir");
        let dir = dir.map_or(default.default_text(), |(text, _)| text.trim());
        Path::new(dir)
    }

    /// Defaults that the node goes by, as its state directory tells.
    fn defaults(&self) -> Defaults {
        Defaults::of(self.state_dir())
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
}

#[cfg(test)]
mod tests;
