//! Known rules, with a kernel that tells, changes and refuses.

use std::cell::Cell;

use super::rules::{ChainName, Rule};
use super::*;

fn rules_of(table: &str) -> RuleSet {
    let chain = ChainName {
        family: "ip",
        table: table.to_owned(),
        chain: "c".to_owned(),
    };
    RuleSet {
        base_chains: Vec::new(),
        rules: vec![Rule::new(chain)],
    }
}

#[test]
fn rules_that_cannot_be_read_count_as_they_were() {
    let refused = || Err(io::ErrorKind::TimedOut.into());
    let mut last = None;
    assert!(current(&mut last, || Ok(1), refused).is_err(), "never read");
    current(&mut last, || Ok(1), || Ok(rules_of("a"))).unwrap();
    let tries = Cell::new(0);
    let interrupted = || {
        tries.set(tries.get() + 1);
        Err(io::ErrorKind::Interrupted.into())
    };
    let kept = current(&mut last, || Ok(2), interrupted).unwrap();
    assert_eq!((&*kept.rules, tries.get()), (&rules_of("a"), ATTEMPTS_MAX));
    let kept = current(&mut last, || Err(io::ErrorKind::TimedOut.into()), refused).unwrap();
    assert_eq!(*kept.rules, rules_of("a"));
    let now = current(&mut last, || Ok(2), || Ok(rules_of("b"))).unwrap();
    assert_eq!(
        *now.rules,
        rules_of("b"),
        "they are read as soon as they can be"
    );
}

#[test]
fn rules_are_read_anew_after_changes_of_others_only() {
    let after = |before, now| {
        let mut known = 7;
        move_on(&mut known, before, now);
        known
    };
    assert_eq!(after(7, 8), 8, "the own write");
    assert_eq!(after(7, 9), 7, "and one of others");
    assert_eq!(after(7, 7), 7, "nothing written");
    assert_eq!(after(6, 8), 7, "read meanwhile");
}

#[tokio::test]
async fn a_reading_of_many_rules_holds_up_neither_the_executor_nor_a_write() {
    let firewall = Arc::new(HostFirewall::new("own".to_owned(), false));
    let (began, reading) = std::sync::mpsc::channel();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let reader = {
        let firewall = Arc::clone(&firewall);
        std::thread::spawn(move || {
            let _rules = lock(&firewall.nftables);
            began.send(()).unwrap();
            end.recv().unwrap();
        })
    };
    reading.recv().unwrap();
    assert_eq!(firewall.before_own_write(), None);
    firewall.after_own_write(Some(1));
    let binding = state::desired::PortBinding {
        host_ip: Some([192, 0, 2, 1].into()),
        host: 1,
        container: 1,
        protocol: state::spec::Protocol::Tcp,
    };
    let mut checked = Box::pin(super::super::holders::check_free(&firewall, vec![binding]));
    let waited = tokio::time::timeout(Duration::from_millis(20), &mut checked).await;
    assert!(waited.is_err(), "the rules are not read yet");
    done.send(()).unwrap();
    checked.await.unwrap();
    reader.join().unwrap();
}
