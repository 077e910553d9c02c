//! The rule set as text, and read back.

use std::collections::BTreeSet;

use super::rules::HostReach;
use super::*;

const OPEN: ContainerReach = ContainerReach {
    host: HostReach::Open,
    neighbours: true,
    link_local: true,
};

/// The half for IPv6, with these containers' rules.
fn half6(subnet6: &str, reach: &ContainerReach, ruled: &RuledContainers) -> String {
    let node = NodeReach {
        subnet: "10.231.0.0/16".parse().unwrap(),
        open: reach.neighbours,
        name_servers: BTreeSet::new(),
    };
    let to = |port| Publication {
        owner: "0123456789ab-7".parse().unwrap(),
        address: "fd12::2".parse().unwrap(),
        port,
    };
    let port = |host_ip: &str, port| HostPort {
        host_ip: host_ip.parse().ok(),
        protocol: Protocol::Tcp,
        port,
    };
    let mut published = published();
    published.extend([
        (port("::", 18082), to(80)),
        (port("2001:db8::9", 443), to(8443)),
    ]);
    let text = table(
        TableRules {
            table: "chas0",
            reach,
            unrouted: [&[], &[]],
            subnet6: subnet6.parse().ok(),
            node: &node,
            ruled,
        },
        &published,
    );
    let (_, half) = text.split_once("table ip6 chas0\n").unwrap();
    half.to_owned()
}

#[test]
fn the_half_for_ipv6_says_the_same_in_its_own_words() {
    let text = half6("fd12::/64", &OPEN, &RuledContainers::new());
    for line in [
        "delete table ip6 chas0\n",
        "    type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service\n",
        "    iifname \"chas0\" ip6 saddr != fd12::/64 drop\n",
        "    dnat ip6 to ip6 daddr . meta l4proto . th dport map @bound\n",
        // A caller of ::1 would wait in vain.
        "    fib daddr type local ip6 daddr != { ::1, fe80::/10 } jump published\n",
        "    iifname \"chas0\" icmpv6 type { nd-router-solicit, nd-router-advert,",
        "    ip6 saddr fd12::/64 oifname \"chas0\" ct status dnat masquerade\n",
        "    ip6 saddr fd12::/64 oifname != \"chas0\" masquerade\n",
        "      tcp . 18082 comment \"0123456789ab-7\" : fd12::2 . 80\n",
        "      2001:db8::9 . tcp . 443 comment \"0123456789ab-7\" : fd12::2 . 8443\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        !text.contains("10.231") && !text.contains("192.0.2.9"),
        "{text}"
    );
    assert!(
        !text.contains("icmp type") && !text.contains("127.0.0"),
        "{text}"
    );
    let global = half6("2001:db8::/64", &OPEN, &RuledContainers::new());
    assert!(
        !global.contains("oifname != \"chas0\" masquerade"),
        "{global}"
    );
    let closed = ContainerReach {
        host: HostReach::Only(BTreeSet::new()),
        neighbours: false,
        link_local: false,
    };
    let text = half6("fd12::/64", &closed, &RuledContainers::new());
    let (_, input) = text.split_once("chain input {").unwrap();
    let first = input.lines().nth(2).unwrap();
    assert!(
        first.contains("nd-neighbor-advert"),
        "before what is allowed: {text}"
    );
    assert!(
        text.contains(
            "ip6 daddr { fe80::/10, fd00:c1::a9fe:a9fe, fd00:ec2::254, fd20:ce::254 } reject"
        ),
        "{text}"
    );
}

#[test]
fn rules_of_containers_are_about_both_addresses_and_ranges_of_ipv4_let_nothing_else_through() {
    let body = serde_json::json!({"name": "web", "image": "x", "network": {
        "groups": ["shop"],
        "allow": {"egress": [{"cidr": "0.0.0.0/0"}, {"group": "db"}]},
    }});
    let network = state::spec::parse::deploy(&body).unwrap().spec.network;
    let ruled = [([10, 231, 0, 2].into(), ("web".parse().unwrap(), network))].into();
    let text = half6("fd12::/64", &OPEN, &ruled);
    for line in [
        "    elements = { fd12::2 comment \"web\" : jump out-0 }\n",
        "    elements = { fd12::2 comment \"web\" }\n",
        "    ip6 daddr @group-shop return\n    ip6 daddr @group-db return\n    goto refuse\n",
        "    ct state related meta l4proto ipv6-icmp return\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        !text.contains("0.0.0.0") && !text.contains("10.231"),
        "{text}"
    );
}

