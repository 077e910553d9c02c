mod capabilities;
mod groups;
mod knobs;
mod only_denials;
mod totals;

use serde_json::{Value, json};

use super::*;
use crate::desired::set::DesiredChange;
use crate::desired::tests::record;

fn body(more: &Value) -> Deploy {
    let mut body = json!({"name": "web", "image": "nginx"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    crate::spec::parse::deploy(&body).unwrap()
}

fn with(rule: &Value) -> Policy {
    let mut rule = rule.clone();
    rule["name"] = json!("r");
    read(&json!({"rules": [rule]})).unwrap()
}

/// The fields that a policy of one rule denies.
fn denied(rule: &Value, deploy: &Value) -> Vec<String> {
    let denials = with(rule).judge(&body(deploy), Owner::Push, &Desired::default());
    assert!(
        denials.iter().all(|denial| denial.rule == "r"),
        "{denials:?}"
    );
    denials.into_iter().map(|denial| denial.field).collect()
}

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn each_bound_denies_what_is_beyond_it_and_nothing_else() {
    let pinned = format!("r.example/a/b@{DIGEST}");
    let table = [
        (json!({"images": ["nginx"]}), json!({}), vec![]),
        (
            json!({"images": ["docker.io/library/*"]}),
            json!({"image": "redis:7"}),
            vec![],
        ),
        (
            json!({"images": ["docker.io/library/*"]}),
            json!({"image": "team/redis"}),
            vec!["image"],
        ),
        (
            json!({"images": ["r.example/a/*"]}),
            json!({"image": "r.example/ab/c"}),
            vec!["image"],
        ),
        (
            json!({"images": ["r.example/*"]}),
            json!({"image": "r.example.evil/a"}),
            vec!["image"],
        ),
        (
            json!({"images": ["r.example/*"]}),
            json!({"image": "r.example:5000/a"}),
            vec!["image"],
        ),
        (json!({"images": []}), json!({}), vec!["image"]),
        (
            json!({"digest": true}),
            json!({"image": "nginx:1"}),
            vec!["image"],
        ),
        (json!({"digest": true}), json!({"image": pinned}), vec![]),
        (
            json!({"host_ports": ["8000-8999", 443]}),
            json!({"exposed_ports": [
                {"container": 1, "host": 443}, {"container": 2, "host": 8999},
                {"container": 3, "host": 9000}, {"container": 4}]}),
            vec!["exposed_ports[2].host", "exposed_ports[3].host"],
        ),
        (
            json!({"host_ports": ["auto"]}),
            json!({"exposed_ports": [{"container": 4}]}),
            vec![],
        ),
        (
            json!({"host_ports": []}),
            json!({"exposed_ports": [{"container": 4}]}),
            vec!["exposed_ports[0].host"],
        ),
        (
            json!({"host_ips": ["127.0.0.1"]}),
            json!({"exposed_ports": [{"container": 1, "host_ip": "127.0.0.1"}, {"container": 2}]}),
            vec!["exposed_ports[1].host_ip"],
        ),
        (
            json!({"host_ips": ["0.0.0.0"]}),
            json!({"exposed_ports": [{"container": 2}]}),
            vec![],
        ),
        (
            json!({"capabilities": ["chown"]}),
            json!({}),
            vec!["security.capabilities"],
        ),
        (
            json!({"capabilities": ["CAP_CHOWN"]}),
            json!({"security": {"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}}),
            vec![],
        ),
        (json!({"non_root": true}), json!({}), vec!["user"]),
        (
            json!({"non_root": true}),
            json!({"user": "nginx"}),
            vec!["user"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "00"}),
            vec!["user"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "4294967296"}),
            vec!["user"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "4294967295"}),
            vec!["user"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "0:1000"}),
            vec!["user"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "1000:1000"}),
            vec![],
        ),
        (
            json!({"read_only_rootfs": true}),
            json!({}),
            vec!["security.read_only_rootfs"],
        ),
        (json!({"no_new_privileges": true}), json!({}), vec![]),
        (json!({"user_namespace": true}), json!({}), vec![]),
        (
            json!({"user_namespace": true}),
            json!({"security": {"user_namespace": "host"}}),
            vec!["security.user_namespace"],
        ),
        (json!({"memory": "1g"}), json!({}), vec!["resources.memory"]),
        (
            json!({"memory": "1g"}),
            json!({"resources": {"memory": "1025m"}}),
            vec!["resources.memory"],
        ),
        (
            json!({"memory": "1g"}),
            json!({"resources": {"memory": "1g"}}),
            vec![],
        ),
        (
            json!({"cpu": 1.5}),
            json!({"resources": {"cpu": "2"}}),
            vec!["resources.cpu"],
        ),
        (json!({"cpu": 1.5}), json!({}), vec!["resources.cpu"]),
        (json!({"pids": 100}), json!({}), vec!["resources.pids"]),
        (
            json!({"pids": 100}),
            json!({"resources": {"pids": 100}}),
            vec![],
        ),
        (json!({"logs": "20m"}), json!({}), vec!["logs"]),
        (
            json!({"logs": "20m"}),
            json!({"logs": {"max_files": 2}}),
            vec![],
        ),
        (
            json!({"memory_total": "1g"}),
            json!({}),
            vec!["resources.memory"],
        ),
        (
            json!({"cpu_total": 1}),
            json!({"resources": {"cpu": "2"}}),
            vec!["resources.cpu"],
        ),
        (json!({"count": 0}), json!({}), vec!["name"]),
        // For others.
        (json!({"memory": "1g", "owner": "chas"}), json!({}), vec![]),
        (
            json!({"memory": "1g", "containers": ["db-*", "we"]}),
            json!({}),
            vec![],
        ),
        (
            json!({"memory": "1g", "containers": ["db-*", "w*"]}),
            json!({}),
            vec!["resources.memory"],
        ),
    ];
    for (rule, deploy, expected) in table {
        assert_eq!(denied(&rule, &deploy), expected, "{rule} {deploy}");
    }
}

