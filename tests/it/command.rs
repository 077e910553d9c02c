//! The program as an operator starts it: exit codes, and what it says when it does not start.

use std::process::{Command, Output};

fn agent(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chas-node-agent"));
    command
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments);
    command.output().expect("cargo built it")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_faulty_configuration_ends_the_start_with_64_and_every_fault_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.yaml");
    std::fs::write(
        &file,
        "api:\n  prot: 9090\nnetwork:\n  subnet: 10.0.0.0/40\n",
    )
    .unwrap();
    for arguments in [
        &["--config", file.to_str().unwrap()][..],
        &["config", "check", "--config", file.to_str().unwrap()],
    ] {
        let output = agent(
            arguments,
            &[("HEALTH_INTERVAL", "often"), ("CHAS_LISTEN", "0.0.0.0")],
        );
        let said = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(64), "{said}");
        for part in [
            "agent.yaml:2",
            "api.port",
            "agent.yaml:4",
            "HEALTH_INTERVAL",
            "api.plain_http",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let output = agent(&["--config", "/nonexistent/agent.yaml"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("/nonexistent/agent.yaml"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_effective_configuration_is_shown_with_origins_and_without_secrets() {
    let secret = "sixteen-characters-and-more";
    let output = agent(
        &["config", "check", "--port", "9191"],
        &[("CHAS_TOKEN", secret), ("NODE_ID", "worker-1")],
    );
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains(secret), "{said}");
    for (key, value, origin) in [
        ("api.port", "9191", "--port"),
        ("node.id", "worker-1", "NODE_ID"),
        ("containerd.namespace", "chas", "default"),
    ] {
        let line = said
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        assert!(line.contains(value) && line.contains(origin), "{line}");
    }
}

#[test]
fn a_policy_and_a_body_are_tried_before_anybody_relies_on_them() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let policy = write("policy.yaml", "rules:\n- {name: small, memory: 1g}\n");
    let bad = write("bad.yaml", "rules:\n- {name: small, memroy: 1g}\n");
    let body = write("body.json", r#"{"name": "web", "image": "nginx"}"#);
    let fits = write(
        "fits.yaml",
        "name: web\nimage: nginx\nresources: {memory: 1g}\n",
    );
    for (policy, command, code, says) in [
        (&policy, vec!["policy", "check"], 0, "1 rules"),
        (&policy, vec!["policy", "check", &fits], 0, "web: allowed"),
        (
            &policy,
            vec!["policy", "check", &body],
            1,
            "rule \"small\" denies resources.memory",
        ),
        (
            &policy,
            vec!["policy", "check", "/nonexistent"],
            64,
            "/nonexistent",
        ),
        (
            &bad,
            vec!["policy", "check"],
            64,
            "did you mean \"memory\"?",
        ),
        (
            &bad,
            vec!["config", "check"],
            64,
            "did you mean \"memory\"?",
        ),
        (&policy, vec!["config", "check"], 0, "policy.file"),
    ] {
        let output = agent(&command, &[("CHAS_POLICY_FILE", policy)]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert!(said.contains(says), "{command:?}: {said}");
    }
}

#[test]
fn a_start_that_fails_says_why_once_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let (state, run) = (directory.path().join("state"), directory.path().join("run"));
    std::fs::create_dir(&state).unwrap();
    // As another agent does.
    let locked = std::fs::File::open(&state).unwrap();
    locked.lock().unwrap();
    let variables = [
        ("CHAS_STATE_DIR", state.to_str().unwrap()),
        ("CHAS_RUN_DIR", run.to_str().unwrap()),
    ];
    // What takes one door alone is no reason not to start: not even on a node that looks new.
    let narrowed = [&variables[..], &[("CHAS_LISTEN", "0.0.0.0")]].concat();
    for variables in [&variables[..], &narrowed] {
        let output = agent(&[], variables);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let told = said.matches("another agent uses the state");
        assert_eq!(told.count(), 1, "{said}");
    }
}

#[test]
fn a_new_log_file_is_for_its_group_too_and_an_old_one_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let [state, run, file] = ["state", "run", "agent.log"].map(|name| directory.path().join(name));
    std::fs::create_dir(&state).unwrap();
    // It ends soon after it has opened its log: another has the state.
    let locked = std::fs::File::open(&state).unwrap();
    locked.lock().unwrap();
    let variables = [
        ("CHAS_STATE_DIR", state.to_str().unwrap()),
        ("CHAS_RUN_DIR", run.to_str().unwrap()),
        ("LOG_FILE", file.to_str().unwrap()),
    ];
    for mode in [0o640, 0o600] {
        if file.exists() {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let output = agent(&[], &variables);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let found = std::fs::metadata(&file).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode);
        assert!(found.len() > 0);
    }
}

#[test]
fn a_secret_that_others_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let [token, chas] = ["token", "chas"].map(|name| {
        let path = directory.path().join(name);
        std::fs::write(&path, "sixteen-characters-and-more").unwrap();
        path
    });
    let variables = [
        ("CHAS_TOKEN_FILE", token.to_str().unwrap()),
        ("CHAS_API_TOKEN_FILE", chas.to_str().unwrap()),
        ("CHAS_API_URL", "https://chas.example"),
    ];
    let set = |path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for (mode, code) in [(0o644, 64), (0o640, 64), (0o600, 0)] {
        set(&token, mode);
        set(&chas, mode);
        let output = agent(&["config", "check"], &variables);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.contains("chmod 600"), code == 64, "{said}");
    }
    // Without its token from CHaS the node runs on, so that file is only told of.
    set(&chas, 0o644);
    let output = agent(&["config", "check"], &variables);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains(&format!("warning: {} holds a secret", chas.display())),
        "{said}"
    );
}

