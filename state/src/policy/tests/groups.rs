//! Groups of the network by a rule.

use serde_json::json;

use super::denied;

#[test]
fn a_container_is_in_no_group_that_a_rule_does_not_permit() {
    let asked = json!({"network": {"groups": ["db", "web-1"], "allow": {"ingress": [
        {"group": "ops"},
    ]}}});
    for (permitted, denials) in [
        (json!(["web-*", "db"]), 0),
        (json!(["*"]), 0),
        (json!(["web-*"]), 1),
        (json!([]), 2),
    ] {
        let denied = denied(&json!({ "groups": permitted }), &asked);
        assert_eq!(denied, vec!["network.groups"; denials], "{permitted}");
    }
    assert!(denied(&json!({"groups": []}), &json!({})).is_empty());
}