/// The table without groups.
fn chas0(reach: &ContainerReach, published: &Published) -> String {
    let node = NodeReach {
        subnet: "10.231.0.0/16".parse().unwrap(),
        open: reach.neighbours,
        name_servers: BTreeSet::new(),
    };
    let rules = TableRules {
        table: "chas0",
        reach,
        unrouted: [&[], &[]],
        subnet6: None,
        node: &node,
        ruled: &RuledContainers::new(),
    };
    table(rules, published)
}

fn published() -> Published {
    let owner = "0123456789ab-7".parse().unwrap();
    let to = |last, port| Publication {
        owner,
        address: [10, 231, 0, last].into(),
        port,
    };
    let port = |host_ip, protocol, port| HostPort {
        host_ip,
        protocol,
        port,
    };
    Published::from([
        (port(None, Protocol::Tcp, 18082), to(2, 80)),
        (port(None, Protocol::Udp, 53), to(3, 53)),
        (
            port(Some([192, 0, 2, 9].into()), Protocol::Tcp, 443),
            to(2, 8443),
        ),
    ])
}

#[test]
fn the_whole_table_replaces_itself_in_one_transaction() {
    let text = chas0(&OPEN, &published());
    assert!(
        text.starts_with("table ip chas0\ndelete table ip chas0\ntable ip chas0 {\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "      192.0.2.9 . tcp . 443 comment \"0123456789ab-7\" : 10.231.0.2 . 8443\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("      tcp . 18082 comment \"0123456789ab-7\" : 10.231.0.2 . 80,\n"),
        "{text}"
    );
    assert!(
        text.contains("iifname \"chas0\" ip saddr != 10.231.0.0/16 drop"),
        "{text}"
    );
    assert!(!text.contains("{  }"), "{text}");
}

#[test]
fn what_containers_reach_of_the_host_is_decided_in_order_and_for_them_alone() {
    let text = |reach: &ContainerReach| chas0(reach, &Published::new());
    let open = text(&OPEN);
    assert!(
        !open.contains("hook input") && !open.contains("169.254"),
        "{open}"
    );
    let closed = text(&ContainerReach {
        host: HostReach::Only(BTreeSet::from([(Protocol::Udp, 8125)])),
        neighbours: true,
        link_local: false,
    });
    let (_, input) = closed
        .split_once("hook input priority 0; policy accept;\n")
        .unwrap();
    let rules: Vec<_> = input
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .collect();
    assert_eq!(
        rules,
        [
            "iifname \"chas0\" ct state established,related accept",
            "iifname \"chas0\" tcp dport 53 accept",
            "iifname \"chas0\" meta l4proto tcp ct original proto-dst 53 accept",
            "iifname \"chas0\" udp dport 53 accept",
            "iifname \"chas0\" meta l4proto udp ct original proto-dst 53 accept",
            "iifname \"chas0\" udp dport 8125 accept",
            "iifname \"chas0\" meta l4proto udp ct original proto-dst 8125 accept",
            "iifname \"chas0\" icmp type echo-request accept",
            "iifname \"chas0\" meta l4proto tcp reject with tcp reset",
            "iifname \"chas0\" reject with icmp type admin-prohibited",
        ]
    );
    let link_local = closed
        .lines()
        .filter_map(|line| line.strip_prefix("    iifname \"chas0\" ip daddr 169.254.0.0/16 "));
    assert_eq!(
        link_local.collect::<Vec<_>>(),
        [
            "ct direction reply accept",
            "udp dport 53 accept",
            "tcp dport 53 accept",
            "meta l4proto tcp reject with tcp reset",
            "reject with icmp type admin-prohibited",
        ]
    );
}

#[test]
fn an_empty_map_has_no_elements_line() {
    let text = chas0(&OPEN, &Published::new());
    assert!(!text.contains("elements"), "{text}");
}

