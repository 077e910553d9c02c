use super::*;

mod doors;

const TOKEN: &str = "0123456789abcdef";

struct Sources {
    flags: Flags,
    environment: BTreeMap<&'static str, OsString>,
    dir: tempfile::TempDir,
}

impl Sources {
    fn nothing() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            flags: Flags::default(),
            environment: BTreeMap::new(),
            dir,
        }
        .file("")
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    fn flag(mut self, key: &'static str, value: &str) -> Self {
        self.flags.values.insert(key, value.to_owned());
        self
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.dir.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        self.flags.file = Some(path);
        self
    }

    fn load(&self) -> LoadedConfig {
        self.load_for(LoadFor::Check)
    }

    fn load_for(&self, purpose: LoadFor) -> LoadedConfig {
        let read = |name: &str| self.environment.get(name).cloned();
        load(&self.flags, &read, purpose)
    }

    fn config(&self) -> Config {
        self.load().outcome.unwrap()
    }

    /// The errors, without the directory of the file.
    fn errors(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        self.load()
            .outcome
            .unwrap_err()
            .0
            .iter()
            .map(|error| error.to_string().replace(&dir, ""))
            .collect()
    }
}

#[test]
fn without_any_source_the_defaults_of_the_table_hold() {
    let config = Sources::nothing().config();
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:9090");
    assert!(config.chas.is_none() && config.api.token.is_none());
    assert_eq!(config.monitoring.health_interval, Duration::from_secs(30));
    assert_eq!(config.network.subnet.to_string(), "10.231.0.0/16");
    assert_eq!(config.network.port_range, 20000..=29999);
    assert_eq!(config.logging.level, "info");
    let granted = &config.containers.capabilities;
    assert_eq!(
        (granted.len(), config.containers.allow_socketcall),
        (12, false)
    );
    assert!(
        !granted
            .iter()
            .any(|name| ["CAP_NET_RAW", "CAP_MKNOD"].contains(&name.as_str()))
    );
    assert_eq!(
        config.node.id,
        rustix::system::uname().nodename().to_str().unwrap()
    );
}

#[test]
fn the_example_of_the_specification_is_taken_as_it_is() {
    let sources = Sources::nothing().file(
        "api:\n  chas_url: \"http://chas-api:8080\"\n  port: 9090\n  \nnode:\n  id: \"worker-1\"\n  hostname: \"worker-1.local\"\n  \n\
         containerd:\n  socket: \"/run/containerd/containerd.sock\"\n  namespace: \"chas\"\n  \n\
         monitoring:\n  health_interval: 30\n  metrics_enabled: true\n  \nlogging:\n  level: \"INFO\"\n  file: \"/var/log/chas-node-agent.log\"\n",
    );
    let config = sources.config();
    assert_eq!(config.node.hostname, "worker-1.local");
    assert_eq!(
        config.logging.file,
        Some("/var/log/chas-node-agent.log".into())
    );
    assert_eq!(config.chas.unwrap().url.as_str(), "http://chas-api:8080/");
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let port = |sources: &Sources| {
        let loaded = sources.load();
        let row = loaded
            .effective
            .iter()
            .find(|row| row.key == "api.port")
            .unwrap()
            .clone();
        assert_eq!(
            row.value.unwrap(),
            loaded.outcome.unwrap().api.listen.port().to_string()
        );
        row.origin
            .to_string()
            .replace(&format!("{}/", sources.dir.path().display()), "")
    };
    let sources = Sources::nothing();
    assert_eq!(port(&sources), "default");
    let sources = sources.file("api:\n  port: 1001\n");
    assert_eq!(port(&sources), "c.yaml:2");
    let sources = sources.env("NODE_PORT", "1002");
    assert_eq!(port(&sources), "environment NODE_PORT");
    let sources = sources.flag("api.port", "1003");
    assert_eq!(port(&sources), "flag --port");
}

