use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::spec::Probe;

fn check(retries: u32, success_threshold: u32, start_period: u64) -> HealthCheck {
    HealthCheck {
        retries,
        success_threshold,
        start_period: Duration::from_secs(start_period),
        ..HealthCheck::of(Probe::Tcp { port: 80 })
    }
}

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

/// Records an answer of a run that began at 100 s.
fn say(
    state: &mut HealthState,
    check: &HealthCheck,
    is_success: bool,
    seconds: u64,
) -> VerdictChange {
    let answer = ProbeAnswer {
        is_success,
        text: "x".to_owned(),
        at: at(seconds),
    };
    state.record(check, at(100), &answer)
}

#[test]
fn so_many_failures_in_a_row_make_it_unhealthy_and_so_many_successes_ready() {
    let check = check(3, 2, 0);
    let mut state = HealthState::of(&check);
    let (ready, unhealthy) = (Verdict::Ready, Verdict::Unhealthy);
    for (second, (is_success, change)) in [
        (true, VerdictChange::Streak),
        (false, VerdictChange::Streak),
        (true, VerdictChange::Streak),
        (true, VerdictChange::Verdict(ready)),
        (true, VerdictChange::None),
        (false, VerdictChange::Streak),
        (false, VerdictChange::Streak),
        (true, VerdictChange::Streak),
        (false, VerdictChange::Streak),
        (false, VerdictChange::Streak),
        (false, VerdictChange::Verdict(unhealthy)),
        (false, VerdictChange::None),
        (true, VerdictChange::Streak),
        (false, VerdictChange::Streak),
        (true, VerdictChange::Streak),
        (true, VerdictChange::Verdict(ready)),
    ]
    .into_iter()
    .enumerate()
    {
        let second = second as u64;
        assert_eq!(
            say(&mut state, &check, is_success, 100 + second),
            change,
            "{second}"
        );
    }
    assert_eq!(state.ready_since(), Some(at(115)));
}

#[test]
fn failures_while_it_starts_do_not_count_and_a_success_ends_that() {
    let check = check(2, 1, 60);
    let mut slow = HealthState::of(&check);
    for second in 100..160 {
        assert_eq!(say(&mut slow, &check, false, second), VerdictChange::None);
        assert_eq!((slow.streak, slow.verdict), (0, Verdict::Starting));
    }
    assert_eq!(slow.why(), "its probe failed: x");
    assert_eq!(say(&mut slow, &check, false, 160), VerdictChange::Streak);
    let unhealthy = VerdictChange::Verdict(Verdict::Unhealthy);
    assert_eq!(say(&mut slow, &check, false, 161), unhealthy);
    let mut quick = HealthState::of(&check);
    assert_eq!(
        say(&mut quick, &check, true, 101),
        VerdictChange::Verdict(Verdict::Ready)
    );
    say(&mut quick, &check, false, 102);
    assert_eq!(say(&mut quick, &check, false, 103), unhealthy);
}

#[test]
fn a_verdict_is_old_when_nobody_has_answered_for_some_intervals_and_stands() {
    let check = check(1, 1, 0);
    let mut state = HealthState::of(&check);
    assert!(!state.is_stale(&check, at(100), at(132)));
    assert!(state.is_stale(&check, at(100), at(133)), "nobody could ask");
    say(&mut state, &check, true, 200);
    assert!(!state.is_stale(&check, at(100), at(232)));
    assert!(state.is_stale(&check, at(100), at(233)));
    assert_eq!(state.ready_since(), Some(at(200)));
}

#[test]
fn an_answer_is_kept_short_and_clean() {
    let check = check(1, 1, 0);
    let mut state = HealthState::of(&check);
    let answer = ProbeAnswer {
        is_success: false,
        text: format!("\u{1b}[31m{}\n", "\u{202e}x".repeat(100_000)),
        at: at(200),
    };
    state.record(&check, at(100), &answer);
    let kept = state.answer.clone().unwrap();
    assert!(kept.chars().count() <= ANSWER_CHARS_MAX, "{kept}");
    assert!(!kept.chars().any(crate::text::is_hidden), "{kept}");
    assert!(state.why().starts_with("its probe failed: \\u001b[31m"));
}

#[test]
fn another_check_is_told_from_the_same_one() {
    let one = check(3, 1, 0);
    let state = HealthState::of(&one);
    assert!(state.is_of(&one));
    assert!(
        state.is_of(&check(2, 1, 0)),
        "other numbers, the same answers"
    );
    let other = HealthCheck::of(Probe::Tcp { port: 81 });
    assert!(!state.is_of(&other));
    assert!(!HealthState::default().is_of(&one));
}

proptest! {
    /// Whatever is answered: the verdict is that of the last streak that was long enough, it changes
    /// only with a change that is told, and a state that is stored in the middle goes on the same.
    #[test]
    fn a_verdict_is_that_of_the_last_streak_that_was_long_enough(
        answers in prop::collection::vec((any::<bool>(), 1_u64..20), 0..80),
        retries in 1_u32..5,
        threshold in 1_u32..4,
        start_period in prop_oneof![Just(0_u64), 1_u64..200],
        restart in 0_usize..80,
    ) {
        let check = check(retries, threshold, start_period);
        let mut state = HealthState::of(&check);
        let (mut second, mut row, mut expected) = (100, (false, 0_u32), Verdict::Starting);
        let mut has_succeeded = false;
        for (index, (is_success, later)) in answers.into_iter().enumerate() {
            if index == restart {
                let stored = serde_json::to_string(&state).unwrap();
                state = serde_json::from_str(&stored).unwrap();
            }
            second += later;
            has_succeeded |= is_success;
            let counts = is_success || has_succeeded || second - 100 >= start_period;
            row = match (row, counts) {
                (_, false) => (is_success, 0),
                ((same, count), true) if same == is_success => (same, count + 1),
                (_, true) => (is_success, 1),
            };
            let before = state.verdict;
            let change = say(&mut state, &check, is_success, second);
            if is_success && row.1 >= threshold {
                expected = Verdict::Ready;
            } else if !is_success && row.1 >= retries {
                expected = Verdict::Unhealthy;
            }
            prop_assert_eq!(state.verdict, expected);
            prop_assert_eq!((state.is_success, state.streak), row);
            let is_told = matches!(change, VerdictChange::Verdict(told) if told == state.verdict);
            prop_assert_eq!(is_told, before != state.verdict);
            prop_assert_eq!(state.ready_since().is_some(), expected == Verdict::Ready);
        }
    }

    /// A state of which only what is told to be saved was saved comes to the same verdicts.
    #[test]
    fn what_is_not_saved_changes_no_verdict(
        answers in prop::collection::vec(any::<bool>(), 0..80),
        retries in 1_u32..5,
        threshold in 1_u32..4,
        kills in prop::collection::vec(any::<bool>(), 80),
    ) {
        let check = check(retries, threshold, 5);
        let mut state = HealthState::of(&check);
        let (mut killed, mut saved) = (state.clone(), state.clone());
        for (index, is_success) in answers.into_iter().enumerate() {
            let second = 100 + index as u64;
            if kills[index] {
                killed = saved.clone();
            }
            say(&mut state, &check, is_success, second);
            if say(&mut killed, &check, is_success, second) != VerdictChange::None {
                saved = killed.clone();
            }
            prop_assert_eq!(killed.verdict, state.verdict);
            prop_assert_eq!(killed.since, state.since);
        }
    }
}