#[test]
fn a_change_deletes_before_it_adds() {
    let all = published();
    let delete: Vec<_> = all
        .keys()
        .copied()
        .filter(|port| port.host_ip.is_some())
        .collect();
    let add: Published = all
        .into_iter()
        .filter(|(port, _)| port.port == 53)
        .collect();
    assert_eq!(
        change("chas0", &delete, &add),
        "delete element ip chas0 bound { 192.0.2.9 . tcp . 443 }\n\
         add element ip chas0 ports { udp . 53 comment \"0123456789ab-7\" : 10.231.0.3 . 53 }\n"
    );
}

/// Listing as nft 1.0.6 prints it.
fn json(handle: u32, elements: &str) -> String {
    format!(
        r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6", "json_schema_version": 1}}}},
        {{"table": {{"family": "ip", "name": "chas0", "handle": {handle}}}}},
        {{"map": {{"family": "ip", "name": "ports", "table": "chas0", "type": ["inet_proto", "inet_service"], "handle": {handle},
          "map": "ipv4_addr . inet_service", "elem": [{elements}]}}}},
        {{"map": {{"family": "ip", "name": "bound", "table": "chas0", "type": ["ipv4_addr", "inet_proto", "inet_service"],
          "handle": 8, "map": "ipv4_addr . inet_service", "elem": [[
          {{"elem": {{"val": {{"concat": ["192.0.2.9", "tcp", 443]}}, "comment": "0123456789ab-7"}}}},
          {{"concat": ["10.231.0.2", 8443]}}]]}}}},
        {{"chain": {{"family": "ip", "table": "chas0", "name": "output", "handle": 4, "type": "nat", "hook": "output",
          "prio": -110, "policy": "accept"}}}}]}}"#
    )
}

const ONE: &str = r#"[{"elem": {"val": {"concat": ["tcp", 18082]}, "comment": "0123456789ab-7"}}, {"concat": ["10.231.0.2", 80]}]"#;
const OTHER: &str = r#"[{"elem": {"val": {"concat": ["udp", 53]}, "comment": "0123456789ab-7"}}, {"concat": ["10.231.0.3", 53]}]"#;

#[test]
fn a_listing_reads_back_what_was_published() {
    let listing = read_listing(&json(1, &format!("{OTHER}, {ONE}"))).unwrap();
    assert_eq!(listing.published, published());
}

#[test]
fn handles_and_elements_do_not_belong_to_the_shape() {
    let one = read_listing(&json(1, ONE)).unwrap();
    assert_eq!(one.shape, read_listing(&json(99, OTHER)).unwrap().shape);
    assert_ne!(
        one.shape,
        read_listing(&json(1, ONE).replace("-110", "-100"))
            .unwrap()
            .shape
    );
}

#[test]
fn an_element_that_is_not_ours_makes_the_shape_differ() {
    let clean = read_listing(&json(1, ONE)).unwrap();
    for strange in [
        r#"[{"concat": ["tcp", 1]}, {"concat": ["10.231.0.2", 80]}]"#,
        r#"[{"elem": {"val": {"concat": ["tcp", 1]}, "comment": "mine"}}, {"concat": ["10.231.0.2", 80]}]"#,
        r#"[{"elem": {"val": {"concat": ["sctp", 1]}, "comment": "0123456789ab-7"}}, {"concat": ["10.231.0.2", 80]}]"#,
    ] {
        let listing = read_listing(&json(1, &format!("{ONE}, {strange}"))).unwrap();
        assert_eq!(listing.published, clean.published, "{strange}");
        assert_ne!(listing.shape, clean.shape, "{strange}");
    }
}

#[test]
fn what_is_no_listing_is_an_error() {
    assert!(matches!(
        read_listing("table ip chas0 {"),
        Err(NftError::Listing(_))
    ));
}

#[test]
fn neighbours_are_refused_where_they_are_not_reached_but_by_published_ports() {
    let refusals = |neighbours| {
        let reach = ContainerReach { neighbours, ..OPEN };
        let text = chas0(&reach, &Published::new());
        let between = "iifname \"chas0\" oifname \"chas0\" ct ";
        text.matches(between).count()
    };
    assert_eq!((refusals(true), refusals(false)), (0, 3));
}
