//! Bound on swap, which lies beside memory.

use super::*;

#[test]
fn swap_is_bounded_beside_a_limit_on_memory() {
    let table = [
        (json!({"swap": 0}), json!({}), vec!["resources.memory"]),
        (
            json!({"swap": 0}),
            json!({"resources": {"memory": "1g"}}),
            vec![],
        ),
        (
            json!({"swap": "1g"}),
            json!({"resources": {"memory": "1g", "swap": "1g"}}),
            vec![],
        ),
        (
            json!({"swap": "1g"}),
            json!({"resources": {"memory": "1g", "swap": "1025m"}}),
            vec!["resources.swap"],
        ),
        (
            json!({"swap": "1g"}),
            json!({"resources": {"memory": "1g", "swap": "unlimited"}}),
            vec!["resources.swap"],
        ),
    ];
    for (rule, deploy, expected) in table {
        assert_eq!(denied(&rule, &deploy), expected, "{rule} {deploy}");
    }
}
