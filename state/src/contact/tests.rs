use serde_json::json;

use super::*;

const fn at(secs: u64) -> BootTime {
    BootTime(Duration::from_secs(secs))
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn spec(stop_after: Option<&str>) -> Spec {
    let body =
        json!({"name": "web", "image": "nginx", "on_disconnect": {"stop_after": stop_after}});
    crate::spec::parse::deploy(&body).unwrap().spec
}

#[test]
fn silence_ends_a_container_that_asks_for_it_and_an_answer_ends_the_silence() {
    let (minute, never) = (spec(Some("1m")), spec(None));
    let mut contact = Contact::begun(at(100));
    contact.record_answer(at(110), secs(20));
    assert_eq!(contact.stops_at(&minute), Some(at(170)));
    assert_eq!(contact.suspension(&minute, at(169)), None);
    let suspension = contact.suspension(&minute, at(170)).unwrap();
    assert!(suspension.is_certain && suspension.in_force == secs(60));
    assert_eq!(
        (
            contact.stops_at(&never),
            contact.suspension(&never, at(u64::MAX))
        ),
        (None, None)
    );
    // Calls that fail end nothing of it.
    contact.record_failure();
    assert!(contact.suspension(&minute, at(170)).is_some());
    contact.record_answer(at(171), secs(20));
    assert_eq!(contact.suspension(&minute, at(230)), None);
}

#[test]
fn a_length_below_twice_the_interval_of_the_calls_is_raised_in_clear_words() {
    let spec = spec(Some("10s"));
    let mut contact = Contact::begun(at(0));
    contact.record_answer(at(0), secs(30));
    assert_eq!(contact.suspension(&spec, at(59)), None);
    let told = contact.suspension(&spec, at(60)).unwrap().message();
    assert!(told.contains("(10s, raised to 1m since CHaS"), "{told}");
    contact.record_answer(at(60), secs(1));
    let told = contact.suspension(&spec, at(70)).unwrap().message();
    assert!(told.contains("(10s);"), "{told}");
}

#[test]
fn nothing_that_runs_is_stopped_before_the_agent_has_asked() {
    let spec = spec(Some("1m"));
    let mut contact = Contact::begun(at(0));
    assert!(!contact.suspension(&spec, at(60)).unwrap().is_certain);
    contact.record_failure();
    assert!(contact.suspension(&spec, at(60)).unwrap().is_certain);
}

/// A note, as the files give it back.
fn again(stored: &StoredContact) -> StoredContact {
    serde_json::from_value(serde_json::to_value(stored).unwrap()).unwrap()
}

#[test]
fn a_restart_of_the_agent_makes_silence_longer_by_one_note_at_most_and_never_shorter() {
    let spec = spec(Some("10m"));
    let shortest = secs(600);
    let mut contact = Contact::begun(at(0));
    contact.record_answer(at(1000), secs(15));
    let stored = again(&contact.to_store(None, ("a", shortest), at(1001)));
    // Answers until the next note are not noted.
    contact.record_answer(at(1029), secs(15));
    assert!(!stored.is_outdated(&contact, ("a", secs(600)), at(1029)));
    let loaded = stored.in_boot("a", at(1500));
    assert_eq!(loaded.stops_at(&spec), Some(at(1630)));
    // The agent was down for hours, and CHaS may have been well.
    assert!(!loaded.suspension(&spec, at(9000)).unwrap().is_certain);
    // One that dies again and again counts on.
    let mut loaded = loaded;
    let mut stored = stored;
    for now in (1500..1700).step_by(7) {
        if stored.is_outdated(&loaded, ("a", secs(600)), at(now)) {
            stored = again(&loaded.to_store(Some(&stored), ("a", shortest), at(now)));
        }
        loaded = stored.in_boot("a", at(now + 1));
    }
    assert_eq!(loaded.stops_at(&spec), Some(at(1630)));
}

#[test]
fn silence_is_known_again_after_a_kill_and_added_up_over_reboots() {
    let spec = spec(Some("10m"));
    let mut contact = Contact::begun(at(0));
    contact.record_answer(at(100), secs(15));
    let heard = contact.to_store(None, ("a", secs(600)), at(100));
    assert!(
        heard.is_outdated(&contact, ("a", secs(600)), at(130)),
        "30 s: a twentieth"
    );
    let silent = again(&contact.to_store(Some(&heard), ("a", secs(600)), at(400)));
    assert_eq!(silent.in_boot("a", at(401)).since(), at(100));
    // The clock begins anew, or goes on: what counts is what the boot before had counted.
    for now in [20, 5000] {
        let mut next = silent.in_boot("b", at(now));
        assert_eq!(next.silent_for(at(now)), secs(300));
        assert_eq!(next.stops_at(&spec), Some(at(now + 300)));
        assert!(
            silent.is_outdated(&next, ("b", secs(600)), at(now)),
            "noted at once"
        );
        let third = again(&next.to_store(Some(&silent), ("b", secs(600)), at(now + 200)));
        assert!(
            third
                .in_boot("c", at(1))
                .suspension(&spec, at(101))
                .is_some()
        );
        next.record_answer(at(now + 201), secs(15));
        assert_eq!(next.silent_for(at(now + 201)), Duration::ZERO);
        assert!(
            third.is_outdated(&next, ("b", secs(600)), at(now + 201)),
            "it is over"
        );
    }
}
