//! The bound on the rules that the network sections of a node's containers make.

use super::*;
use crate::spec::network::NODE_RULES_MAX;

/// Body with as many groups and entries as one section may have: 41 rules.
fn full(name: usize, section: usize) -> Value {
    let groups: Vec<_> = (0..8).map(|n| format!("s{section}-{n}")).collect();
    let entries: Vec<_> = (0..16).map(|n| json!({"group": format!("g{n}")})).collect();
    let allow = json!({"ingress": entries, "egress": entries});
    let network = json!({"groups": groups, "allow": allow});
    json!({"name": format!("c{name}"), "image": "x", "network": network})
}

#[test]
fn a_node_takes_no_more_network_rules_than_its_kernel_has_in_time_and_equal_ones_count_once() {
    let directory = tempfile::tempdir().unwrap();
    let network = Host {
        addresses: Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 250),
        listening: Vec::new(),
    };
    let limits = Limits {
        containers_max: 200,
        network: Arc::new(network),
        ..limits()
    };
    let store = Store::open(directory.path(), limits).unwrap();
    let fitting = NODE_RULES_MAX / 41;
    for n in 0..fitting {
        deploy(&store, &full(n, n)).unwrap();
    }
    let refused = deploy(&store, &full(fitting, fitting)).unwrap_err();
    let wanted = 41 * (fitting + 1);
    assert!(
        matches!(refused, StoreError::TooManyRules(rules) if rules == wanted),
        "{refused}"
    );
    assert!(refused.to_string().contains("4096"), "{refused}");
    // A section that is there, none, and another in place of one's own.
    deploy(&store, &full(fitting, 0)).unwrap();
    deploy(&store, &json!({"name": "plain", "image": "x"})).unwrap();
    deploy(&store, &full(1, 1000)).unwrap();
    let mut same = full(2, 2);
    same["image"] = json!("y");
    deploy(&store, &same).unwrap();
    deploy(&store, &full(fitting, fitting)).unwrap_err();
}
