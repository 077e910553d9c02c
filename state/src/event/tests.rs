use std::time::Duration;

use super::*;
use crate::desired::tests::record;
use crate::plan::Step;

#[test]
fn an_error_has_a_code_and_a_sentence_that_begins_with_the_containers_name() {
    let failed = EventKind::StepFailed {
        step: Step::Pull,
        retry_in: Duration::from_secs(1),
    };
    let (web, id) = (record("web", 1), ContainerId::from_bits(0xabc));
    let event = Event::from(failed).saying("no such tag");
    assert_eq!(event.error_code(), None);
    let event = event.because(Reason::ImageNotFound);
    assert_eq!(event.error_code(), Some("ImageNotFound"));
    assert_eq!(event.text(), "no such tag");
    let of_web = event.clone().about(EventSubject::new(web.id, Some(&web)));
    assert_eq!(of_web.text(), "web: no such tag");
    let of_leftover = event.about(EventSubject::new(id, None));
    assert_eq!(of_leftover.text(), "000000000abc: no such tag");
}

#[test]
fn an_end_is_an_error_unless_it_was_meant_so() {
    let ended = |reason| {
        let exited = EventKind::ContainerExited {
            code: 1,
            signal: None,
        };
        Event::from(exited).because(reason).error_code()
    };
    assert_eq!(ended(Reason::CrashLoop), Some("CrashLoop"));
    assert_eq!(ended(Reason::OutOfMemory), Some("OutOfMemory"));
    for meant in [
        Reason::Completed,
        Reason::StopRequested,
        Reason::ExitedCleanly,
    ] {
        assert_eq!(ended(meant), None, "{meant}");
    }
}

#[test]
fn a_kind_is_one_word_and_what_only_counts_is_routine() {
    let poll = EventKind::PollEnded { result: "taken" };
    assert!(poll.is_routine() && !EventKind::LinkLost.is_routine());
    assert_eq!(poll.as_str(), "poll_ended");
}
