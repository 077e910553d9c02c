//! One more rule never allows what the others deny.

use proptest::prelude::*;

use super::*;

fn any_rule() -> impl Strategy<Value = Value> {
    let memory = prop::option::of(6_u32..4000);
    let port = prop::option::of(1_u16..2000);
    let owner = prop::sample::select(vec![None, Some("push"), Some("chas")]);
    let names = prop::option::of(prop::sample::select(vec!["*", "web", "w*", "x*"]));
    let drawn = (
        memory,
        port,
        owner,
        names,
        any::<bool>(),
        any::<bool>(),
        0_u64..3,
    );
    drawn.prop_map(|(memory, port, owner, names, digest, root, count)| {
        let mut rule = json!({"count": count});
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
    })
}

proptest! {
    #[test]
    fn more_rules_never_allow_more(
        rules in prop::collection::vec(any_rule(), 0..5), more in any_rule(), at in 0_usize..5,
        memory in prop::option::of(6_u32..4000), host in prop::option::of(1_u16..2000),
        by_chas in any::<bool>(),
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
            "resources": {"memory": memory.map(|m| format!("{m}m"))},
            "exposed_ports": [{"container": 80, "host": host}],
        }));
        let owner = if by_chas { Owner::Chas } else { Owner::Push };
        let desired = stored(&[sized("xa", 1, "6m"), sized("wb", 2, "1g")]);
        let judge = |policy: &Policy| {
            let denials = policy.judge(&deploy, owner, &desired);
            denials.into_iter().map(|denial| (denial.field, denial.message)).collect::<Vec<_>>()
        };
        let before = judge(&file(&rules));
        let mut all = rules.clone();
        all.insert(at.min(rules.len()), more);
        let after = judge(&file(&all));
        prop_assert!(before.iter().all(|denial| after.contains(denial)), "{before:?} {after:?}");
    }
}
