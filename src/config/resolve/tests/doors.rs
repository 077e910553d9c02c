//! Where the API listens, by what the operator says and by the version that the node began with.

use super::*;

#[test]
fn other_hosts_call_over_plain_http_only_where_the_operator_says_so() {
    use Exposure::{EarlierDefault, PlainHttp, ThisHost};
    let all = [("CHAS_LISTEN", "0.0.0.0")];
    let token = [("CHAS_TOKEN", TOKEN)];
    let plain = [("CHAS_PLAIN_HTTP", "true")];
    // The variables, and what comes of them on a node that begins and on one from before.
    let local = ("127.0.0.1", ThisHost);
    let told = ("0.0.0.0", PlainHttp);
    let kept = ("0.0.0.0", EarlierDefault);
    for (variables, new, before) in [
        (vec![], Some(local), Some(local)),
        (vec![token], Some(local), Some(kept)),
        (vec![all], None, None),
        (vec![all, token], None, Some(kept)),
        (vec![all, plain], Some(told), Some(told)),
        (vec![all, token, plain], Some(told), Some(told)),
        (vec![token, plain], Some(local), Some(told)),
        (
            vec![[("CHAS_LISTEN", "::1")]],
            Some(("::1", ThisHost)),
            Some(("::1", ThisHost)),
        ),
        (vec![[("CHAS_LISTEN", "::ffff:0.0.0.0")]], None, None),
    ] {
        let state = tempfile::tempdir().unwrap();
        let dir = earlier(state.path()).display().to_string();
        let from_before = Sources::nothing().env("CHAS_STATE_DIR", &dir);
        for (sources, expected) in [(Sources::nothing(), new), (from_before, before)] {
            let sources = variables
                .iter()
                .flatten()
                .fold(sources, |sources, (name, value)| sources.env(name, value));
            let outcome = sources.load().outcome;
            let Some((address, exposure)) = expected else {
                let error = outcome.unwrap_err().to_string();
                assert!(
                    error.contains("CHAS_LISTEN: api.listen") && error.contains("api.plain_http"),
                    "{variables:?}: {error}"
                );
                // The agent starts all the same, with what nobody can have meant to be shut.
                let api = sources.load_for(LoadFor::Run).outcome.unwrap().api;
                assert_eq!(api.listen.to_string(), "127.0.0.1:9090");
                let narrowed = api.narrowed().unwrap();
                assert!(
                    narrowed.contains("0.0.0.0, which would")
                        && narrowed.contains("api.plain_http")
                );
                let broken = sources.env("NODE_PORT", "0").load_for(LoadFor::Run);
                let errors = broken.outcome.unwrap_err().0;
                assert_eq!(errors.len(), 2, "{errors:?}");
                continue;
            };
            let api = outcome.unwrap().api;
            let found = (api.listen.ip().to_string(), api.exposure);
            assert_eq!(found, (address.to_owned(), exposure), "{variables:?}");
            let danger = api.danger();
            assert_eq!(danger.is_some(), exposure != ThisHost);
            assert!(danger.is_none_or(|danger| danger.contains("api.plain_http")));
        }
    }
}

#[test]
fn a_port_of_systemd_s_is_for_other_hosts_only_where_the_operator_says_so() {
    for (address, plain, is_served, is_danger) in [
        ("127.0.0.1:9090", "false", true, false),
        ("[::1]:9090", "false", true, false),
        ("0.0.0.0:9090", "false", false, true),
        ("[::]:9090", "false", false, true),
        ("[::]:9090", "true", true, true),
        ("127.0.0.1:9090", "true", true, false),
    ] {
        let api = Sources::nothing()
            .env("CHAS_PLAIN_HTTP", plain)
            .config()
            .api;
        let address = address.parse().unwrap();
        let fault = api.fault_of_given(address);
        let danger = api.danger_of(address).is_some();
        assert_eq!(
            (fault.is_none(), danger),
            (is_served, is_danger),
            "{address}"
        );
        assert!(fault.is_none_or(|fault| fault.contains("api.plain_http")));
    }
}

