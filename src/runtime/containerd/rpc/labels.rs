//! Labels of managed containers in containerd: what tells them from unmanaged ones, and a copy of
//! the record.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use state::desired::Record;
use state::id::InstanceName;
use state::observed::CarriedSpec;
use state::seal::NodeKey;
use state::spec::{HealthCheck, Signal};

/// Mark of a managed container, with [`ID`]. Nothing without both is ever touched.
pub(crate) const MANAGED: &str = "chas.io/managed";
/// Id of the container.
pub(crate) const ID: &str = "chas.io/id";
/// Signal that the image wants to be stopped with.
pub(crate) const STOP_SIGNAL: &str = "chas.io/stop-signal";
/// Snapshot that the container's own is made from.
pub(crate) const PARENT: &str = "chas.io/parent";
/// Generation of the record that the container carries.
const GENERATION: &str = "chas.io/generation";
/// Fingerprint of the spec that the container carries.
const SPEC_HASH: &str = "chas.io/spec-hash";
/// Digest of the image that the container was made of.
pub(crate) const IMAGE_DIGEST: &str = "chas.io/image-digest";
/// Number of the restart after which the container's task was created last.
const RESTART: &str = "chas.io/restart";
/// Time until which an image is kept that no container uses, in seconds since 1970.
pub(crate) const KEPT_UNTIL: &str = "chas.io/kept-until";
/// Fingerprints of the keys that signed an image, at its name.
pub(crate) const SIGNED_BY: &str = "chas.io/signed-by";
/// HEALTHCHECK of the image that the container was made of, as a check.
const IMAGE_CHECK: &str = "chas.io/image-check";
/// Piece of the record, followed by its number.
const RECORD: &str = "chas.io/record.";

/// containerd's limit on key and value together is 4,096 bytes; a piece stays clear of it with any
/// number behind its key.
const PIECE_BYTES_MAX: usize = 4000;

/// Filter that finds every managed container, and may find more: see [`is_managed`].
pub(crate) fn managed_filter() -> String {
    format!("labels.\"{MANAGED}\"==1")
}

/// Whether the labels are those of a managed container or its snapshot.
///
/// [`MANAGED`] alone proves nothing: the names of images bear it too, and containerd's clients
/// (`ctr run`) copy an image's labels to whatever container they make of it. No image bears [`ID`].
pub(crate) fn is_managed(labels: &HashMap<String, String>) -> bool {
    labels.get(MANAGED).is_some_and(|value| value == "1") && labels.contains_key(ID)
}

/// Whether a container with these labels was made of the record's spec, and of the image that the
/// record names.
pub(crate) fn are_made_of(labels: &HashMap<String, String>, record: &Record) -> bool {
    let same = |key: &str, value: &str| labels.get(key).is_some_and(|label| label == value);
    same(SPEC_HASH, &record.spec_hash)
        && record
            .image_digest
            .as_deref()
            .is_none_or(|digest| same(IMAGE_DIGEST, digest))
}

/// Record that a container with these labels carries, by its numbers. `None`: they tell of none.
pub(crate) fn carried(labels: &HashMap<String, String>) -> Option<CarriedSpec> {
    Some(CarriedSpec {
        generation: labels.get(GENERATION)?.parse().ok()?,
        spec_hash: labels.get(SPEC_HASH)?.clone(),
    })
}

