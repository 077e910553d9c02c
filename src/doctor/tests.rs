use std::collections::BTreeMap;

use super::check::{CheckAnswer, CheckGroup, CheckVerdict, DoctorCheck};
use super::*;

/// A fault that is planted into facts that are well, and the check, verdict and part of a message by which
/// it is found.
pub(super) type Planted<F> = (DoctorCheck, &'static str, &'static str, fn(&mut F));

/// Plants each fault by itself, and holds that each check of these facts has one.
#[track_caller]
pub(super) fn check_rows<F: Clone>(
    well: &F,
    judge: impl Fn(&F) -> Vec<CheckAnswer>,
    rows: &[Planted<F>],
) {
    let sound = judge(well);
    for answer in &sound {
        assert_eq!(answer.verdict, CheckVerdict::Ok, "{answer:?}");
        assert_eq!(answer.remedy(), None);
        let is_faulty = |(check, word, ..): &Planted<F>| {
            *check == answer.check && ["warn", "FAIL"].contains(word)
        };
        assert!(
            rows.iter().any(is_faulty),
            "{:?} cannot be at fault",
            answer.check
        );
    }
    for (check, word, part, plant) in rows {
        let mut facts = well.clone();
        plant(&mut facts);
        let answers = judge(&facts);
        let found = answers.iter().any(|answer| {
            let is_told = answer.verdict.word() == *word && answer.message.contains(part);
            let has_remedy = answer.verdict <= CheckVerdict::Skipped || answer.remedy().is_some();
            answer.check == *check && is_told && has_remedy
        });
        assert!(found, "{check:?} {word} {part}: {answers:#?}");
    }
}

/// Configuration of these values.
pub(super) fn config(values: &[(&'static str, &str)]) -> Config {
    let values: BTreeMap<_, _> = values
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()))
        .collect();
    let flags = Flags { file: None, values };
    config::load(&flags, &|_| None, LoadFor::Check)
        .outcome
        .unwrap()
}

#[test]
fn the_page_tells_of_each_check() {
    let page = include_str!("../../contrib/docs/doctor.md");
    for check in DoctorCheck::ALL {
        let row = format!(
            "| `{}` | {} | {} |",
            check.code(),
            check.meaning(),
            check.remedy()
        );
        assert!(page.contains(&row), "contrib/docs/doctor.md lacks: {row}");
    }
    let checks = page.split("## support-bundle").next().unwrap();
    let rows = checks.lines().filter(|line| line.starts_with("| `"));
    let codes: Vec<_> = DoctorCheck::ALL.iter().map(|check| check.code()).collect();
    for row in rows {
        let code = row.split('`').nth(1).unwrap();
        assert!(codes.contains(&code), "no check: {row}");
    }
}

#[tokio::test]
async fn what_hangs_is_a_fault_of_its_group_and_of_no_other() {
    tokio::time::pause();
    assert_eq!(within(std::future::pending::<()>()).await, None);
    let answers = late(CheckGroup::Host);
    assert!(
        answers
            .iter()
            .all(|answer| answer.verdict == CheckVerdict::Fail)
    );
    let report = DoctorReport::new(answers);
    let json = report.json();
    assert_eq!(json["failed"], 4);
}
