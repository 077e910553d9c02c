//! Capabilities, and what needs one: the node gives them, and a rule takes them away.

use super::*;

#[test]
fn a_limit_by_which_others_lose_the_cpu_needs_the_capability_of_the_node_and_of_each_rule() {
    let asked = body(&json!({"ulimits": {"rtprio": 1, "nice": 20, "nofile": 500}}));
    let fields = |policy: &Policy| -> Vec<_> {
        let denials = policy.judge(&asked, Owner::Push, &Desired::default());
        let told = denials.into_iter();
        told.map(|denial| format!("{} {}", denial.rule, denial.field))
            .collect()
    };
    let mut policy = Policy::default();
    assert_eq!(fields(&policy), ["node-capabilities ulimits.rtprio"]);
    policy.node.capabilities.insert("CAP_SYS_NICE".to_owned());
    assert!(fields(&policy).is_empty());
    let every: Vec<_> = crate::spec::DEFAULT_CAPABILITIES.into();
    let mut ruled = with(&json!({"capabilities": every}));
    ruled.node.capabilities.insert("CAP_SYS_NICE".to_owned());
    assert_eq!(fields(&ruled), ["r ulimits.rtprio"]);
}

#[test]
fn a_capability_beyond_the_default_needs_the_node_and_each_rule() {
    let asked = body(&json!({"security": {"capabilities": {"add": ["NET_ADMIN", "SYS_NICE"]}}}));
    let mut policy = with(&json!({"capabilities": ["NET_ADMIN"]}));
    policy.node.capabilities = ["CAP_NET_ADMIN".to_owned()].into();
    let told = |policy: &Policy| -> Vec<_> {
        let denials = policy.judge(&asked, Owner::Push, &Desired::default());
        denials.iter().map(ToString::to_string).collect()
    };
    let denials = told(&policy);
    assert_eq!(denials.len(), 1, "{denials:?}");
    for part in [
        "node-capabilities",
        "security.capabilities.add",
        "CAP_SYS_NICE",
    ] {
        assert!(denials[0].contains(part), "{denials:?}");
    }
    policy.node.capabilities.insert("CAP_SYS_NICE".to_owned());
    let denials = told(&policy);
    assert_eq!(denials.len(), 1, "{denials:?}");
    for part in ["\"r\"", "security.capabilities", "CAP_SYS_NICE is"] {
        assert!(denials[0].contains(part), "{denials:?}");
    }
}

#[test]
fn a_capability_that_the_node_withholds_is_none_to_deny() {
    let mut policy = with(&json!({"capabilities": ["CHOWN"]}));
    policy.node.capabilities = ["CAP_CHOWN".to_owned()].into();
    let denials = policy.judge(&body(&json!({})), Owner::Push, &Desired::default());
    assert_eq!(denials, []);
}
