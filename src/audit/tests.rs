use std::fs;
use std::time::Duration;

use state::desired::Owner;
use state::id::ContainerId;
use state::store::{AuditVerdict, AuditedExec, AuditedSpec};

use super::*;
use crate::metrics::Metrics;

fn change(name: &str) -> AuditedChange {
    AuditedChange {
        kind: "deploy",
        name: Some(name.parse().unwrap()),
        id: Some(ContainerId::from_bits(0xabc)),
        secret: None,
        owner: Some(Owner::Push),
        before: None,
        after: Some(AuditedSpec {
            generation: 1,
            spec_hash: "sha256:00".to_owned(),
        }),
        exec: None,
        archive: None,
        log_level: None,
        signal: None,
        image: None,
        verdict: AuditVerdict::Allowed,
    }
}

fn append(directory: &Path, names: &[&str]) {
    let mut file = ChainFile::new(directory, false);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    for name in names {
        file.append(at, &AuditCall::of("chas"), &[change(name)])
            .unwrap();
    }
}

fn only_file(directory: &Path) -> std::path::PathBuf {
    file::files(directory).unwrap().remove(0)
}

#[test]
fn a_program_that_is_run_stands_in_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = ChainFile::new(directory.path(), false);
    let run = AuditedChange {
        kind: "exec",
        after: None,
        exec: Some(AuditedExec {
            command: vec!["sh".to_owned(), "-c".to_owned(), "a \"b\"".to_owned()],
            command_hash: "sha256:00".to_owned(),
            user: Some("0".to_owned()),
            working_dir: None,
        }),
        ..change("web")
    };
    let at = SystemTime::UNIX_EPOCH;
    file.append(at, &AuditCall::of("token"), &[run]).unwrap();
    let text = fs::read_to_string(only_file(directory.path())).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["command"], serde_json::json!(["sh", "-c", "a \"b\""]));
    assert_eq!(
        (&line["kind"], &line["user"]),
        (&"exec".into(), &"0".into())
    );
    assert_eq!(line["command_hash"], "sha256:00");
}

#[test]
fn a_line_has_its_form_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), &["web"]);
    let text = fs::read_to_string(only_file(directory.path())).unwrap();
    let (open, _) = text.split_once(",\"hash\":").unwrap();
    assert_eq!(
        open,
        r#"{"v":1,"n":1,"at":"1970-01-01T00:00:01.000Z","by":"chas","kind":"deploy","name":"web","id":"000000000abc","owner":"push","generation":1,"before":null,"after":"sha256:00","verdict":"allowed","prev":"none""#
    );
}

#[test]
fn a_line_that_was_changed_cut_out_swapped_or_put_in_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    append(path, &["a", "b"]);
    // Another start goes on where the last one ended.
    append(path, &["c", "d"]);
    assert!(verify::verify(path).unwrap().is_sound);
    let file = only_file(path);
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    let joined = |order: &[usize]| {
        order
            .iter()
            .map(|&n| format!("{}\n", lines[n]))
            .collect::<String>()
    };
    for (what, text) in [
        (
            "changed",
            whole.replacen("\"name\":\"b\"", "\"name\":\"x\"", 1),
        ),
        ("cut out", joined(&[0, 2, 3])),
        ("swapped", joined(&[0, 2, 1, 3])),
        ("put in", joined(&[0, 1, 1, 2, 3])),
    ] {
        fs::write(&file, text).unwrap();
        let report = verify::verify(path).unwrap();
        assert!(!report.is_sound, "{what}: {}", report.text);
    }
}

#[test]
fn a_line_that_was_cut_off_by_a_crash_is_left_and_the_chain_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), &["a", "b"]);
    let file = only_file(directory.path());
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    append(directory.path(), &["c"]);
    let report = verify::verify(directory.path()).unwrap();
    assert_eq!(
        report.text.matches("no whole line").count(),
        1,
        "{}",
        report.text
    );
    assert!(!report.text.contains("does not follow"), "{}", report.text);
    assert!(report.text.contains("numbers 1 to 2"), "{}", report.text);
}

#[test]
fn what_cannot_be_written_down_is_refused_or_counted_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("audit");
    fs::write(&blocked, "in the way").unwrap();
    for fail_closed in [true, false] {
        let journal = Journal::new(Metrics::new());
        let log = AuditLog::new(&blocked, fail_closed, journal.clone());
        assert_eq!(log.hear(&[change("a")]).is_err(), fail_closed);
        assert_eq!(journal.alarms().len(), 1);
        fs::remove_file(&blocked).unwrap();
        acting(AuditCall::of("root"), || log.hear(&[change("b")])).unwrap();
        assert_eq!(journal.alarms().len(), 0);
        let text = fs::read_to_string(only_file(&blocked)).unwrap();
        assert!(
            text.contains("\"by\":\"root\"") && text.contains("\"lost_before\":1"),
            "{text}"
        );
        fs::remove_dir_all(&blocked).unwrap();
        fs::write(&blocked, "in the way").unwrap();
    }
}

#[test]
fn the_event_of_a_denied_change_bears_the_code_of_its_cause() {
    let denied = AuditedChange {
        id: None,
        verdict: AuditVerdict::Denied("images are not from here".to_owned()),
        ..change("web")
    };
    let event = asked(&AuditCall::of("ci"), &denied);
    assert_eq!(event.reason, Some(Reason::PolicyDenied));
    assert_eq!(asked(&AuditCall::of("ci"), &change("web")).reason, None);
}
