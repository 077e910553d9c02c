//! Sizes of volumes that several containers mount.

use super::*;
use crate::spec::parse;

fn sized(name: &str, size: &Value) -> Value {
    json!({"name": name, "image": "x", "volumes": [{"volume": "data", "path": "/data", "size": size}]})
}

#[test]
fn containers_that_share_a_volume_say_one_size_and_change_it_together() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), limits()).unwrap();
    let (small, large) = (json!("1g"), json!("2g"));
    deploy(&store, &sized("a", &small)).unwrap();
    deploy(&store, &sized("b", &Value::Null)).unwrap();
    deploy(&store, &sized("b", &small)).unwrap();
    let refused = deploy(&store, &sized("b", &large)).unwrap_err();
    assert!(
        matches!(refused, StoreError::VolumeSize { .. }),
        "{refused}"
    );
    for part in ["volume data is to have 2g", "container a says 1g"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    let set = |sizes: [&Value; 2]| {
        let wanted = [sized("a", sizes[0]), sized("b", sizes[1])];
        let request = ReplaceRequest {
            wanted: wanted
                .iter()
                .map(|body| parse::deploy(body).unwrap())
                .collect(),
            ..ReplaceRequest::default()
        };
        store.replace(request, 0)
    };
    set([&large, &small]).unwrap_err();
    set([&large, &large]).unwrap();
    set([&Value::Null, &small]).unwrap();
    deploy(&store, &sized("b", &large)).unwrap();
}
