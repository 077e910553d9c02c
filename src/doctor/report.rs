//! The answers of all checks, as people and programs read them.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};
use state::text::shown;

use super::check::{CheckAnswer, CheckVerdict, DoctorCheck};
use crate::client::{Colour, Screen};

/// Characters of a message.
const MESSAGE_CHARS_MAX: usize = 1000;

/// The answers of all checks.
#[derive(Clone, Debug)]
pub(super) struct DoctorReport {
    answers: Vec<CheckAnswer>,
}

impl DoctorReport {
    /// The report of these answers. A check without any was not come to.
    pub(super) fn new(mut answers: Vec<CheckAnswer>) -> Self {
        for check in DoctorCheck::ALL {
            if !answers.iter().any(|answer| answer.check == *check) {
                answers.push(check.skipped("not looked at: what it needs is at fault"));
            }
        }
        answers.sort_by_key(|answer| (answer.check.group(), answer.check));
        Self { answers }
    }

    /// Whether a check is at fault.
    pub(super) fn has_failed(&self) -> bool {
        self.count(CheckVerdict::Fail) > 0
    }

    fn count(&self, verdict: CheckVerdict) -> usize {
        let of = self.answers.iter();
        of.filter(|answer| answer.verdict == verdict).count()
    }

    /// The report for programs.
    pub(super) fn json(&self) -> Value {
        let checks = self.answers.iter().map(|answer| {
            json!({
                "check": answer.check.code(),
                "group": format!("{:?}", answer.check.group()).to_lowercase(),
                "verdict": answer.verdict.word().to_lowercase(),
                "message": answer.message,
                "remedy": answer.remedy(),
            })
        });
        json!({
            "at": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "failed": self.count(CheckVerdict::Fail),
            "warned": self.count(CheckVerdict::Warn),
            "skipped": self.count(CheckVerdict::Skipped),
            "checks": checks.collect::<Vec<_>>(),
        })
    }

    /// The report for people.
    pub(super) fn text(&self, screen: Screen) -> String {
        let mut text = String::new();
        let mut group = None;
        let mut line = |line: &str| {
            writeln!(text, "{line}").expect("writing to a string cannot fail");
        };
        for answer in &self.answers {
            if group != Some(answer.check.group()) {
                if group.is_some() {
                    line("");
                }
                group = Some(answer.check.group());
                line(&format!("{:?}", answer.check.group()));
            }
            let word = format!("{:<4}", answer.verdict.word());
            let word = screen.coloured(colour(answer.verdict), &word);
            let message = shown(&answer.message, MESSAGE_CHARS_MAX);
            line(&format!("  {word}  {:<21} {message}", answer.check.code()));
            if let Some(remedy) = answer.remedy() {
                let remedy = shown(remedy, MESSAGE_CHARS_MAX);
                line(&format!("        {:<21} -> {remedy}", ""));
            }
        }
        line("");
        let [failed, warned, skipped] = [
            CheckVerdict::Fail,
            CheckVerdict::Warn,
            CheckVerdict::Skipped,
        ]
        .map(|verdict| self.count(verdict));
        let end = match failed {
            0 => "Nothing is at fault".to_owned(),
            1 => "1 check is at fault".to_owned(),
            count => format!("{count} checks are at fault"),
        };
        line(&format!(
            "{end}; {warned} warnings, {skipped} not looked at."
        ));
        text
    }
}

const fn colour(verdict: CheckVerdict) -> Colour {
    match verdict {
        CheckVerdict::Ok => Colour::Good,
        CheckVerdict::Skipped => Colour::Plain,
        CheckVerdict::Warn => Colour::Waiting,
        CheckVerdict::Fail => Colour::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_each_check_once_at_least_and_the_remedy_of_a_fault_alone() {
        let answers = vec![
            DoctorCheck::Clock.ok("set"),
            DoctorCheck::Subnet.fail("shared with\neth1"),
            DoctorCheck::Overlay.warn("odd").with_remedy("mend it"),
        ];
        let report = DoctorReport::new(answers);
        assert!(report.has_failed());
        let text = report.text(Screen::new(false, true));
        for part in [
            "Kernel\n",
            "  warn  overlayfs             odd\n",
            "-> mend it\n",
            "  FAIL  subnet                shared with\\neth1\n",
            &format!("-> {}\n", DoctorCheck::Subnet.remedy()),
            "  ok    clock                 set\n",
            "1 check is at fault; 1 warnings,",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = report.json();
        let checks = json["checks"].as_array().unwrap();
        assert_eq!(checks.len(), DoctorCheck::ALL.len());
        let of = |code: &str| checks.iter().find(|one| one["check"] == code).unwrap();
        assert_eq!(of("clock")["remedy"], Value::Null);
        assert_eq!(
            (&of("subnet")["verdict"], &json["failed"]),
            (&json!("fail"), &json!(1))
        );
        assert_eq!(of("seccomp")["verdict"], "skip");
        assert!(!DoctorReport::new(vec![DoctorCheck::Clock.warn("")]).has_failed());
    }
}