#[test]
fn the_agent_s_own_rules_hold_without_a_file() {
    let mut policy = Policy::default();
    policy.reserved.node = vec!["node-7".to_owned()];
    for (deploy, expected) in [
        (json!({"name": "localhost"}), Some((RESERVED_NAME, "name"))),
        (
            json!({"name": "ip6-allnodes"}),
            Some((RESERVED_NAME, "name")),
        ),
        (json!({"name": "metadata"}), Some((RESERVED_NAME, "name"))),
        (json!({"name": "node-7"}), Some((RESERVED_NAME, "name"))),
        (json!({"name": "node-70"}), None),
        (json!({"name": "hosted"}), None),
        (
            json!({"working_dir": "/proc/self/fd/8"}),
            Some((WORKING_DIRECTORY, "working_dir")),
        ),
        (
            json!({"working_dir": "//srv/.././proc"}),
            Some((WORKING_DIRECTORY, "working_dir")),
        ),
        (
            json!({"working_dir": "/dev/fd/3"}),
            Some((WORKING_DIRECTORY, "working_dir")),
        ),
        (json!({"working_dir": "/dev/shm/x"}), None),
        (json!({"working_dir": "/processes"}), None),
        (json!({"working_dir": "/srv/proc"}), None),
        (
            json!({"security": {"no_new_privileges": false}}),
            Some((node::NEW_PRIVILEGES, "security.no_new_privileges")),
        ),
    ] {
        let denials = policy.judge(&body(&deploy), Owner::Push, &Desired::default());
        let shown: Vec<_> = denials
            .iter()
            .map(|denial| (denial.rule.as_str(), denial.field.as_str()))
            .collect();
        assert_eq!(shown, expected.into_iter().collect::<Vec<_>>(), "{deploy}");
    }
}

#[test]
fn reserved_names_of_the_file_replace_the_well_known_and_never_the_loopback() {
    let policy = read(&json!({"reserved_names": ["vault", "db-*"]})).unwrap();
    for (name, is_denied) in [
        ("metadata", false),
        ("vault", true),
        ("db-1", true),
        ("localhost", true),
    ] {
        let denials = policy.judge(
            &body(&json!({"name": name})),
            Owner::Push,
            &Desired::default(),
        );
        assert_eq!(!denials.is_empty(), is_denied, "{name}");
    }
}