/// Number of the restart after which the task of a container with these labels was created last; 0:
/// none.
pub(crate) fn restart(labels: &HashMap<String, String>) -> u64 {
    labels
        .get(RESTART)
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// Whether a task that waits to be started was created after the restart that the record asks for, if
/// it asks for one.
pub(crate) fn are_restarted(labels: &HashMap<String, String>, record: &Record) -> bool {
    !record.restart_pending || restart(labels) == record.restarts_asked
}

/// Label of the restarts that were asked for; none where none were.
pub(crate) fn restart_label(record: &Record) -> Option<(String, String)> {
    let number = record.restarts_asked;
    (number > 0).then(|| (RESTART.to_owned(), number.to_string()))
}

/// Label for the HEALTHCHECK of an image. `None`: containerd takes none that is so long.
pub(crate) fn image_check_label(check: &HealthCheck) -> Option<(String, String)> {
    let json = serde_json::to_string(check).ok()?;
    (json.len() <= PIECE_BYTES_MAX).then(|| (IMAGE_CHECK.to_owned(), json))
}

/// HEALTHCHECK of the image that a container with these labels was made of.
pub(crate) fn image_check(labels: &HashMap<String, String>) -> Option<HealthCheck> {
    serde_json::from_str(labels.get(IMAGE_CHECK)?).ok()
}

/// Whether a container with these labels and this OCI spec can carry the record as it is. The values
/// that a container of an older version has readable are sealed for that.
pub(crate) fn can_become(
    labels: &HashMap<String, String>,
    oci_spec: &[u8],
    record: &Record,
    key: &NodeKey,
) -> bool {
    let made_of = serde_json::from_value::<Record>(stored_record(labels, oci_spec));
    made_of.is_ok_and(|mut made_of| {
        if let Ok(sealer) = key.sealer() {
            made_of.spec.seal_environment(&record.name, sealer);
        }
        made_of.spec.can_become(&record.spec)
    })
}

/// Labels of the same container once it is brought up to the record. Image and root file system
/// stay what they are, whatever the record says by now, and so does what others have noted there.
pub(crate) fn brought_up(
    labels: &HashMap<String, String>,
    record: &Record,
) -> HashMap<String, String> {
    let (mut record, image) = (record.clone(), labels.get(IMAGE_DIGEST));
    record.image_digest = image.filter(|digest| !digest.is_empty()).cloned();
    // Its task is the one that it was.
    record.restarts_asked = restart(labels);
    let stop_signal = labels.get(STOP_SIGNAL).and_then(|name| name.parse().ok());
    let parent = labels.get(PARENT).map(String::as_str).unwrap_or_default();
    let mut all = labels.clone();
    all.retain(|key, _| !key.starts_with(RECORD));
    all.extend(for_record(&record, stop_signal, parent));
    all
}

/// Record that a container was made of, as JSON, its environment's values taken from its OCI spec.
/// `Null`: the labels hold none.
pub(crate) fn stored_record(labels: &HashMap<String, String>, oci_spec: &[u8]) -> Value {
    let mut record: Value = serde_json::from_str(&record_text(labels)).unwrap_or_default();
    // No number is given twice.
    if let Some(record) = record.as_object_mut()
        && restart(labels) > 0
    {
        record.insert("restarts_asked".to_owned(), restart(labels).into());
    }
    let spec: Value = serde_json::from_slice(oci_spec).unwrap_or_default();
    let variables: HashMap<&str, &str> = spec["process"]["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|variable| variable.as_str()?.split_once('='))
        .collect();
    if let Some(environment) = record
        .pointer_mut("/spec/environment")
        .and_then(Value::as_object_mut)
    {
        for (key, value) in environment {
            *value = Value::from(variables.get(key.as_str()).copied().unwrap_or_default());
        }
    }
    record
}

fn record_text(labels: &HashMap<String, String>) -> String {
    (0..labels.len())
        .map_while(|n| labels.get(&format!("{RECORD}{n}")))
        .map(String::as_str)
        .collect()
}

/// Record that a container was made of, without the environment's values. `None`: the labels hold
/// none.
pub(crate) fn record(labels: &HashMap<String, String>) -> Option<Record> {
    serde_json::from_str(&record_text(labels)).ok()
}

/// Labels of a container of `record`. The record is in them without values of the environment that
/// are readable: those stand in the container's OCI spec anyway.
pub(crate) fn for_record(
    record: &Record,
    stop_signal: Option<Signal>,
    parent: &str,
) -> HashMap<String, String> {
    let mut labels = minimal_for(record.instance());
    labels.insert(GENERATION.to_owned(), record.generation.to_string());
    labels.insert("chas.io/name".to_owned(), record.name.to_string());
    labels.insert(SPEC_HASH.to_owned(), record.spec_hash.clone());
    labels.insert(
        IMAGE_DIGEST.to_owned(),
        record.image_digest.clone().unwrap_or_default(),
    );
    labels.insert(PARENT.to_owned(), parent.to_owned());
    labels.extend(restart_label(record));
    if let Some(signal) = stop_signal {
        labels.insert(STOP_SIGNAL.to_owned(), String::from(signal));
    }
    let json = serde_json::to_string(&without_secrets(record)).unwrap_or_default();
    labels.extend(
        pieces(&json)
            .into_iter()
            .enumerate()
            .map(|(n, piece)| (format!("{RECORD}{n}"), piece.to_owned())),
    );
    labels
}

/// Copy of a record for labels.
fn without_secrets(record: &Record) -> Record {
    let mut copy = record.clone();
    copy.spec
        .environment
        .iter_mut()
        .flat_map(BTreeMap::values_mut)
        .for_each(String::clear);
    // Whoever rebuilds the state from here has no use for a question of then.
    copy.tag_check = None;
    // The generation before is told by the labels of its own instance, for as long as that is there.
    (copy.update, copy.rolled_back) = (None, None);
    if let Some(job) = &mut copy.job {
        job.past.clear();
    }
    copy
}

/// Labels of a container of which only the name is known.
pub(crate) fn minimal_for(instance: InstanceName) -> HashMap<String, String> {
    HashMap::from([
        (MANAGED.to_owned(), "1".to_owned()),
        (ID.to_owned(), instance.id.to_string()),
        (GENERATION.to_owned(), instance.generation.to_string()),
    ])
}

/// Pieces of a text, cut between characters.
fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let end = (0..=rest.len().min(PIECE_BYTES_MAX))
            .rev()
            .find(|&at| rest.is_char_boundary(at))
            .unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::tests::record as of_body;

    /// Labels and record of a golden file of version 1.
    fn golden(kind: &str) -> (HashMap<String, String>, Record) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/state/tests/formats/v1");
        let read = |file: String| std::fs::read(file).unwrap();
        let labels = read(format!("{folder}/labels-{kind}.json"));
        let record = read(format!("{folder}/record-{kind}.json"));
        (
            serde_json::from_slice(&labels).unwrap(),
            serde_json::from_slice(&record).unwrap(),
        )
    }

    #[test]
    fn labels_of_version_1_are_read_as_their_record_and_written_again_to_the_letter() {
        for kind in ["plain", "everything"] {
            let (labels, mut known) = golden(kind);
            let signal = labels.get(STOP_SIGNAL).map(|name| name.parse().unwrap());
            let written = for_record(&known, signal, &labels[PARENT]);
            assert_eq!(written, labels, "{kind}");
            assert!(are_made_of(&labels, &known), "{kind}");
            known
                .spec
                .environment
                .iter_mut()
                .flat_map(BTreeMap::values_mut)
                .for_each(String::clear);
            assert_eq!(record(&labels), Some(known), "{kind}");
        }
    }

    #[test]
    fn a_record_is_read_back_from_its_labels_without_secrets() {
        let mut record = of_body(&json!({}));
        record
            .spec
            .environment
            .get_or_insert_default()
            .insert("TOKEN".to_owned(), "secret".to_owned());
        record
            .spec
            .labels
            .insert("long".to_owned(), "x".repeat(3 * PIECE_BYTES_MAX));
        record.image_digest = Some("sha256:1".to_owned());
        let labels = for_record(&record, None, "sha256:parent");
        assert!(
            labels
                .iter()
                .all(|(key, value)| key.len() + value.len() <= 4096 && !value.contains("secret"))
        );
        record
            .spec
            .environment
            .get_or_insert_default()
            .insert("TOKEN".to_owned(), String::new());
        assert_eq!(super::record(&labels), Some(record.clone()));
        let spec = json!({"process": {"env": ["PATH=/bin", "TOKEN=secret=1"]}}).to_string();
        let complete: Record =
            serde_json::from_value(stored_record(&labels, spec.as_bytes())).unwrap();
        assert_eq!(complete.spec.environment.unwrap()["TOKEN"], "secret=1");
        assert!(super::record(&minimal_for(record.instance())).is_none());
    }

    #[test]
    fn a_container_is_of_a_record_only_with_the_same_spec_and_image() {
        let mut record = of_body(&json!({}));
        record.image_digest = Some("sha256:1".to_owned());
        let labels = for_record(&record, None, "sha256:parent");
        assert!(are_made_of(&labels, &record));
        assert!(
            !are_made_of(&minimal_for(record.instance()), &record),
            "a half-done removal has no spec to run"
        );
        record.image_digest = None;
        assert!(
            are_made_of(&labels, &record),
            "an unresolved image is no other one"
        );
        record.image_digest = Some("sha256:2".to_owned());
        assert!(!are_made_of(&labels, &record));
    }

    #[test]
    fn a_container_is_brought_up_to_what_it_can_become_and_keeps_the_rest() {
        let mut made_of = of_body(&json!({"environment": {"TOKEN": "old"}}));
        made_of.image_digest = Some("sha256:1".to_owned());
        let mut labels = for_record(&made_of, Some(Signal::KILL), "sha256:parent");
        labels.insert("containerd.io/gc.root".to_owned(), "x".to_owned());
        let spec = json!({"process": {"env": ["TOKEN=old"]}}).to_string();
        let none = NodeKey::Missing(String::new());
        let fits = |record: &Record| can_become(&labels, spec.as_bytes(), record, &none);
        let mut next = of_body(&json!({"environment": {"TOKEN": "old"}, "labels": {"a": "b"}}));
        (next.generation, next.made_at) = (2, Some(1));
        next.image_digest = Some("sha256:2".to_owned());
        assert!(fits(&next));
        assert!(!fits(&of_body(&json!({"environment": {"TOKEN": "new"}}))));
        let key = NodeKey::Present(std::sync::Arc::new(state::seal::Sealer::new(&[1; 32])));
        let mut sealed = next.clone();
        let sealer = key.sealer().unwrap();
        sealed.spec.seal_environment(&sealed.name, sealer);
        assert!(can_become(&labels, spec.as_bytes(), &sealed, &key));
        assert!(!fits(&sealed), "nobody can tell without the key");
        assert!(!can_become(
            &minimal_for(next.instance()),
            b"{}",
            &next,
            &none
        ));
        next.ask_restart(0);
        let after = brought_up(&labels, &next);
        assert_eq!(restart(&after), 0, "its task is the one before");
        let carried = carried(&after).unwrap();
        assert_eq!(
            (carried.generation, &carried.spec_hash),
            (2, &next.spec_hash)
        );
        for kept in [IMAGE_DIGEST, PARENT, STOP_SIGNAL, "containerd.io/gc.root"] {
            assert_eq!(after[kept], labels[kept], "{kept}");
        }
        assert_eq!(record(&after).unwrap().spec.labels["a"], "b");
    }

    #[test]
    fn a_container_of_a_managed_image_is_not_managed_for_that() {
        let inherited = HashMap::from([(MANAGED.to_owned(), "1".to_owned())]);
        assert!(!is_managed(&inherited));
        assert!(is_managed(&minimal_for("000000000abc-1".parse().unwrap())));
    }

    #[test]
    fn a_long_text_is_cut_into_pieces_that_fit_and_make_it_again() {
        let text = "ä€x".repeat(3000);
        let pieces = pieces(&text);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() <= PIECE_BYTES_MAX && !piece.is_empty())
        );
        assert_eq!(pieces.concat(), text);
    }
}
