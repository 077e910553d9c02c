//! Tests of the checks of answers from CHaS.

use serde_json::{Value, json};
use state::ownership::ChasSet;

use crate::chas::wire::{self, RegisterReply, ReportContent, ReportReply};

fn set() -> Value {
    json!({"schema": 1, "node_id": "n", "epoch": "e", "generation": 42, "complete": true, "poll_after_s": 7,
        "containers": [{"name": "a", "image": "nginx"}], "remove": [{"name": "old"}], "prune_confirm": null, "cordon": false})
}

fn read(body: &[u8]) -> Result<ChasSet, String> {
    wire::parse_set(body, "n", Some("\"t\"".to_owned()), 5).map(|listing| listing.set)
}

fn with(field: &str, value: Value) -> Vec<u8> {
    let mut body = set();
    body[field] = value;
    body.to_string().into_bytes()
}

#[test]
fn a_whole_set_is_taken_as_it_is() {
    let listing = wire::parse_set(
        set().to_string().as_bytes(),
        "n",
        Some("\"t\"".to_owned()),
        5,
    )
    .unwrap();
    assert_eq!(listing.poll_after.map(|after| after.as_secs()), Some(7));
    let set = listing.set;
    assert_eq!(
        (set.epoch.as_str(), set.generation, set.requested_at_seq),
        ("e", 42, 5)
    );
    assert_eq!(
        (set.containers.len(), set.remove.len(), set.rejected.len()),
        (1, 1, 0)
    );
    assert_eq!(
        (set.prune_confirm, set.cordon, set.etag.as_deref()),
        (None, false, Some("\"t\""))
    );
    let set = read(&with("prune_confirm", json!(42))).unwrap();
    assert_eq!(set.prune_confirm, Some(42));
    assert!(read(&with("cordon", json!(true))).unwrap().cordon);
    // The server may be newer, and may leave out what need not be said.
    assert!(read(&with("weather", json!("fine"))).is_ok());
    let least =
        json!({"node_id": "n", "epoch": "e", "generation": 1, "complete": true, "containers": []});
    assert_eq!(read(least.to_string().as_bytes()).unwrap().containers, []);
}

#[test]
fn what_is_not_whole_or_not_for_this_node_is_no_set() {
    let full = set().to_string();
    let half = &full.as_bytes()[..full.len() / 2];
    for (body, part) in [
        (b"".to_vec(), "empty"),
        (half.to_vec(), "not JSON"),
        (b"<html>Log in</html>".to_vec(), "not JSON"),
        (b"[]".to_vec(), "not a JSON object"),
        (b"null".to_vec(), "not a JSON object"),
        (b"{}".to_vec(), "for node null"),
        (with("schema", json!(2)), "schema 2"),
        (with("node_id", json!("m")), "for node \"m\""),
        (with("complete", json!(false)), "complete"),
        (with("complete", json!("true")), "complete"),
        (with("complete", Value::Null), "complete"),
        (with("epoch", json!("")), "no epoch"),
        (with("epoch", json!(7)), "no epoch"),
        (with("generation", json!(-1)), "no generation"),
        (with("generation", json!("42")), "no generation"),
        (with("containers", json!({})), "no list of containers"),
        (with("containers", Value::Null), "no list of containers"),
        (with("containers", json!(vec![0; 10_001])), "at most 10000"),
    ] {
        let why = read(&body).unwrap_err();
        assert!(why.contains(part), "{part:?} is not in {why:?}");
    }
}

#[test]
fn an_entry_that_is_wrong_is_told_with_every_fault_and_the_rest_is_taken() {
    let entries = json!([{"name": "a", "image": "nginx"}, {"name": "b", "image": "", "priority": 900}, {"image": "x"}, 7]);
    let set = read(&with("containers", entries)).unwrap();
    assert_eq!(
        (set.containers.len(), set.names()),
        (1, None),
        "whose names the last two are cannot be told"
    );
    let told: Vec<_> = set
        .rejected
        .iter()
        .map(|r| (r.name.as_deref(), r.index, r.errors.is_empty()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("b"), Some(1), false),
            (None, Some(2), false),
            (None, Some(3), false)
        ]
    );
    assert_eq!(set.rejected[0].errors.len(), 2, "{:?}", set.rejected[0]);
    // However many there are, what is told of them is bounded, and each name counts.
    let many: Vec<_> = (0..400)
        .map(|number| json!({"name": format!("c{number}"), "image": 1}))
        .collect();
    let set = read(&with("containers", json!(many))).unwrap();
    assert_eq!(set.names().unwrap().len(), 400);
    assert_eq!(
        set.rejected
            .iter()
            .filter(|rejected| !rejected.errors.is_empty())
            .count(),
        256
    );
}

#[test]
fn a_welcome_may_be_empty_and_its_paces_are_bounded() {
    let welcome = |body: Value| serde_json::from_value::<RegisterReply>(body).unwrap();
    assert_eq!(welcome(json!({})).poll_after(), None);
    let seconds = |body| {
        let welcome = welcome(body);
        (
            welcome.poll_after().map(|after| after.as_secs()),
            welcome.health_after().map(|after| after.as_secs()),
        )
    };
    assert_eq!(
        seconds(json!({"poll_after_s": 0, "health_after_s": 1_000_000})),
        (Some(1), Some(3600))
    );
    assert_eq!(
        seconds(json!({"poll_after_s": 15, "health_after_s": 30, "more": {}})),
        (Some(15), Some(30))
    );
}

#[test]
fn an_acknowledgement_says_whether_the_node_has_what_is_listed() {
    let observed = |generation, epoch: Option<&str>| ReportContent {
        observed_generation: generation,
        observed_epoch: epoch.map(str::to_owned),
        ..ReportContent::default()
    };
    let says = |body: Value| serde_json::from_value::<ReportReply>(body).unwrap();
    for (body, expected) in [
        (json!({}), None),
        (json!({"desired_generation": 7}), Some(true)),
        (json!({"desired_generation": 8}), Some(false)),
        // Its database was lost, and counts anew.
        (json!({"desired_generation": 6}), Some(false)),
        (
            json!({"desired_generation": 7, "desired_epoch": "e"}),
            Some(true),
        ),
        (
            json!({"desired_generation": 7, "desired_epoch": "f"}),
            Some(false),
        ),
    ] {
        assert_eq!(
            says(body.clone()).confirms(&observed(Some(7), Some("e"))),
            expected,
            "{body}"
        );
    }
    assert_eq!(
        says(json!({"desired_generation": 1, "desired_epoch": "e"}))
            .confirms(&observed(None, None)),
        Some(false)
    );
}