#[test]
fn every_error_is_reported_at_once_with_its_origin() {
    let sources = Sources::nothing()
        .file("api:\n  prot: 1\ncontainers:\n  max: 0\nmonitoring:\n  health_interval: 2h\n  metrics_enabled: maybe\n")
        .env("NODE_PORT", "70000")
        .env("LOG_LEVEL", "LOUD")
        .flag("network.subnet", "10.231.0.1/16");
    assert_eq!(
        sources.errors(),
        [
            "c.yaml:2: api.prot: unknown key; did you mean api.port?",
            "environment NODE_PORT: api.port: \"70000\" is not a number from 1 to 65535",
            "c.yaml:6: monitoring.health_interval: \"2h\" is out of range: write 1s to 1h",
            "c.yaml:7: monitoring.metrics_enabled: \"maybe\" is not a boolean: write true or false",
            "environment LOG_LEVEL: logging.level: \"LOUD\" is not a log level: write ERROR, WARN, \
             INFO, DEBUG, TRACE or OFF, or directives such as \"info,hyper=warn\"",
            "flag --subnet: network.subnet: \"10.231.0.1/16\" has bits set beyond its prefix: \
             write the subnet's first address, as in \"10.231.0.0/16\"",
            "c.yaml:4: containers.max: \"0\" is not a number from 1 to 10000",
        ]
    );
    let shown = report(&sources.load());
    assert!(
        shown.contains("\n7 errors:\n") && shown.contains("containers.max"),
        "{shown}"
    );
}

