//! A witness hears of each change that is asked for before it is stored, and of nothing else.

use super::*;
use crate::ownership::Order;

/// What a store had at that moment, and what it was about to store.
#[derive(Debug, Default)]
struct Heard {
    changes: Mutex<Vec<(String, AuditVerdict)>>,
    refuses: AtomicBool,
}

impl ChangeWitness for Heard {
    fn hear(&self, changes: &[AuditedChange]) -> std::io::Result<()> {
        for change in changes {
            let hash = |spec: &Option<AuditedSpec>| spec.as_ref().map_or(0, |spec| spec.generation);
            let name = change
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let text = format!(
                "{} {name} {}>{}",
                change.kind,
                hash(&change.before),
                hash(&change.after)
            );
            lock(&self.changes).push((text, change.verdict.clone()));
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("no room"));
        }
        Ok(())
    }
}

#[test]
fn what_is_asked_for_is_heard_of_and_what_is_only_noted_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (store, heard) = (open(directory.path()), Arc::new(Heard::default()));
    store.set_witness(Arc::clone(&heard) as _);
    let body = json!({"name": "a", "image": "x"});
    let first = deploy(&store, &body).unwrap().record;
    let id = first.id;
    deploy(&store, &body).unwrap();
    store
        .set_image_digest(first.instance(), Some("sha256:1".to_owned()))
        .unwrap();
    deploy(&store, &json!({"name": "a", "image": "y"})).unwrap();
    for order in [Order::Stop, Order::Start, Order::Restart, Order::Remove] {
        store.order(id, order).unwrap();
    }
    store.forget(id).unwrap();
    deploy(&store, &json!({"name": "localhost", "image": "x"})).unwrap_err();
    let all = std::mem::take(&mut *lock(&heard.changes));
    let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "deploy a 0>1",
            "deploy a 1>2",
            "stop a 2>2",
            "start a 2>2",
            "restart a 2>2",
            "remove a 2>0",
            "deploy localhost 0>0"
        ]
    );
    assert!(
        matches!(&all[6].1, AuditVerdict::Denied(why) if why.contains("reserved-name")),
        "{all:?}"
    );
}

#[test]
fn what_a_witness_refuses_is_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let (store, heard) = (open(directory.path()), Arc::new(Heard::default()));
    store.set_witness(Arc::clone(&heard) as _);
    heard.refuses.store(true, Ordering::Relaxed);
    let before = store.desired();
    let body = json!({"name": "a", "image": "x"});
    assert!(matches!(deploy(&store, &body), Err(StoreError::Audit(_))));
    assert_eq!(store.desired(), before);
    heard.refuses.store(false, Ordering::Relaxed);
    assert!(deploy(&store, &body).unwrap().changed);
}

#[test]
fn values_are_not_shown_where_nobody_would_know_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, heard) = (open(directory.path()), Arc::new(Heard::default()));
    store.note_reveal(None).unwrap();
    store.set_witness(Arc::clone(&heard) as _);
    store.note_reveal(Some("db".parse().unwrap())).unwrap();
    heard.refuses.store(true, Ordering::Relaxed);
    let refused = store.note_reveal(None);
    assert!(matches!(refused, Err(StoreError::Audit(_))), "{refused:?}");
    let all = std::mem::take(&mut *lock(&heard.changes));
    let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["reveal db 0>0", "reveal  0>0"]);
}

#[test]
fn the_log_keeps_its_level_where_nobody_would_know_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let (store, heard) = (open(directory.path()), Arc::new(Heard::default()));
    let level = || crate::log_level::AuditedLevel {
        level: "off".to_owned(),
        for_s: 60,
    };
    store.set_witness(Arc::clone(&heard) as _);
    store.note_log_level(level()).unwrap();
    heard.refuses.store(true, Ordering::Relaxed);
    let refused = store.note_log_level(level());
    assert!(matches!(refused, Err(StoreError::Audit(_))), "{refused:?}");
    let all = std::mem::take(&mut *lock(&heard.changes));
    let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["log_level  0>0"; 2]);
}

#[test]
fn a_program_is_not_run_where_nobody_would_know_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, heard) = (open(directory.path()), Arc::new(Heard::default()));
    store.set_witness(Arc::clone(&heard) as _);
    let note = || {
        let (name, id) = ("db".parse().unwrap(), ContainerId::from_bits(0xabc));
        store.note_exec(name, id, AuditedExec::default())
    };
    note().unwrap();
    heard.refuses.store(true, Ordering::Relaxed);
    let refused = note();
    assert!(matches!(refused, Err(StoreError::Audit(_))), "{refused:?}");
    let all = std::mem::take(&mut *lock(&heard.changes));
    let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["exec db 0>0"; 2]);
}