#[test]
fn a_path_too_long_for_a_socket_is_told_and_takes_the_socket_alone() {
    for (length, is_fine) in [(107, true), (108, false)] {
        let run_dir = format!("/{}", "x".repeat(length - "//agent.sock".len()));
        let sources = Sources::nothing().env("CHAS_RUN_DIR", &run_dir);
        let config = sources.load_for(LoadFor::Run).outcome.unwrap();
        assert_eq!(config.state.socket_fault().is_none(), is_fine, "{length}");
        if is_fine {
            sources.config();
            continue;
        }
        let errors = sources.errors();
        assert!(
            errors.len() == 1 && errors[0].contains("107 at most"),
            "{errors:?}"
        );
    }
}

#[test]
fn a_command_is_kept_from_its_work_by_the_keys_that_it_needs_alone() {
    let load = |sources: &Sources, names: &[&str]| {
        let read = |name: &str| sources.environment.get(name).cloned();
        load_keys(&sources.flags, &read, names).map(|config| config.state.run_dir)
    };
    // As the unit has it in its environment, and a shell has not.
    let unit = Sources::nothing()
        .file("api:\n  listen: 0.0.0.0\n  token_file: /nonexistent\nlogging:\n  level: LOUD\nstate:\n  run_dir: /run/other\n")
        .env("HEALTH_INTERVAL", "often");
    assert!(unit.load_for(LoadFor::Run).outcome.is_err());
    assert_eq!(
        load(&unit, &["state.run_dir"]).unwrap(),
        Path::new("/run/other")
    );
    let fault = load(&unit, &["api.token_file", "logging.level"]).unwrap_err();
    assert_eq!(fault.0.len(), 2, "{fault}");
    let wrong = Sources::nothing().env("CHAS_RUN_DIR", "run");
    assert!(load(&wrong, &["state.run_dir"]).is_err());
    // A file that says nothing leaves the question open, unless something above it answers.
    let broken = Sources::nothing().file("state: [");
    assert!(load(&broken, &["state.run_dir"]).is_err());
    let told = broken.env("CHAS_RUN_DIR", "/run/x");
    assert_eq!(
        load(&told, &["state.run_dir"]).unwrap(),
        Path::new("/run/x")
    );
}

#[test]
fn with_tls_other_hosts_may_call_and_its_files_stand_together() {
    let (cert, key) = (
        ("CHAS_TLS_CERT_FILE", "/crt"),
        ("CHAS_TLS_KEY_FILE", "/key"),
    );
    let authority = ("CHAS_TLS_CLIENT_CA_FILE", "/ca");
    let with = |variables: &[(&'static str, &str)]| {
        let sources = Sources::nothing().env("CHAS_LISTEN", "0.0.0.0");
        let add = |sources: Sources, (name, value): &(&'static str, &str)| sources.env(name, value);
        variables.iter().fold(sources, add)
    };
    let config = with(&[cert, key, authority]).config();
    assert_eq!(config.api.exposure, Exposure::Tls);
    assert!(config.api.danger().is_none() && config.api.narrowed().is_none());
    assert_eq!(
        config.api.fault_of_given("0.0.0.0:1".parse().unwrap()),
        None
    );
    assert_eq!(config.api.danger_of("0.0.0.0:1".parse().unwrap()), None);
    assert_eq!(config.secret_files, [Path::new("/key")]);
    assert_eq!(config.api.tls_fault, None);
    let tls = config.api.tls.unwrap();
    assert_eq!(tls.client_authorities.as_deref(), Some(Path::new("/ca")));
    for (variables, says) in [
        (&[cert][..], "api.cert_file: requires api.key_file"),
        (&[key], "api.key_file: requires api.cert_file"),
        (&[authority], "api.client_ca_file: requires api.cert_file"),
        (
            &[("CHAS_TLS_CERT_FILE", "crt"), key],
            "api.cert_file: \"crt\" is not an absolute path",
        ),
    ] {
        let errors = with(variables).errors();
        assert!(
            errors.iter().any(|error| error.contains(says)),
            "{says}: {errors:?}"
        );
        // The agent starts all the same, and listens no port: not in the clear because of a slip.
        let api = with(variables).load_for(LoadFor::Run).outcome.unwrap().api;
        let fault = api.tls_fault.unwrap();
        assert!(api.tls.is_none() && fault.contains(says), "{says}: {fault}");
        assert!(api.exposure == Exposure::Tls, "{says}: {:?}", api.exposure);
    }
}