#[test]
fn a_token_is_trimmed_long_enough_from_one_place_and_never_shown() {
    let sources = Sources::nothing();
    let path = sources.dir.path().join("token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sources = sources.env("CHAS_TOKEN_FILE", path.to_str().unwrap());
    let config = sources.config();
    assert!(!format!("{config:?}").contains(TOKEN));
    assert_eq!(config.api.token.unwrap().expose(), TOKEN);
    let sources = sources.env("CHAS_TOKEN", TOKEN);
    assert_eq!(
        sources.errors(),
        [
            "environment CHAS_TOKEN_FILE: api.token_file: conflicts with CHAS_TOKEN, which is set \
             too: unset one of them"
        ]
    );
    assert!(!report(&sources.load()).contains(TOKEN));
    std::fs::write(&path, "short").unwrap();
    assert!(
        !Sources::nothing()
            .env("CHAS_TOKEN", "short-secret")
            .errors()[0]
            .contains("short-secret")
    );
    let sources = Sources::nothing().env("CHAS_TOKEN_FILE", path.to_str().unwrap());
    assert!(
        sources.errors()[0].ends_with("the token has fewer than 16 characters: use a longer one"),
        "{:?}",
        sources.errors()
    );
}

#[test]
fn credentials_for_chas_are_checked_at_once_and_read_later() {
    let sources = Sources::nothing()
        .env("CHAS_API_URL", "https://chas:1/base")
        .env("CHAS_API_TOKEN", TOKEN);
    let chas = sources
        .env("CHAS_API_CA_FILE", "/none")
        .config()
        .chas
        .unwrap();
    assert_eq!(
        (chas.url.as_str(), chas.token.as_ref().map(Secret::expose)),
        ("https://chas:1/base/", Some(TOKEN))
    );
    let wrong = Sources::nothing()
        .env("CHAS_API_URL", "http://chas")
        .env("CHAS_API_TOKEN", TOKEN)
        .env("CHAS_API_TOKEN_FILE", "/none")
        .env("CHAS_API_CERT_FILE", "/none");
    let errors = wrong.errors();
    for part in [
        "conflicts with CHAS_API_TOKEN",
        "requires chas.key_file",
        "require an https URL",
    ] {
        assert!(
            errors.iter().any(|error| error.contains(part)),
            "{part} is not in {errors:?}"
        );
    }
    assert_eq!(
        Sources::nothing()
            .env("CHAS_API_TOKEN", "short")
            .errors()
            .len(),
        1
    );
}

#[test]
fn a_file_that_is_named_must_exist() {
    for sources in [
        Sources::nothing(),
        Sources::nothing().env(FILE_VARIABLE, "/nonexistent/c.yaml"),
    ] {
        let mut sources = sources;
        sources.flags.file = sources
            .environment
            .is_empty()
            .then(|| "/nonexistent/c.yaml".into());
        assert!(
            sources.errors()[0].contains("cannot read /nonexistent/c.yaml: No such file"),
            "{:?}",
            sources.errors()
        );
    }
}

#[test]
fn values_are_refused_at_their_edges() {
    let table: [(&'static str, &[&str], &[&str]); 15] = [
        (
            "api.hosts",
            &["node-1", "node-1.example, chas"],
            &["http://node-1", "node-1:9090", "a b", "a,,b"],
        ),
        (
            "node.address",
            &["10.0.0.1", "::1"],
            &["h", "10.0.0.1:80", "10.0.0.0/8"],
        ),
        (
            "node.labels",
            &["a=b", "a=b, c=", "zone=eu-1,disk=ssd"],
            &["a", "=b", "a=b c=d", "a b=c"],
        ),
        ("chas.token_file", &["/t"], &["t"]),
        (
            "api.chas_url",
            &["http://h", "https://h:1/base"],
            &["h", "ftp://h", "http://", "http://u:p@h", "http://h?x"],
        ),
        ("api.port", &["1", "65535"], &["0", "65536", "-1", "x"]),
        (
            "node.id",
            &["a", "Worker_1.local"],
            &["-a", "a/b", "a b", "ü"],
        ),
        (
            "containerd.namespace",
            &["chas", "a.b-c_d"],
            &["a..b", "-a", "a/b", "a-"],
        ),
        (
            "monitoring.health_interval",
            &["1", "1h", "1m 30s"],
            &["0", "999ms", "3601", "soon", "-5"],
        ),
        (
            "logging.level",
            &["WARNING", "info,hyper=debug", "off"],
            &["LOUD", "info,LOUD", "a=b=c"],
        ),
        (
            "network.bridge",
            &["chas0", "a23456789012345"],
            &["a234567890123456", "a/b", "..", "a b"],
        ),
        (
            "network.subnet",
            &["10.0.0.0/8", "192.168.1.0/29"],
            &[
                "10.0.0.0/7",
                "10.0.0.0/30",
                "8.8.8.0/24",
                "10.0.0.1/24",
                "172.16.0.0/8",
                "x",
            ],
        ),
        (
            "network.port_range",
            &["1024-65535", "2000-2000"],
            &["1023-2000", "3-2", "2000", "2000-65536"],
        ),
        (
            "registry.insecure",
            &["a", "a:5000, 127.0.0.1", "[::1]:5000"],
            &["http://a", "a/b"],
        ),
        ("state.dir", &["/x"], &["x", "./x"]),
    ];
    for (key, good, bad) in table {
        for text in good {
            assert!(
                Sources::nothing().flag(key, text).load().outcome.is_ok(),
                "{key} {text}"
            );
        }
        for text in bad {
            assert_eq!(
                Sources::nothing().flag(key, text).errors().len(),
                1,
                "{key} {text}"
            );
        }
    }
}

#[test]
fn names_flags_and_variables_are_each_used_once() {
    let mut seen = BTreeSet::new();
    for key in KEYS {
        assert!(
            seen.insert(key.name.to_owned()) && seen.insert(key.env.to_owned()),
            "{}",
            key.name
        );
        assert!(
            key.flag.is_none_or(|flag| seen.insert(format!("--{flag}"))),
            "{}",
            key.name
        );
        assert!(
            !key.doc.ends_with('.') && key.name.split('.').count() == 2,
            "{}",
            key.name
        );
    }
}

#[test]
fn capabilities_are_given_by_name_or_all_of_docker_s_or_none() {
    let granted = |text: &str| {
        let config = Sources::nothing().env("CHAS_CAPABILITIES", text).config();
        config.containers.capabilities
    };
    assert_eq!(granted("net_raw, CAP_CHOWN"), ["CAP_CHOWN", "CAP_NET_RAW"]);
    assert_eq!(granted("all"), state::spec::DEFAULT_CAPABILITIES);
    assert_eq!(granted("SYS_NICE,kill"), ["CAP_KILL", "CAP_SYS_NICE"]);
    assert!(granted("NONE").is_empty());
    let listed = Sources::nothing().file("containers:\n  capabilities: [KILL, CHOWN]\n");
    assert_eq!(
        listed.config().containers.capabilities,
        ["CAP_CHOWN", "CAP_KILL"]
    );
    let empty = Sources::nothing().file("containers:\n  capabilities: []\n");
    assert!(empty.config().containers.capabilities.is_empty());
    let wrong = Sources::nothing()
        .env("CHAS_CAPABILITIES", "CHOWN,SYS_ADMN")
        .errors();
    assert!(
        wrong[0].contains("\"SYS_ADMN\" is not a capability"),
        "{wrong:?}"
    );
}

#[test]
fn containers_are_isolated_where_it_is_said() {
    let isolation = |text: &str| Sources::nothing().env("CHAS_ISOLATION", text);
    assert!(Sources::nothing().config().network.neighbours);
    assert!(!isolation("Isolated").config().network.neighbours);
    let errors = isolation("groups").errors();
    assert!(errors[0].contains("open or isolated"), "{errors:?}");
}

#[test]
fn services_of_the_host_are_open_closed_or_ports() {
    let access = |text: &str| {
        let config = Sources::nothing().env("CHAS_HOST_ACCESS", text).config();
        config.network.host_access
    };
    assert_eq!(access("open"), None);
    assert_eq!(access("closed"), Some(BTreeSet::new()));
    let ports = BTreeSet::from([(Protocol::Tcp, 8080), (Protocol::Udp, 8125)]);
    assert_eq!(access("udp/8125, TCP/8080"), Some(ports.clone()));
    let listed = |text: &str| {
        let file = format!("network:\n  host_access: {text}\n");
        Sources::nothing().file(&file).config().network.host_access
    };
    assert_eq!(listed("[tcp/8080, udp/8125]"), Some(ports));
    assert_eq!(listed("closed"), Some(BTreeSet::new()));
    assert_eq!(listed("[closed]"), Some(BTreeSet::new()));
    assert_eq!(listed("[]"), Some(BTreeSet::new()));
    for wrong in ["8080", "tcp/0", "sctp/1", "open,tcp/80"] {
        let errors = Sources::nothing().env("CHAS_HOST_ACCESS", wrong).errors();
        assert!(errors[0].contains("no service of this host"), "{errors:?}");
    }
}

/// Directory of state that a version before has written into.
fn earlier(dir: &Path) -> &Path {
    std::fs::create_dir_all(dir.join("state")).unwrap();
    dir
}

#[test]
fn a_node_from_before_keeps_what_is_open_unless_told_and_a_new_one_is_closed() {
    let new = Sources::nothing().config();
    assert_eq!(new.network.host_access, Some(BTreeSet::new()));
    assert!(!new.network.link_local && !new.network.route_between_networks);
    assert!(new.earlier_defaults.is_empty());
    assert!(new.registry.token_hosts.is_empty());
    assert!(new.containers.user_namespaces);

    let dir = tempfile::tempdir().unwrap();
    let dir = earlier(dir.path()).display().to_string();
    let old = Sources::nothing().env("CHAS_STATE_DIR", &dir);
    let config = old.config();
    assert_eq!(config.network.host_access, None);
    assert!(config.network.link_local && config.network.route_between_networks);
    assert!(!config.containers.user_namespaces);
    assert_eq!(
        config.earlier_defaults,
        [
            "network.host_access",
            "network.link_local",
            "network.route_between_networks",
            "registry.token_hosts",
            "containers.user_namespaces"
        ]
    );
    assert_eq!(config.registry.token_hosts, ["any"]);
    let meant = old.file(
        "network:\n  host_access: open\n  link_local: false\n  route_between_networks: false\nregistry:\n  \
         token_hosts: []\ncontainers:\n  user_namespaces: auto\n",
    );
    let config = meant.config();
    assert_eq!(
        (config.network.host_access, config.network.link_local),
        (None, false)
    );
    assert!(config.earlier_defaults.is_empty() && config.registry.token_hosts.is_empty());
}

#[test]
fn a_token_that_others_may_read_is_refused_unless_the_node_has_it_from_before() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let text = file.display().to_string();
    for (mode, is_taken) in [(0o600, true), (0o644, false), (0o660, false)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let sources = Sources::nothing().env("CHAS_TOKEN_FILE", &text);
        if is_taken {
            assert_eq!(sources.config().secret_files, std::slice::from_ref(&file));
            continue;
        }
        let errors = sources.errors();
        assert!(
            errors[0].contains("api.token_file") && errors[0].contains("chmod 600"),
            "{errors:?}"
        );
        let state = dir.path().join("state.dir");
        let state = earlier(&state).display().to_string();
        let from_before = Sources::nothing()
            .env("CHAS_STATE_DIR", &state)
            .env("CHAS_TOKEN_FILE", &text);
        assert!(from_before.config().api.token.is_some());
    }
}