fn stored(records: &[Record]) -> Desired {
    let changes = records
        .iter()
        .map(|record| DesiredChange::Put(Box::new(record.clone())));
    Desired::default().with(&changes.collect::<Vec<_>>())
}

fn sized(name: &str, bits: u64, memory: &str) -> Record {
    let spec = body(&json!({"resources": {"memory": memory}})).spec;
    Record {
        spec,
        ..record(name, bits)
    }
}

#[test]
fn a_sum_denies_what_is_added_and_nothing_that_comes_down() {
    let desired = stored(&[
        sized("a", 1, "600m"),
        sized("b", 2, "600m"),
        Record {
            removing: true,
            ..sized("c", 3, "4g")
        },
    ]);
    let policy = with(&json!({"memory_total": "1g", "count": 2}));
    let judge = |name: &str, memory: &str| {
        let deploy = body(&json!({"name": name, "image": "y", "resources": {"memory": memory}}));
        let denials = policy.judge(&deploy, Owner::Push, &desired);
        denials
            .into_iter()
            .map(|denial| denial.field)
            .collect::<Vec<_>>()
    };
    assert_eq!(judge("a", "600m"), [""; 0]);
    assert_eq!(judge("a", "500m"), [""; 0]);
    assert_eq!(judge("a", "601m"), ["resources.memory"]);
    assert_eq!(judge("d", "6m"), ["resources.memory", "name"]);
}

#[test]
fn what_is_stored_is_judged_when_it_changes_and_when_it_starts() {
    let policy = read(&json!({
        "reserved_names": ["a"], "rules": [{"name": "r", "owner": "push", "memory": "1g", "count": 0}],
    }));
    let policy = policy.unwrap();
    let before = sized("a", 1, "2g");
    let desired = stored(std::slice::from_ref(&before));
    let ask = |deploy: &Value, owner| policy.judge(&body(deploy), owner, &desired).len();
    let same = json!({"name": "a", "resources": {"memory": "2g"}});
    assert_eq!(ask(&same, Owner::Push), 0, "nothing changes");
    let other = json!({"name": "a", "image": "y", "resources": {"memory": "2g"}});
    assert_eq!(
        ask(&other, Owner::Push),
        1,
        "its memory, not its name or count"
    );
    assert_eq!(policy.judge_start(&before).len(), 1);
    let violations = policy.violations(&desired);
    assert_eq!(violations.len(), 1);
    let stopped = Record {
        run: RunState::Stopped,
        ..before
    };
    assert_eq!(policy.violations(&stored(&[stopped])), []);
}

#[test]
fn an_unusable_policy_takes_in_nothing_new_and_lets_start_what_was_taken_in() {
    let policy = Policy {
        unusable: Some("line 3".to_owned()),
        ..Policy::default()
    };
    let desired = stored(&[sized("web", 1, "1g")]);
    let denials = policy.judge(&body(&json!({"image": "y"})), Owner::Chas, &desired);
    assert_eq!(denials.len(), 1);
    assert!(denials[0].to_string().contains("line 3"), "{denials:?}");
    assert_eq!(policy.judge_start(&sized("web", 1, "1g")), []);
    let same = body(&json!({"resources": {"memory": "1g"}}));
    assert_eq!(policy.judge(&same, Owner::Push, &desired), []);
}

