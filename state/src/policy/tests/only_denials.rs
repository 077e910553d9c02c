//! One more rule never allows what the others deny.

use proptest::prelude::*;

use super::*;

fn any_rule() -> impl Strategy<Value = Value> {
    let memory = prop::option::of(6_u32..4000);
    let port = prop::option::of(1_u16..2000);
    let owner = prop::sample::select(vec![None, Some("push"), Some("chas")]);
    let names = prop::option::of(prop::sample::select(vec!["*", "web", "w*", "x*"]));
    let drawn = (
        (
            memory,
            port,
            owner,
            names,
            any::<bool>(),
            any::<bool>(),
            0_u64..3,
        ),
        any_list(),
    );
    drawn.prop_map(
        |((memory, port, owner, names, digest, root, count), lists)| {
            let mut rule = json!({"count": count});
            rule.as_object_mut().unwrap().extend(lists);
            if let Some(memory) = memory {
                rule["memory"] = json!(format!("{memory}m"));
            }
            if let Some(port) = port {
                rule["host_ports"] = json!([format!("1-{port}")]);
            }
            if let Some(owner) = owner {
                rule["owner"] = json!(owner);
            }
            if let Some(names) = names {
                rule["containers"] = json!([names]);
            }
            if digest {
                rule["digest"] = json!(true);
            }
            if root {
                rule["non_root"] = json!(true);
            }
            rule
        },
    )
}

/// Bounds that are lists or sums.
fn any_list() -> impl Strategy<Value = serde_json::Map<String, Value>> {
    let image = prop::sample::select(vec!["nginx", "docker.io/library/*", "r.example/*"]);
    let address = prop::sample::select(vec!["0.0.0.0", "127.0.0.1"]);
    let capability = prop::sample::select(vec!["CHOWN", "KILL", "NET_RAW"]);
    let drawn = (
        prop::option::of(prop::collection::vec(image, 0..3)),
        prop::option::of(prop::collection::vec(address, 0..2)),
        prop::option::of(prop::collection::vec(capability, 0..3)),
        prop::option::of(6_u32..4000),
        prop::option::of(1_u32..4),
    );
    drawn.prop_map(|(images, addresses, capabilities, memory, cpu)| {
        let mut rule = serde_json::Map::new();
        let mut add = |key: &str, value: Option<Value>| {
            rule.extend(value.map(|value| (key.to_owned(), value)));
        };
        add("images", images.map(|list| json!(list)));
        add("host_ips", addresses.map(|list| json!(list)));
        add("capabilities", capabilities.map(|list| json!(list)));
        add("memory_total", memory.map(|size| json!(format!("{size}m"))));
        add("cpu_total", cpu.map(|cpu| json!(cpu)));
        rule
    })
}

proptest! {
    #[test]
    fn more_rules_never_allow_more(
        rules in prop::collection::vec(any_rule(), 0..5), more in any_rule(), at in 0_usize..5,
        memory in prop::option::of(6_u32..4000), host in prop::option::of(1_u16..2000),
        by_chas in any::<bool>(), address in prop::option::of(Just("127.0.0.1")),
        image in prop::sample::select(vec!["nginx", "r.example/a", "other.example/b"]),
        name in prop::sample::select(vec!["web", "xa", "wb"]), drop_all in any::<bool>(),
    ) {
        let file = |rules: &[Value]| {
            let named = rules.iter().enumerate().map(|(index, rule)| {
                let mut rule = rule.clone();
                rule["name"] = json!(format!("r{index}"));
                rule
            });
            read(&json!({"rules": named.collect::<Vec<_>>()})).unwrap()
        };
        let deploy = body(&json!({
            "name": name, "image": image,
            "resources": {"memory": memory.map(|m| format!("{m}m"))},
            "exposed_ports": [{"container": 80, "host": host, "host_ip": address}],
            "security": {"capabilities": {"drop": if drop_all { json!(["ALL"]) } else { json!([]) }}},
        }));
        let owner = if by_chas { Owner::Chas } else { Owner::Push };
        let desired = stored(&[sized("xa", 1, "6m"), sized("wb", 2, "1g")]);
        let start = Record { spec: deploy.spec.clone(), owner, ..record(name, 9) };
        let judge = |policy: &Policy| {
            let mut denials = policy.judge(&deploy, owner, &desired);
            denials.extend(policy.judge_start(&start));
            denials.into_iter().map(|denial| (denial.field, denial.message)).collect::<Vec<_>>()
        };
        let before = judge(&file(&rules));
        let mut all = rules.clone();
        all.insert(at.min(rules.len()), more);
        let after = judge(&file(&all));
        prop_assert!(before.iter().all(|denial| after.contains(denial)), "{before:?} {after:?}");
    }
}
