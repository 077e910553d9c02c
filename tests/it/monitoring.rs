//! Alert rules of `contrib/monitoring`, held against the alarms of the agent and against their own tests.

use std::collections::BTreeSet;
use std::path::Path;

use state::alarm::{Alarm, Weight};

/// Alarms that an alert of their own is about.
const WITH_AN_ALERT: [&str; 2] = ["ContainerdUnreachable", "StateUnwritable"];
/// Notices of what is meant so, of what the distribution's number does not tell, or that an alert of their
/// own is about.
const NO_TICKET: [&str; 6] = [
    "ApiInTheClear",
    "ChasPlainHttp",
    "ChasUnreachable",
    "NoNameServer",
    "RuntimeOutdated",
    "SetUnconfirmed",
];

fn read(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join("contrib/monitoring").join(name)).unwrap()
}

/// The alarms in the selector of an alert, after `operator`.
fn alarms_of(alerts: &str, alert: &str, operator: &str) -> BTreeSet<String> {
    let begin = alerts.find(&format!("- alert: {alert}\n")).unwrap();
    let rule = &alerts[begin..];
    let list = rule.split_once(&format!("alarm{operator}\"")).unwrap().1;
    let list = list.split_once('"').unwrap().0;
    list.split('|').map(ToOwned::to_owned).collect()
}

fn of_weight(is: impl Fn(Weight) -> bool) -> BTreeSet<String> {
    let alarms = Alarm::ALL.iter().filter(|alarm| is(alarm.weight()));
    alarms.map(ToString::to_string).collect()
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn each_alarm_is_in_one_alert_by_its_weight() {
    let alerts = read("alerts.yml");
    let disabled = alarms_of(&alerts, "ChasNodeDisabled", "=~");
    let noticed = alarms_of(&alerts, "ChasNotice", "=~");
    let left_out = alarms_of(&alerts, "ChasAlarm", "!~");
    let own = owned(&WITH_AN_ALERT);
    let all_disabling = of_weight(|weight| weight == Weight::Disabling);
    assert_eq!(&disabled | &own, &all_disabling | &own);
    let notices = of_weight(|weight| weight == Weight::Notice);
    assert_eq!(&noticed | &owned(&NO_TICKET), notices);
    assert!(noticed.is_disjoint(&owned(&NO_TICKET)));
    assert_eq!(left_out, &(&notices | &disabled) | &own);
}

#[test]
fn each_alert_is_raised_by_a_test_of_the_rules() {
    let (alerts, tests) = (read("alerts.yml"), read("tests.yml"));
    let raising = tests
        .lines()
        .filter(|line| line.contains("alertname"))
        .filter(|line| !line.contains("exp_samples: []") && !line.contains("exp_alerts: []"));
    let raised: BTreeSet<_> = raising
        .flat_map(|line| line.split(|letter: char| !letter.is_ascii_alphanumeric()))
        .collect();
    let names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<_> = names.collect();
    assert!(names.len() > 25, "{names:?}");
    let unheld: Vec<_> = names
        .iter()
        .filter(|name| !raised.contains(*name))
        .collect();
    assert!(unheld.is_empty(), "tests.yml raises none of {unheld:?}");
}

#[test]
fn the_page_of_alarms_leaves_none_out_of_the_metrics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("contrib/docs/alarms.md")).unwrap();
    let (head, _) = page.split_once("| alarm |").unwrap();
    // `api::metrics` shows every alarm that `/health` does; the page once named ten as left out.
    assert!(head.contains("for every row below"), "{head}");
    for alarm in Alarm::ALL {
        assert!(!head.contains(alarm.as_str()), "{alarm} in: {head}");
    }
}
