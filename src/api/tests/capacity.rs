//! The capacity of a node, as it is shown.

use serde_json::json;
use state::capacity::{Amounts, Capacity};
use state::quantity::{ByteCount, CpuMillis};

use super::{Fake, get};
use crate::view::CapacityView;

fn amounts(cpu: u64, memory: u64) -> Amounts {
    Amounts {
        cpu: CpuMillis(cpu),
        memory: ByteCount(memory),
    }
}

/// Capacity of a node on which more memory is reserved than there is.
pub(super) fn seen() -> CapacityView {
    CapacityView {
        capacity: Capacity {
            total: amounts(4000, 8 << 30),
            system: amounts(200, 1 << 30),
        },
        reserved: amounts(1500, 9 << 30),
        used_cpu: 0.5,
        used_memory: 1 << 29,
        containers: (50, 3),
    }
}

#[tokio::test]
async fn it_is_shown_in_cores_and_bytes_with_what_is_free() {
    let shown = get(&Fake::new(Vec::new()), "/capacity").await.json();
    let gib = |count: u64| count << 30;
    assert_eq!(
        shown,
        json!({
            "cpu": {"total": 4.0, "system": 0.2, "reserved": 1.5, "free": 2.3, "used": 0.5},
            "memory": {"total": gib(8), "system": gib(1), "reserved": gib(9), "free": 0, "used": 1_u64 << 29},
            "containers": {"total": 50, "reserved": 3, "free": 47},
        })
    );
}
