//! Set of deploy bodies, as `{"containers": […]}`: every fault of each body at once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Deploy, FieldError};
use crate::spec::body::read;
use crate::spec::fields::{FAULTS_MAX, Fields, list_of};

/// Bodies in a set. A request of 1 MiB has room for no more, with some 100 bytes each.
const CONTAINERS_MAX: usize = 10_000;

/// Asks for the members of a set, to have a sketch of it.
pub(in crate::spec) fn sketch_set(top: &mut Fields<'_>) {
    let item = |_: &Value| Ok(());
    top.required("containers", |value| {
        list_of(value, CONTAINERS_MAX, item).map(drop)
    });
}

/// Reads a set of deploy bodies; no name twice.
///
/// # Errors
/// Every fault in it (of a thousand), each with its place, as in `containers[3].resources.memory`.
/// Never empty.
pub fn set(body: &Value) -> Result<Vec<Deploy>, Vec<FieldError>> {
    let mut faults = Vec::new();
    if let Some(mut top) = Fields::of(body, "", &mut faults) {
        sketch_set(&mut top);
        top.finish();
    }
    let items = body.get("containers").and_then(Value::as_array);
    let (mut deploys, mut names) = (Vec::new(), BTreeMap::new());
    for (index, item) in items.into_iter().flatten().enumerate().take(CONTAINERS_MAX) {
        let path = format!("containers[{index}]");
        let first = item["name"]
            .as_str()
            .and_then(|name| names.insert(name, index));
        if let Some(first) = first {
            let message = format!("this name is already that of containers[{first}]");
            faults.push(FieldError {
                field: format!("{path}.name"),
                message,
            });
        }
        deploys.extend(read(item, &path, &mut faults));
        if faults.len() >= FAULTS_MAX {
            break;
        }
    }
    if faults.is_empty() {
        Ok(deploys)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(body: &Value, expected: &[(&str, &str)]) {
        let faults = set(body).err().unwrap_or_default();
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, (field, says)) in faults.iter().zip(expected) {
            assert!(
                fault.field == *field && fault.message.contains(says),
                "{faults:#?}"
            );
        }
    }

    #[test]
    fn a_set_is_read_in_its_order() {
        let body =
            json!({"containers": [{"name": "b", "image": "x"}, {"name": "a", "image": "x"}]});
        let names: Vec<_> = set(&body)
            .unwrap()
            .into_iter()
            .map(|deploy| deploy.name.to_string())
            .collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(set(&json!({"containers": []})), Ok(Vec::new()));
    }

    #[test]
    fn every_fault_of_every_body_has_its_place() {
        check(&json!({}), &[("containers", "required")]);
        check(&json!([]), &[("", "object")]);
        check(
            &json!({"containers": {}, "generation": 1}),
            &[("containers", "array"), ("generation", "unknown")],
        );
        let containers = json!([
            {"name": "a", "image": "x", "resources": {"memory": "1"}},
            {"name": "A b", "exposed_ports": [{"container": 0}]},
            7,
            {"name": "a", "image": "x", "imagee": 1},
        ]);
        check(
            &json!({"containers": containers}),
            &[
                ("containers[0].resources.memory", "6m"),
                ("containers[1].name", "DNS"),
                ("containers[1].image", "required"),
                ("containers[1].exposed_ports[0].container", "1 to 65535"),
                ("containers[2]", "object"),
                ("containers[3].name", "containers[0]"),
                ("containers[3].imagee", "image"),
            ],
        );
        let many = vec![json!(1); 5000];
        assert_eq!(
            set(&json!({"containers": many})).unwrap_err().len(),
            FAULTS_MAX
        );
    }
}
