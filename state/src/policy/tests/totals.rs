//! Sums over containers in the middle of an update.

use super::*;
use crate::desired::update::{Update, UpdateStage};

#[test]
fn a_sum_has_the_larger_of_two_generations_while_an_update_is_under_way() {
    let mut next = sized("a", 1, "100m");
    next.update = Some(Update {
        stage: UpdateStage::Trying,
        is_beside: true,
        serving: None,
        former: Box::new(sized("a", 1, "600m")),
    });
    let policy = with(&json!({"memory_total": "1000m"}));
    let denied = |name: &str, memory: &str| {
        let deploy = body(&json!({"name": name, "image": "y", "resources": {"memory": memory}}));
        let desired = stored(std::slice::from_ref(&next));
        !policy.judge(&deploy, Owner::Push, &desired).is_empty()
    };
    assert!(denied("b", "401m"));
    assert!(!denied("b", "400m"));
    assert!(!denied("a", "600m"));
}
