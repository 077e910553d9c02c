//! Deploy body of docker's flags.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use crate::client::order::RunFlags;

impl RunFlags {
    /// The deploy body of these flags.
    ///
    /// # Errors
    /// A flag is of another form than docker's, or a file cannot be read.
    pub(super) fn body(
        &self,
        name: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Value> {
        let mut body = Map::new();
        let mut put = |field: &str, value: Value| {
            body.insert(field.to_owned(), value);
        };
        put("name", name.into());
        put("image", self.image().into());
        if let Some(program) = &self.entrypoint {
            put("command", json!([program]));
        }
        let lists = [
            ("args", self.words.iter().skip(1).cloned().collect()),
            ("groups", self.group_add.clone()),
            ("devices", self.device.clone()),
        ];
        for (field, words) in lists {
            if !words.is_empty() {
                put(field, words.into());
            }
        }
        let texts = [
            ("user", &self.user),
            ("working_dir", &self.workdir),
            ("hostname", &self.hostname),
            ("network", &self.network),
            ("shm_size", &self.shm_size),
        ];
        for (field, text) in texts {
            if let Some(text) = text {
                put(field, text.clone().into());
            }
        }
        if let Some(pull) = &self.pull {
            put(
                "image_pull",
                pull.replace("missing", "if-not-present").into(),
            );
        }
        self.init.then(|| put("init", true.into()));
        self.is_session().then(|| put("interactive", true.into()));
        let ports: Result<Vec<_>, _> = self.publish.iter().map(|text| port(text)).collect();
        let volumes = self.volume.iter().map(|text| volume(text));
        let volumes = volumes.chain(self.tmpfs.iter().map(|text| Ok(tmpfs(text))));
        let volumes: Result<Vec<_>, _> = volumes.collect();
        let sections = [
            ("exposed_ports", Value::from(ports?)),
            ("volumes", Value::from(volumes?)),
            ("environment", self.environment(variable)?),
            ("labels", pairs(&self.label, "--label", '=', true)?),
            ("hosts", pairs(&self.add_host, "--add-host", ':', false)?),
            ("ulimits", pairs(&self.ulimit, "--ulimit", '=', false)?),
            ("sysctls", pairs(&self.sysctl, "--sysctl", '=', false)?),
            ("resources", self.resources()),
            ("security", self.security()),
            ("restart", self.restart()?),
            ("stop", self.stop()),
            ("health", self.health()),
            (
                "dns",
                given([(
                    "servers",
                    (!self.dns.is_empty()).then(|| self.dns.clone().into()),
                )]),
            ),
        ];
        for (field, section) in sections {
            if !is_empty(&section) {
                put(field, section);
            }
        }
        Ok(Value::Object(body))
    }

    fn environment(&self, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Value> {
        let mut all = Map::new();
        let mut take = |text: &str| match text.split_once('=') {
            Some((name, value)) => {
                all.insert(name.to_owned(), value.into());
            }
            None => all.extend(variable(text).map(|value| (text.to_owned(), value.into()))),
        };
        for path in &self.env_file {
            let file = lines(path)?;
            file.iter().for_each(|line| take(line));
        }
        self.env.iter().for_each(|text| take(text));
        Ok(Value::Object(all))
    }

    fn resources(&self) -> Value {
        let text = |value: &Option<String>| value.clone().map(Value::from);
        given([
            ("cpu", text(&self.cpus)),
            ("cpu_shares", self.cpu_shares.map(Value::from)),
            ("cpuset", text(&self.cpuset_cpus)),
            ("memory", text(&self.memory)),
            ("memory_reservation", text(&self.memory_reservation)),
            ("pids", self.pids_limit.map(Value::from)),
        ])
    }

    fn security(&self) -> Value {
        let words = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone().into());
        let capabilities = given([
            ("add", words(&self.cap_add)),
            ("drop", words(&self.cap_drop)),
        ]);
        given([
            ("read_only_rootfs", self.read_only.then(|| true.into())),
            (
                "capabilities",
                Some(capabilities).filter(|section| !is_empty(section)),
            ),
        ])
    }

    fn restart(&self) -> anyhow::Result<Value> {
        let usual = if self.detach { "always" } else { "no" };
        let policy = self.restart.as_deref().unwrap_or(usual);
        Ok(match policy.split_once(':').unwrap_or((policy, "")) {
            ("no", "") => json!({"policy": "never"}),
            ("always" | "unless-stopped", "") => json!({"policy": "always"}),
            ("on-failure", "") => json!({"policy": "on-failure"}),
            ("on-failure", retries) => {
                let retries: u64 = retries
                    .parse()
                    .with_context(|| format!("--restart {policy}: {retries:?} is no number"))?;
                json!({"policy": "on-failure", "max_retries": retries})
            }
            _ => bail!(
                "--restart {policy}: write no, on-failure[:RETRIES], always or unless-stopped"
            ),
        })
    }

    fn stop(&self) -> Value {
        given([
            ("signal", self.stop_signal.clone().map(Value::from)),
            (
                "timeout",
                self.stop_timeout
                    .map(|seconds| format!("{seconds}s").into()),
            ),
        ])
    }

    fn health(&self) -> Value {
        if self.no_healthcheck {
            return "none".into();
        }
        let Some(command) = &self.health_cmd else {
            return Value::Null;
        };
        let text = |value: &Option<String>| value.clone().map(Value::from);
        given([
            ("exec", Some(json!({"command": ["/bin/sh", "-c", command]}))),
            ("interval", text(&self.health_interval)),
            ("timeout", text(&self.health_timeout)),
            ("retries", self.health_retries.map(Value::from)),
            ("start_period", text(&self.health_start_period)),
        ])
    }
}

/// Section of the members that are given.
fn given<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let members = members.into_iter();
    let members = members.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(members.collect())
}

