//! Words of docker, compose and Kubernetes, and what a body says in their place.

/// Members under another name, and how each is written here.
const NAMES: [(&str, &str); 47] = [
    ("build", "no image is built on a node; give \"image\""),
    (
        "cap_add",
        "write \"security\": {\"capabilities\": {\"add\": […]}}",
    ),
    (
        "cap_drop",
        "write \"security\": {\"capabilities\": {\"drop\": […]}}",
    ),
    (
        "cmd",
        "write \"args\", or \"command\" in place of the entrypoint too",
    ),
    ("container_name", "write \"name\""),
    ("containerPort", "write \"container\""),
    ("cpus", "write \"resources\": {\"cpu\": \"0.5\"}"),
    (
        "depends_on",
        "write \"after\": [{\"name\": \"db\", \"condition\": \"ready\"}]",
    ),
    ("entrypoint", "write \"command\""),
    ("env", "write \"environment\": {\"NAME\": \"value\"}"),
    ("env_file", "write \"environment\": {\"NAME\": \"value\"}"),
    (
        "envFrom",
        "write \"environment\": {\"NAME\": \"value\"}, or \"secrets\"",
    ),
    (
        "expose",
        "containers reach all ports of each other; \"exposed_ports\" are those of the host",
    ),
    (
        "extra_hosts",
        "write \"hosts\": {\"db.internal\": \"10.0.0.5\"}",
    ),
    ("group_add", "write \"groups\""),
    (
        "healthcheck",
        "write \"health\": {\"exec\": {\"command\": […]}}",
    ),
    ("hostIP", "write \"host_ip\""),
    ("hostPath", "write \"host_path\""),
    ("hostPort", "write \"host\""),
    (
        "imagePullPolicy",
        "write \"image_pull\": \"always\", \"if-not-present\" or \"never\"",
    ),
    ("limits", "write \"cpu\" and \"memory\" here"),
    (
        "livenessProbe",
        "write \"health\": {\"http\": {\"port\": 80}, \"on_failure\": \"restart\"}",
    ),
    ("logging", "write \"logs\": {\"max_size\": \"10m\"}"),
    ("log_opt", "write \"logs\": {\"max_size\": \"10m\"}"),
    ("mem_limit", "write \"resources\": {\"memory\": \"512m\"}"),
    ("mountPath", "write \"path\""),
    (
        "network_mode",
        "write \"network\": \"bridge\", \"none\" or \"host\"",
    ),
    ("networks", "write \"network\": {\"groups\": […]}"),
    ("oom_score_adj", "write \"oom_score\""),
    ("pids_limit", "write \"resources\": {\"pids\": 4096}"),
    (
        "ports",
        "write \"exposed_ports\": [{\"container\": 80, \"host\": 8080}]",
    ),
    (
        "privileged",
        "name what it needs: \"security\": {\"capabilities\": {\"add\": […]}}, \"devices\"",
    ),
    (
        "publish",
        "write \"exposed_ports\": [{\"container\": 80, \"host\": 8080}]",
    ),
    (
        "readinessProbe",
        "write \"health\": {\"http\": {\"port\": 80}}",
    ),
    ("readOnly", "write \"read_only\""),
    (
        "requests",
        "write \"cpu_reservation\" and \"memory_reservation\" here",
    ),
    (
        "restart_policy",
        "write \"restart\": {\"policy\": \"always\"}",
    ),
    (
        "restartPolicy",
        "write \"restart\": {\"policy\": \"always\"}",
    ),
    ("securityContext", "write \"security\", and \"user\""),
    ("source", "write \"volume\" or \"host_path\""),
    (
        "stdin",
        "write \"interactive\": true, and run its program by an exec without a command",
    ),
    (
        "stdin_open",
        "write \"interactive\": true, and run its program by an exec without a command",
    ),
    (
        "stop_grace_period",
        "write \"stop\": {\"timeout\": \"10s\"}",
    ),
    ("stop_signal", "write \"stop\": {\"signal\": \"SIGTERM\"}"),
    (
        "tty",
        "write \"interactive\": true, and run its program by an exec without a command",
    ),
    (
        "volumeMounts",
        "write \"volumes\": [{\"volume\": \"data\", \"path\": \"/data\"}]",
    ),
    ("workingDir", "write \"working_dir\""),
];

