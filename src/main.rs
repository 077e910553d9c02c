//! Entry point: parses the command line, runs the command, and ends the process with its exit code.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chas_node_agent::cli::{self, Invocation};
use chas_node_agent::client::{self, ClientOrder, WayFlags};
use chas_node_agent::config::{self, Config, Flags, LoadFor, Reload, TokenOrder};
use chas_node_agent::log_level::LogLevel;
use chas_node_agent::{agent, audit, doctor, logs, telemetry, uninstall};
use state::access::ClientToken;
use state::desired::Owner;

/// Exit code for an invalid command line or configuration (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Most threads for blocking calls. Each takes memory while it idles; more than the disk serves at
/// once are useless.
const BLOCKING_THREADS_MAX: usize = 32;

fn main() -> ExitCode {
    // containerd's shim starts this binary as the logger of a container, with almost no
    // environment. The logger must be up within milliseconds and stay small, so this comes before
    // everything else.
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(logs::logger::ARGUMENT)) {
        return logs::logger::run(
            std::env::args_os(),
            config::environment(logs::logger::CONTAINER_VARIABLE),
            config::environment(logs::logger::NAMESPACE_VARIABLE).as_deref(),
        );
    }
    // A shell that completes a line asks for its words.
    if cli::completion::is_asked(config::environment(cli::completion::VARIABLE).as_deref()) {
        let _another_is_there = provide_tls();
        cli::completion::answer();
    }
    match cli::parse(std::env::args_os(), std::io::stdin().is_terminal()) {
        Ok(Invocation::Run(flags)) => run(flags),
        Ok(Invocation::ConfigCheck(flags)) => check_config(&flags),
        Ok(Invocation::Doctor { flags, json }) => order_about_node(|| doctor::run(&flags, json)),
        Ok(Invocation::SupportBundle { flags, order }) => {
            order_about_node(|| doctor::bundle(&flags, &order))
        }
        Ok(Invocation::Uninstall { flags, order }) => {
            order_about_node(|| uninstall::run(&flags, order))
        }
        Ok(Invocation::AuditVerify(flags)) => verify_audit(&flags),
        Ok(Invocation::PolicyCheck { flags, body, owner }) => {
            check_policy(&flags, body.as_deref(), owner)
        }
        Ok(Invocation::Token { flags, order }) => token(&flags, &order),
        Ok(Invocation::Client { order, way, flags }) => order_of_client(&order, &way, &flags),
        Ok(Invocation::Completion(shell)) => print(&cli::completion::script(shell)),
        Ok(Invocation::Manual(directory)) => match cli::completion::write_manual(&directory) {
            Ok(text) => print(&text),
            Err(error) => complain(&format!(
                "chas-node-agent: {}: {error}\n",
                directory.display()
            )),
        },
        Ok(Invocation::Help) => print(&cli::command().render_help().to_string()),
        Ok(Invocation::Version) => print(&cli::version()),
        Err(usage) if usage.asked_for => print(&usage.text),
        Err(usage) => complain(&usage.text),
    }
}

fn run(flags: Flags) -> ExitCode {
    // A core dump of the agent would hold values that are nowhere else readable.
    let _not_refused_to_oneself =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Whatever the agent makes is root's alone; what others are to read has its mode set.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let loaded = config::load(&flags, &config::environment, LoadFor::Run);
    let config = match loaded.outcome {
        Ok(config) => config,
        Err(errors) => return complain(&format!("{errors}\n")),
    };
    let journal = config::environment(telemetry::JOURNAL_VARIABLE);
    let log = match telemetry::start(&config.logging, journal.as_deref()) {
        Ok(log) => Arc::new(log),
        Err(error) => {
            complain(&format!(
                "chas-node-agent: {:#}\n",
                anyhow::Error::from(error)
            ));
            return ExitCode::FAILURE;
        }
    };
    let logs_to_file = config.logging.file.is_some();
    let dial = Arc::clone(&log);
    let level = LogLevel::new(&config.logging.level, move |level| dial.set_level(level));
    let reloaded = level.clone();
    let reload = Reload::new(loaded.effective, move || {
        // Also when the rest cannot be read: whoever moved the file away waits for it.
        log.reopen();
        let loaded = config::load(&flags, &config::environment, LoadFor::Run);
        if let Ok(config) = &loaded.outcome {
            reloaded.configure(&config.logging.level);
        }
        loaded
    });
    let Err(error) = serve(config, reload, level) else {
        return ExitCode::SUCCESS;
    };
    tracing::error!(error = %format_args!("{error:#}"), "agent failed");
    if logs_to_file {
        // A person who started the agent looks at stderr first.
        complain(&format!("chas-node-agent: {error:#}\n"));
    }
    ExitCode::FAILURE
}

