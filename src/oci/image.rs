//! Configuration of an image, of which only the fields that a container is made of are read: what
//! other tools wrote into the rest is not the agent's to judge.
//!
//! Source: OCI image specification, "Image Configuration". As in docker, `null` is the same as an
//! absent field, and one text the same as a list of it.

use serde_json::{Map, Value};

/// Volumes of one image; the largest official ones have some five.
const VOLUMES_MAX: usize = 64;

/// Configuration of an image, as its author set it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Processor, as in `amd64`. Empty: not told.
    pub architecture: String,
    /// Operating system, as in `linux`. Empty: not told.
    pub os: String,
    /// Kind of the processor, as in `v8`. Empty: the usual one.
    pub variant: String,
    /// Digests of the unpacked layers, bottom up.
    pub diff_ids: Vec<String>,
    /// Program, and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Variables, as in `NAME=value`.
    pub env: Vec<String>,
    /// Working directory. Empty: `/`.
    pub working_dir: String,
    /// User, as in `user[:group]`. Empty: root.
    pub user: String,
    /// Signal to stop with. Empty: none in particular.
    pub stop_signal: String,
    /// Directories that are to be writable, sorted.
    pub volumes: Vec<String>,
    /// Probe, as docker's tools write it; not an OCI field, and looked at where it is used.
    pub healthcheck: Value,
    /// Program that runs a line of the shell in that, likewise.
    pub shell: Value,
}

impl ImageConfig {
    /// Configuration in the JSON document `bytes`.
    ///
    /// # Errors
    /// The faults, all of them, each with its field.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut fields = ImageFields::default();
        let top = fields.object("it", Some(&document));
        let config = fields.object("config", top.get("config"));
        let rootfs = fields.object("rootfs", top.get("rootfs"));
        let read = Self {
            architecture: fields.text(&top, "architecture"),
            os: fields.text(&top, "os"),
            variant: fields.text(&top, "variant"),
            diff_ids: fields.words(&rootfs, "diff_ids"),
            entrypoint: fields.words(&config, "Entrypoint"),
            cmd: fields.words(&config, "Cmd"),
            env: fields.words(&config, "Env"),
            working_dir: fields.text(&config, "WorkingDir"),
            user: fields.text(&config, "User"),
            stop_signal: fields.text(&config, "StopSignal"),
            volumes: fields.keys(&config, "Volumes", VOLUMES_MAX),
            healthcheck: config.get("Healthcheck").cloned().unwrap_or_default(),
            shell: config.get("Shell").cloned().unwrap_or_default(),
        };
        if fields.faults.is_empty() {
            Ok(read)
        } else {
            Err(fields.faults.join("; "))
        }
    }
}

/// Reader of fields, which goes on after a fault.
#[derive(Debug, Default)]
struct ImageFields {
    faults: Vec<String>,
}

impl ImageFields {
    fn fault(&mut self, field: &str, expected: &str, found: &Value) {
        let kind = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.faults
            .push(format!("{field} is {kind}, not {expected}"));
    }

    fn object(&mut self, field: &str, found: Option<&Value>) -> Map<String, Value> {
        match found {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(other) => {
                self.fault(field, "an object", other);
                Map::new()
            }
        }
    }

    fn text(&mut self, object: &Map<String, Value>, field: &str) -> String {
        match object.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => self.without_nul(field, text),
            Some(other) => {
                self.fault(field, "text", other);
                String::new()
            }
        }
    }

    fn words(&mut self, object: &Map<String, Value>, field: &str) -> Vec<String> {
        match object.get(field) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => vec![self.without_nul(field, text)],
            Some(Value::Array(words)) => words.iter().map(|word| self.word(field, word)).collect(),
            Some(other) => {
                self.fault(field, "a list of texts", other);
                Vec::new()
            }
        }
    }

    fn word(&mut self, field: &str, word: &Value) -> String {
        match word {
            Value::Null => String::new(),
            Value::String(text) => self.without_nul(field, text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.fault(&format!("an entry of {field}"), "text", word);
                String::new()
            }
        }
    }

    /// Keys of an object whose values mean nothing, as Go writes a set; sorted.
    fn keys(&mut self, object: &Map<String, Value>, field: &str, max: usize) -> Vec<String> {
        let mut keys: Vec<_> = match object.get(field) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(map)) => map.keys().cloned().collect(),
            Some(other) => {
                self.fault(field, "an object", other);
                Vec::new()
            }
        };
        if keys.len() > max {
            let count = keys.len();
            self.faults
                .push(format!("{field} has {count} entries, more than {max}"));
        }
        keys.sort_unstable();
        keys.iter()
            .map(|key| self.without_nul(field, key))
            .collect()
    }

    fn without_nul(&mut self, field: &str, text: &str) -> String {
        if text.contains('\0') {
            self.faults.push(format!("{field} holds a NUL character"));
        }
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(document: &Value) -> Result<ImageConfig, String> {
        ImageConfig::parse(document.to_string().as_bytes())
    }

    #[test]
    fn what_a_container_is_not_made_of_is_not_read() {
        let odd = json!({
            "architecture": "amd64", "os": "linux", "created": 5, "author": ["a"], "history": [{"created": "never"}, 7],
            "rootfs": {"type": null, "diff_ids": ["a"]}, "os.features": "x", "container_config": null,
            "config": {"Labels": {"a": null, "b": 1}, "ExposedPorts": [80, "x"], "OnBuild": 1, "Healthcheck": "odd", "Cmd": ["c"]},
        });
        let expected = ImageConfig {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            diff_ids: vec!["a".to_owned()],
            cmd: vec!["c".to_owned()],
            // Judged where it is used.
            healthcheck: json!("odd"),
            ..ImageConfig::default()
        };
        assert_eq!(parse(&odd).unwrap(), expected);
    }

    #[test]
    fn null_is_nothing_and_a_text_is_a_list_of_one() {
        let nulls = json!({"os": null, "config": {"Env": null, "Cmd": "run it", "Entrypoint": ["a", null], "User": null, "Volumes": null}});
        let read = parse(&nulls).unwrap();
        assert_eq!(
            (read.cmd, read.entrypoint),
            (
                vec!["run it".to_owned()],
                vec!["a".to_owned(), String::new()]
            )
        );
        assert_eq!(
            parse(&json!({"config": null, "rootfs": null})).unwrap(),
            ImageConfig::default()
        );
        let volumes = json!({"config": {"Volumes": {"/b": {}, "/a": null}}});
        assert_eq!(parse(&volumes).unwrap().volumes, ["/a", "/b"]);
    }

    #[test]
    fn every_fault_is_named_with_its_field() {
        let wrong = json!({"os": 5, "config": {"Env": {"A": "b"}, "Cmd": ["a", 1], "User": 0, "WorkingDir": "/a\u{0}b", "Volumes": ["/a"]}, "rootfs": []});
        let faults = parse(&wrong).unwrap_err();
        for part in [
            "os is a number, not text",
            "Env is an object, not a list of texts",
            "an entry of Cmd is a number",
            "User is a number",
            "WorkingDir holds a NUL",
            "Volumes is a list",
            "rootfs is a list",
        ] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
        assert!(parse(&json!([])).unwrap_err().contains("it is a list"));
        let many: Map<_, _> = (0..65).map(|n| (format!("/{n}"), json!({}))).collect();
        let many = parse(&json!({"config": {"Volumes": many}})).unwrap_err();
        assert_eq!(many, "Volumes has 65 entries, more than 64");
    }
}