/// Members that are objects here, and texts or lists elsewhere, each with an example.
const OBJECTS: [(&str, &str); 13] = [
    ("after", "{\"name\": \"db\", \"condition\": \"ready\"}"),
    ("dns", "{\"servers\": [\"192.0.2.53\"]}"),
    ("environment", "{\"NAME\": \"value\"}"),
    ("exposed_ports", "{\"container\": 80, \"host\": 8080}"),
    ("files", "{\"path\": \"/etc/app.conf\", \"content\": \"…\"}"),
    ("hosts", "{\"db.internal\": \"10.0.0.5\"}"),
    ("labels", "{\"team\": \"web\"}"),
    ("logs", "{\"max_size\": \"10m\"}"),
    ("resources", "{\"cpu\": \"0.5\", \"memory\": \"512m\"}"),
    ("restart", "{\"policy\": \"always\"}"),
    (
        "secrets",
        "{\"name\": \"db-password\", \"env\": \"DB_PASSWORD\"}",
    ),
    ("stop", "{\"signal\": \"SIGTERM\", \"timeout\": \"30s\"}"),
    ("volumes", "{\"volume\": \"data\", \"path\": \"/data\"}"),
];

/// Words in place of an unknown member that is known elsewhere.
pub(super) fn in_place_of(key: &str) -> Option<&'static str> {
    let found = NAMES.iter().find(|(name, _)| *name == key);
    found.map(|(_, words)| *words)
}

/// Fault of what is no object and has to be one, with an example of what stands at this path.
pub(super) fn no_object(path: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or_default();
    let name = last.split('[').next().unwrap_or_default();
    match OBJECTS.iter().find(|(known, _)| *known == name) {
        Some((_, example)) => format!("must be an object, such as {example}"),
        None => "must be an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::parse;

    /// Each fault of a body with these members beside `name` and `image`.
    fn faults(members: &Value) -> Vec<(String, String)> {
        let mut body = members.clone();
        body["name"] = json!("web");
        body["image"] = json!("nginx");
        let faults = parse::deploy(&body).unwrap_err();
        faults
            .into_iter()
            .map(|fault| (fault.field, fault.message))
            .collect()
    }

    #[track_caller]
    fn check(members: &Value, field: &str, says: &str) {
        let faults = faults(members);
        let says_so = |(of, message): &(String, String)| of == field && message.contains(says);
        assert!(faults.iter().any(says_so), "{faults:?}");
    }

    #[test]
    fn whoever_writes_docker_s_or_kubernetes_words_is_told_those_of_here() {
        check(
            &json!({"restart": "always"}),
            "restart",
            "{\"policy\": \"always\"}",
        );
        check(
            &json!({"exposed_ports": ["8080:80"]}),
            "exposed_ports[0]",
            "\"host\": 8080",
        );
        check(
            &json!({"ports": ["8080:80"]}),
            "ports",
            "\"exposed_ports\": [{",
        );
        check(
            &json!({"entrypoint": ["nginx"]}),
            "entrypoint",
            "write \"command\"",
        );
        check(
            &json!({"environment": ["A=b"]}),
            "environment",
            "{\"NAME\": \"value\"}",
        );
        check(
            &json!({"volumes": ["data:/data"]}),
            "volumes[0]",
            "\"volume\": \"data\"",
        );
        check(
            &json!({"command": "nginx -g"}),
            "command",
            "[\"nginx\", \"-g\"",
        );
        check(&json!({"depends_on": ["db"]}), "depends_on", "\"after\"");
        check(
            &json!({"imagePullPolicy": "Always"}),
            "imagePullPolicy",
            "image_pull",
        );
        check(
            &json!({"resources": {"limits": {"cpu": 1}}}),
            "resources.limits",
            "\"memory\" here",
        );
        check(&json!({"healthcheck": {}}), "healthcheck", "\"health\"");
        check(
            &json!({"resources": "1g"}),
            "resources",
            "\"memory\": \"512m\"",
        );
        check(&json!({"logs": []}), "logs", "max_size");
        // A slip of what is known here has the nearest name, as before.
        check(
            &json!({"enviroment": {}}),
            "enviroment",
            "did you mean \"environment\"?",
        );
    }

    #[test]
    fn no_word_of_elsewhere_is_one_of_here() {
        let bodies = crate::spec::schema::bodies();
        let known = bodies["DeployBody"]["properties"].as_object().unwrap();
        for (name, words) in NAMES {
            assert!(!known.contains_key(name), "{name}");
            assert!(words.len() < 100, "{name}");
        }
        for (name, example) in OBJECTS {
            assert!(known.contains_key(name), "{name}");
            assert!(serde_json::from_str::<Value>(example).unwrap().is_object());
        }
    }
}