fn check_config(flags: &Flags) -> ExitCode {
    let loaded = config::load(flags, &config::environment, LoadFor::Check);
    print(&config::report(&loaded));
    let Ok(config) = &loaded.outcome else {
        return ExitCode::from(EXIT_USAGE);
    };
    // The agent starts with these: each concerns a registry, and may be mended later.
    for fault in agent::review(config) {
        print(&format!("warning: {fault}\n"));
    }
    // The agent starts with these, too, and takes nothing new in, or nobody.
    let read = [
        ("policy", config.read_policy().err()),
        ("clients", config.read_clients().err()),
        ("tls", agent::tls_fault(config)),
    ];
    let faults = read.map(|(what, fault)| {
        let told = fault.map(|fault| format!("error: {what}: {fault}\n"));
        told.unwrap_or_default()
    });
    if faults.iter().all(String::is_empty) {
        ExitCode::SUCCESS
    } else {
        complain(&faults.concat())
    }
}

fn verify_audit(flags: &Flags) -> ExitCode {
    let config = match config::load_keys(flags, &config::environment, &["state.dir"]) {
        Ok(config) => config,
        Err(errors) => return complain(&format!("{errors}\n")),
    };
    let directory = config.state.dir.join(audit::DIRECTORY);
    match audit::verify::verify(&directory) {
        Ok(report) => {
            print(&report.text);
            if report.is_sound {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            complain(&format!("{}: {error}\n", directory.display()));
            ExitCode::FAILURE
        }
    }
}

fn check_policy(flags: &Flags, body: Option<&Path>, owner: Owner) -> ExitCode {
    let tried = config::load_keys(flags, &config::environment, &config::POLICY_KEYS)
        .map_err(|errors| errors.to_string())
        .and_then(|config| config.try_policy(body, owner));
    match tried {
        Ok(trial) if trial.is_allowed => print(&trial.text),
        Ok(trial) => {
            print(&trial.text);
            ExitCode::FAILURE
        }
        Err(fault) => complain(&format!("{fault}\n")),
    }
}

fn token(flags: &Flags, order: &TokenOrder) -> ExitCode {
    let done = config::load_keys(flags, &config::environment, &["api.clients_file"])
        .map_err(|errors| errors.to_string())
        .and_then(|config| order.carry_out(&config.api.clients_file, SystemTime::now()));
    let text = match done {
        Ok(text) => text,
        Err(fault) => return complain(&format!("{fault}\n")),
    };
    let mut stdout = std::io::stdout();
    let shown = stdout.write_all(text.as_bytes());
    let shown = shown.and_then(|()| stdout.flush());
    if let (Err(error), TokenOrder::Create(_)) = (shown, order) {
        let id = ClientToken::of(text.trim(), None).id().to_owned();
        complain(&format!(
            "chas-node-agent: token {id} was made and cannot be shown ({error}): revoke it\n"
        ));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn order_of_client(order: &ClientOrder, way: &WayFlags, flags: &Flags) -> ExitCode {
    carry_out(
        || client::carry_out(order, way, flags),
        |error| order.failed_with(error),
    )
}

/// Carries out an order about this host, and ends with its exit code.
fn order_about_node<F: Future<Output = anyhow::Result<u8>>>(order: impl FnOnce() -> F) -> ExitCode {
    carry_out(order, |_| 1)
}

/// Carries out an order, and ends with its exit code, or with that of its failure.
fn carry_out<F: Future<Output = anyhow::Result<u8>>>(
    order: impl FnOnce() -> F,
    failed_with: impl FnOnce(&anyhow::Error) -> u8,
) -> ExitCode {
    let done = provide_tls().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let done = runtime.block_on(order());
        // A read of the terminal that nobody ends, or of a disk that hangs, is not waited for.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if client::is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("chas-node-agent: {error:#}\n"));
            ExitCode::from(failed_with(&error))
        }
    }
}

/// Installs the TLS provider: reqwest is built without one of its own, and panics where none is
/// installed.
fn provide_tls() -> anyhow::Result<()> {
    let installed = rustls::crypto::ring::default_provider().install_default();
    installed
        .map_err(|_| anyhow::anyhow!("cannot install the TLS provider: another one is installed"))
}

fn serve(config: Config, reload: Reload, level: LogLevel) -> anyhow::Result<()> {
    provide_tls()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(agent::run(config, reload, level));
    // The agent has already waited for its tasks; a disk that hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Prints to stdout. A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(text: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(EXIT_USAGE)
}