fn is_empty(section: &Value) -> bool {
    section.is_null()
        || section.as_object().is_some_and(Map::is_empty)
        || section.as_array().is_some_and(Vec::is_empty)
}

/// Variables of a file, without comments.
fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--env-file {}", path.display()))?;
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Pairs of these texts.
fn pairs(texts: &[String], flag: &str, mark: char, may_lack: bool) -> anyhow::Result<Value> {
    let mut all = Map::new();
    for text in texts {
        let (name, value) = match text.split_once(mark) {
            Some(pair) => pair,
            None if may_lack => (text.as_str(), ""),
            None => bail!("{flag} {text}: write NAME{mark}VALUE"),
        };
        all.insert(name.to_owned(), value.into());
    }
    Ok(Value::Object(all))
}

/// Port as docker writes it: `[[IP:]HOST:]CONTAINER[/PROTOCOL]`.
fn port(text: &str) -> anyhow::Result<Value> {
    let about = || {
        format!("--publish {text}: write [[IP:]HOST:]CONTAINER[/udp], each a port of 1 to 65535")
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let number = |text: &str| text.parse::<u16>().with_context(about);
    let mut port = json!({"container": number(container)?, "protocol": protocol});
    if !host.is_empty() {
        port["host"] = number(host)?.into();
    }
    let address = address.trim_matches(['[', ']']);
    if !address.is_empty() {
        port["host_ip"] = address.into();
    }
    Ok(port)
}

/// Volume as docker writes it: `NAME:PATH[:ro]`, or a path of the host before the first colon.
fn volume(text: &str) -> anyhow::Result<Value> {
    let mut parts = text.split(':');
    let (Some(from), Some(path)) = (parts.next(), parts.next()) else {
        bail!(
            "--volume {text}: write NAME:PATH or /HOST/PATH:PATH; a volume without a name is not kept"
        );
    };
    let kind = if from.starts_with('/') {
        "host_path"
    } else {
        "volume"
    };
    let mut volume = json!({kind: from, "path": path});
    for option in parts.flat_map(|options| options.split(',')) {
        match option {
            "ro" => volume["read_only"] = true.into(),
            "rw" | "" => {}
            "rslave" | "rprivate" | "rshared" => volume["propagation"] = option.into(),
            _ => bail!("--volume {text}: {option:?} is not known here; ro and rw are"),
        }
    }
    Ok(volume)
}

/// File system in memory as docker writes it.
fn tmpfs(text: &str) -> Value {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let size = options
        .split(',')
        .find_map(|option| option.strip_prefix("size="));
    json!({"tmpfs": size.unwrap_or("64m"), "path": path})
}

#[cfg(test)]
mod tests;