#[test]
fn an_open_listener_without_tls_is_refused_or_narrowed() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let check = |variables: &[(&str, &str)]| {
        let dir = [("CHAS_STATE_DIR", state)];
        let output = agent(&["config", "check"], &[&dir[..], variables].concat());
        (output.status.code(), text(&output.stdout))
    };
    let token = ("CHAS_TOKEN", "sixteen-characters-and-more");
    let everywhere = ("CHAS_LISTEN", "0.0.0.0");
    let listens = |said: &str, address: &str| {
        let mut lines = said.lines().filter(|line| line.starts_with("api.listen"));
        assert!(
            lines.any(|line| line.contains(address)),
            "{address}: {said}"
        );
    };
    let (code, said) = check(&[token]);
    assert_eq!(code, Some(0), "{said}");
    listens(&said, "127.0.0.1");
    let (code, said) = check(&[token, everywhere]);
    assert!(
        code == Some(64) && said.contains("api.plain_http"),
        "{said}"
    );
    let (code, said) = check(&[token, everywhere, ("CHAS_PLAIN_HTTP", "true")]);
    assert!(
        code == Some(0) && said.contains("warning: 0.0.0.0:9090"),
        "{said}"
    );
    // A node from before goes on as it was, and is told.
    std::fs::write(directory.path().join("desired.json.a"), "").unwrap();
    let (code, said) = check(&[token]);
    assert!(
        code == Some(0) && said.contains("warning: 0.0.0.0:9090"),
        "{said}"
    );
    listens(&said, "0.0.0.0");
}

#[test]
fn an_order_to_no_agent_names_the_socket_and_gives_nobody_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().to_str().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    let number = port.local_addr().unwrap().port().to_string();
    port.set_nonblocking(true).unwrap();
    for (more, code, says) in [
        (&[][..], 2, "agent.sock: "),
        (&["--host", &address], 1, "--insecure"),
        (&["--host", "192.0.2.1:9090", "--insecure"], 1, "https"),
        // As it was called before.
        (
            &["--address", "https://192.0.2.1", "--ca-file", "/none"],
            1,
            "--ca-file /none",
        ),
    ] {
        let arguments = [&["confirm"], more].concat();
        let variables = [
            ("CHAS_TOKEN", "sixteen-characters-and-more"),
            ("CHAS_RUN_DIR", run),
            ("NODE_PORT", &number),
            // No concern of this command, nor whatever else is wrong.
            ("HEALTH_INTERVAL", "often"),
            ("CHAS_LISTEN", "0.0.0.0"),
        ];
        let output = agent(&arguments, &variables);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
        assert!(port.accept().is_err(), "{more:?}: somebody called");
    }
}

#[test]
fn a_client_is_made_listed_and_taken_back_whatever_else_is_configured() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chas/clients.yaml");
    let variables = [
        ("CHAS_CLIENTS_FILE", file.to_str().unwrap()),
        ("CHAS_LISTEN", "nowhere"),
    ];
    let token = |arguments: &[&str]| {
        let output = agent(&[&["token"], arguments].concat(), &variables);
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), said, told)
    };
    let create = ["create", "ci", "--role", "deploy", "--names", "web-*"];
    let (code, made, _) = token(&create);
    assert!(code == Some(0) && made.starts_with("chas_") && made.lines().count() == 1);
    let (_, listed, _) = token(&["list"]);
    assert!(
        listed.starts_with("ci  deploy  web-*\n  token "),
        "{listed}"
    );
    let (code, said, told) = token(&["create", "ci", "--role", "admin"]);
    assert!(code == Some(64) && said.is_empty(), "{said}");
    assert!(told.contains("has the role deploy"), "{told}");
    let (code, _, _) = token(&["revoke", "ci"]);
    assert_eq!(
        (code, token(&["list"]).1.contains("No clients")),
        (Some(0), true)
    );
}

#[test]
fn files_of_callers_that_cannot_be_used_are_named_by_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (clients, pem) = (
        write("clients.yaml", "clients: [{name: ci}]\n"),
        write("pem", ""),
    );
    let variables = [
        ("CHAS_CLIENTS_FILE", &*clients),
        ("CHAS_TLS_CERT_FILE", &pem),
        ("CHAS_TLS_KEY_FILE", &pem),
        // With TLS that is none of a fault.
        ("CHAS_LISTEN", "0.0.0.0"),
    ];
    let output = agent(&["config", "check"], &variables);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    for says in [
        "clients[0].role: is required",
        "holds no certificate in PEM",
    ] {
        assert!(told.contains(says), "{told}");
    }
}
