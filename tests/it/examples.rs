//! Bodies and sets of the examples, held to the parser of deploys and to the order that they ask for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use state::spec::parse::{deploy, set};

use crate::node::{Node, pass};

/// Example files that are bodies or sets, each with its content.
fn files() -> Vec<(PathBuf, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let dirs = ["order", "sets", "updates", "workloads"].map(|dir| root.join(dir));
    let entries = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        // Every JSON is YAML.
        let body = serde_yaml::from_str(&text).unwrap();
        (path, body)
    };
    paths.map(read).collect()
}

#[test]
fn every_example_is_a_body_or_a_set_that_an_agent_takes() {
    let files = files();
    assert!(files.len() >= 7, "{files:?}");
    for (path, body) in files {
        match body.get("containers") {
            Some(containers) => set(&json!({"containers": containers})).map(drop),
            None => deploy(&body).map(drop),
        }
        .unwrap_or_else(|faults| panic!("{}: {faults:?}", path.display()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_shop_of_the_examples_comes_up_in_its_order() {
    let (_, shop) = files()
        .into_iter()
        .find(|(path, _)| path.ends_with("order/shop.json"))
        .unwrap();
    let node = Node::start();
    // From its last container to its first, and without what only a real node has.
    let bodies = shop["containers"].as_array().unwrap().iter().rev();
    let ids: Vec<_> = bodies
        .map(|body| {
            let mut body = body.clone();
            for member in ["secrets", "health", "volumes"] {
                body.as_object_mut().unwrap().remove(member);
            }
            node.deploy(&body)
        })
        .collect();
    let [_backup, web, _cache, migrate, db] = ids[..] else {
        panic!("{ids:?}");
    };
    pass(Duration::from_secs(30)).await;
    let launches = |id| node.runtime.launches(id);
    assert_eq!([db, migrate, web].map(launches), [1, 1, 0]);
    node.runtime.end(migrate, 0);
    pass(Duration::from_secs(5)).await;
    assert_eq!([db, migrate, web].map(launches), [1, 1, 1]);
}