#[test]
fn every_fault_of_a_file_is_told_with_its_place() {
    let file = json!({
        "rules": [
            {"name": "a", "memory": "1 gallon", "image": ["x"], "host_ports": ["80-", 0]},
            {"name": "a", "digest": false},
            {"name": "Bad Name", "pids": 3},
            {"name": "reserved-name", "pids": 3},
            {"name": "idle"},
            {"name": "empty", "cpu": null},
            {"owner": "everybody", "images": ["*", "nginx:1", "r.example*", "a/*"]},
            7,
        ],
        "changes_per_hour": "half", "reserved_names": ["-x"], "version": 1,
    });
    let faults = read(&file).unwrap_err();
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "rules[5].cpu",
            "rules[0].host_ports",
            "rules[0].memory",
            "rules[0].image",
            "rules[1].digest",
            "rules[1].name",
            "rules[2].name",
            "rules[3].name",
            "rules[6].name",
            "rules[6].owner",
            "rules[6].images",
            "rules[7]",
            "reserved_names",
            "changes_per_hour",
            "version",
        ],
        "{faults:#?}"
    );
    for text in ["[]", "7", "\"rules\""] {
        let file: Value = serde_json::from_str(text).unwrap();
        assert_eq!(read(&file).unwrap_err().len(), 1, "{text}");
    }
    assert_eq!(read(&Value::Null), Ok(Policy::default()));
    assert_eq!(read(&json!({})), Ok(Policy::default()));
    let many = vec![json!({"name": "a", "pids": 1}); 65];
    assert_eq!(read(&json!({"rules": many})).unwrap_err()[0].field, "rules");
}

#[test]
fn patterns_of_images_never_cross_the_registry_s_name() {
    for text in [
        "*",
        "r.example*",
        "nginx*",
        "team/*",
        "R.example/*",
        "r.example/A*",
        "a b",
        "r.example/**",
        "nginx:1",
        "nginx:latest",
        "r.example/a@sha256:00",
        "https://r.example/*",
        "",
    ] {
        assert!(text.parse::<images::ImagePattern>().is_err(), "{text}");
    }
    for (text, shown) in [
        ("nginx", "docker.io/library/nginx"),
        ("r.example:5000/team/*", "r.example:5000/team/*"),
        ("localhost/*", "localhost/*"),
        ("docker.io/library/ng*", "docker.io/library/ng*"),
    ] {
        assert_eq!(
            text.parse::<images::ImagePattern>().unwrap().to_string(),
            shown
        );
    }
}

#[test]
fn what_a_sum_cannot_count_is_told() {
    let rule = json!({"memory_total": "1g", "cpu_total": 1});
    let desired = stored(&[record("free", 1), sized("bound", 2, "64m")]);
    let told: Vec<_> = with(&rule)
        .violations(&desired)
        .into_iter()
        .map(|(name, denials)| {
            let fields = denials.into_iter().map(|denial| denial.field);
            (name.to_string(), fields.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let [free, bound] = ["resources.memory resources.cpu", "resources.cpu"].map(str::to_owned);
    assert_eq!(
        told,
        [("free".to_owned(), free), ("bound".to_owned(), bound)]
    );
    // It may be started again: only a change is denied.
    let start = with(&rule).judge_start(&record("free", 1));
    assert!(start.is_empty(), "{start:?}");
}

#[test]
fn denials_are_told_in_a_bounded_line() {
    let denial = |n: usize, length: usize| Denial::new("r", format!("f{n}"), "m".repeat(length));
    let many: Vec<_> = (0..30).map(|n| denial(n, 1)).collect();
    let text = told(&many);
    assert!(
        text.contains("f19") && !text.contains("f20") && text.ends_with("and 10 more"),
        "{text}"
    );
    let long: Vec<_> = (0..30).map(|n| denial(n, 900)).collect();
    assert_eq!(told(&long).chars().count(), 1025);
}

#[test]
fn without_a_policy_nothing_is_changed_stopped_or_taken_in() {
    let policy = Policy {
        unusable: Some("line 3".to_owned()),
        ..Policy::default()
    };
    let deploy = body(&json!({}));
    let before = Record {
        spec: deploy.spec.clone(),
        ..record("web", 1)
    };
    let desired = stored(&[before]);
    let judge = |deploy: &Deploy| policy.judge(deploy, Owner::Push, &desired).len();
    assert_eq!(judge(&deploy), 0);
    for other in [
        json!({"state": "stopped"}),
        json!({"image": "x"}),
        json!({"name": "b"}),
    ] {
        assert_eq!(judge(&body(&other)), 1, "{other}");
    }
}
