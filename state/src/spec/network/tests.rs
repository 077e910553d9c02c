//! Network sections as they are written and read.

use super::*;
use crate::spec::fields::FieldError;
use crate::spec::parse;

fn section(network: &Value) -> Result<Network, Vec<FieldError>> {
    let body = json!({"name": "web", "image": "nginx", "network": network});
    parse::deploy(&body).map(|deploy| deploy.spec.network)
}

#[test]
fn a_range_has_no_bits_beyond_its_prefix() {
    let range = |text: &str| text.parse::<AddressRange>();
    for (text, inside, outside) in [
        ("192.0.2.0/24", [192, 0, 2, 255], Some([192, 0, 3, 0])),
        ("192.0.2.7/32", [192, 0, 2, 7], Some([192, 0, 2, 6])),
        ("0.0.0.0/0", [255, 255, 255, 255], None),
        ("128.0.0.0/1", [128, 0, 0, 0], Some([127, 255, 255, 255])),
    ] {
        let range = range(text).unwrap();
        assert_eq!(range.to_string(), text);
        assert!(range.contains(inside.into()), "{text}");
        assert!(outside.is_none_or(|address| !range.contains(address.into())));
    }
    for wrong in [
        "192.0.2.1/24",
        "192.0.2.0",
        "192.0.2.0/33",
        "192.0.2.0/+8",
        "192.0.2.0/",
        "::/0",
        "0.0.0.0/000",
        "x/8",
    ] {
        assert!(range(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_word_of_the_contract_is_the_default_and_shown_as_such() {
    for plain in [
        json!("bridge"),
        json!(null),
        json!({}),
        json!({"groups": []}),
    ] {
        assert_eq!(section(&plain).unwrap(), Network::default());
    }
    assert_eq!(Network::default().to_json(), json!("bridge"));
    assert_eq!(section(&json!("hosts")).unwrap_err()[0].field, "network");
}

#[test]
fn a_container_off_the_bridge_publishes_nothing_and_the_host_s_sysctls_stay() {
    for mode in [NetworkMode::None, NetworkMode::Host] {
        let network = section(&json!(mode.as_str())).unwrap();
        assert_eq!((network.mode, network.is_ruled()), (mode, false));
        assert_eq!(network.to_json(), json!(mode.as_str()));
    }
    for (network, expected) in [
        ("bridge", vec![]),
        ("none", vec!["exposed_ports"]),
        ("host", vec!["exposed_ports", "sysctls.net.core.somaxconn"]),
    ] {
        let body = json!({"name": "web", "image": "nginx", "network": network,
            "exposed_ports": [{"container": 80}],
            "sysctls": {"net.core.somaxconn": "1", "kernel.shmmax": "1"}});
        let faults = parse::deploy(&body).err().unwrap_or_default();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, expected, "{network}");
    }
}

#[test]
fn an_empty_list_allows_nobody_and_stays() {
    let network = section(&json!({"allow": {"egress": []}})).unwrap();
    assert_eq!(
        (network.ingress.clone(), network.egress.clone()),
        (None, Some(vec![]))
    );
    let stored = serde_json::to_value(&network).unwrap();
    assert_eq!(stored, json!({"egress": []}));
    assert_eq!(serde_json::from_value::<Network>(stored).unwrap(), network);
    assert_eq!(section(&network.to_json()).unwrap(), network);
}

#[test]
fn every_fault_is_told_at_its_place() {
    let many = vec!["g"; GROUPS_MAX + 1];
    let faults = section(&json!({
        "groups": many,
        "allow": {
            "ingress": [
                {"ports": ["tcp/80"]},
                {"group": "a", "cidr": "192.0.2.0/24"},
                {"group": "A"},
                {"group": "a", "ports": []},
                {"group": "a", "ports": ["tcp/0"]},
                {"group": "a", "port": 1},
            ],
            "egress": {"group": "a"},
        },
        "group": "a",
    }));
    let fields: Vec<_> = faults
        .unwrap_err()
        .into_iter()
        .map(|fault| fault.field)
        .collect();
    let ingress = |rest: &str| format!("network.allow.ingress{rest}");
    let wanted = [
        "network.groups".to_owned(),
        ingress("[0].group"),
        ingress("[1].cidr"),
        ingress("[2].group"),
        ingress("[3].ports"),
        ingress("[4].ports"),
        ingress("[5].port"),
        "network.allow.egress".to_owned(),
        "network.group".to_owned(),
    ];
    assert_eq!(fields, wanted);
}
