//! `deploy`, `apply` and `diff`: deploy bodies out of files, what they change, and a question before what
//! ends something.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};
use state::text;

use super::agent::{Agent, TIMEOUT};
use super::change::{awaiting, kept, key, unless_refused};
use super::fault::{EXIT_FAILED, EXIT_FOUND, refusal};
use super::look::{change, steps};
use super::order::{ApplyFlags, DeployFlags, DiffFlags};
use super::screen::{Screen, asks};
use crate::config;

/// Bytes of all bodies, above which no agent takes them.
const BODIES_BYTES_MAX: u64 = 1 << 20;
/// Files of a directory, above which they are no bodies.
const FILES_MAX: usize = 10_000;
/// Ends of the names of files with bodies.
const KINDS: [&str; 3] = ["yaml", "yml", "json"];

/// Deploys bodies; one that is refused is told, and the others are deployed.
pub(super) async fn deploy(
    agent: &Agent,
    flags: &DeployFlags,
    screen: Screen,
) -> anyhow::Result<u8> {
    let mut code = 0;
    for body in bodies(&flags.file)? {
        let name = name_of(&body).to_owned();
        let request = agent.request(Method::POST, &["containers", "deploy"]);
        let request = request.header("idempotency-key", key()).json(&body);
        let request = match flags.wait {
            Some(state) => awaiting(request, state.as_str(), flags.timeout),
            None => request.timeout(TIMEOUT),
        };
        let done = async { agent.read(agent.open_answer(request).await?).await }.await;
        let kept = match &done {
            Err(error) if flags.wait.is_some() => kept(agent, &name, error).await,
            Ok(_) | Err(_) => None,
        };
        match unless_refused(done, &name, &mut code, screen)? {
            Some(told) if screen.json => screen.value(&told)?,
            Some(told) => {
                let generation = &told["generation"];
                let status = text::shown(told["status"].as_str().unwrap_or("stored"), 100);
                screen.line(&format!("{name}: generation {generation}, {status}"))?;
            }
            None => kept.iter().for_each(|kept| screen.tell(kept)),
        }
    }
    Ok(code)
}

/// Shows what bodies would change.
pub(super) async fn diff(agent: &Agent, flags: &DiffFlags, screen: Screen) -> anyhow::Result<u8> {
    let bodies = bodies(&flags.file)?;
    let found = Differences::of(agent, &bodies, flags.whole).await?;
    match screen.json {
        true => screen.value(&json!({"differences": found.list}))?,
        false => screen.write(&found.text)?,
    }
    Ok(if found.count > 0 { EXIT_FOUND } else { 0 })
}

/// Replaces the whole set that is pushed to the node.
pub(super) async fn apply(agent: &Agent, flags: &ApplyFlags, screen: Screen) -> anyhow::Result<u8> {
    let bodies = bodies(&flags.file)?;
    if bodies.is_empty() {
        let file = flags.file.display();
        bail!("{file} holds no body, which would remove every container; `rm` does that");
    }
    let response = agent
        .open_answer(agent.get(&["desired-state"]).timeout(TIMEOUT))
        .await?;
    let tag = response.headers().get("etag").cloned();
    agent.read(response).await?;
    let found = Differences::of(agent, &bodies, true).await?;
    if found.count == 0 {
        match screen.json {
            true => screen.value(&json!({"differences": []}))?,
            false => screen.line("The node runs just that: there is nothing to do.")?,
        }
        return Ok(0);
    }
    // Programs read one answer; what a person looks at before the answer to the question goes beside it.
    let show = |text: &str| match screen.json {
        true => screen.error_bytes(text.as_bytes()),
        false => screen.write(text),
    };
    show(&found.text)?;
    let put = |query: &[(&str, String)]| {
        let request = agent.request(Method::PUT, &["desired-state"]).query(query);
        let request = request
            .json(&json!({"containers": bodies}))
            .timeout(TIMEOUT);
        match &tag {
            Some(tag) => request.header("if-match", tag.clone()),
            None => request,
        }
    };
    let tried = put(&[("dry_run", "true".to_owned())]);
    let tried = agent.read(agent.open_answer(tried).await?).await?;
    show(&steps(&tried["plan"], screen))?;
    let ends = tried["confirm"].as_u64().unwrap_or(0);
    let question = match ends {
        0 => format!("{agent}: apply {} differences?", found.count),
        _ => format!(
            "{agent}: apply {} differences? {ends} running containers end.",
            found.count
        ),
    };
    if !flags.yes && !asks(&question)? {
        screen.tell("Nothing was changed; --yes asks no question");
        return Ok(EXIT_FAILED);
    }
    let mut query = Vec::new();
    query.extend((ends > 0).then(|| ("confirm", ends.to_string())));
    let request = put(&query).header("idempotency-key", key());
    let told = agent.read(agent.open_answer(request).await?).await?;
    match screen.json {
        true => screen.value(&told)?,
        false => {
            screen.line("Stored: the agent does it now. `ps` and `events` show how it goes.")?;
        }
    }
    Ok(0)
}

/// Changes that bodies would make on a node.
#[derive(Default)]
struct Differences {
    count: usize,
    /// A line for each, and one for each member that differs.
    text: String,
    /// The same for programs.
    list: Vec<Value>,
}

impl Differences {
    async fn of(agent: &Agent, bodies: &[Value], whole: bool) -> anyhow::Result<Self> {
        let mut found = Self::default();
        let mut names = BTreeSet::new();
        for body in bodies {
            let name = name_of(body);
            names.insert(name.to_owned());
            let request = agent.request(Method::POST, &["containers", "deploy"]);
            let request = request.query(&[("dry_run", "true")]).json(body);
            let told = agent.answer(request).await;
            let told = told.with_context(|| format!("{name} would not be taken"))?;
            if told["changed"] == true {
                let before = known(agent, name).await?;
                found.push(name, before.as_ref(), &told["container"]["spec"]);
            }
        }
        if whole {
            let set = agent.see(&["desired-state"]).await?;
            for one in set["containers"].as_array().into_iter().flatten() {
                let name = name_of(one);
                if !names.contains(name) {
                    found.count += 1;
                    found.text.push_str(&format!("- {name} is removed\n"));
                    found.list.push(json!({"name": name, "change": "removed"}));
                }
            }
        }
        Ok(found)
    }

    fn push(&mut self, name: &str, before: Option<&Value>, after: &Value) {
        self.count += 1;
        let Some(before) = before else {
            let image = after["image"].as_str().unwrap_or_default();
            self.text
                .push_str(&format!("+ {name} is new, of {image}\n"));
            let new = json!({"name": name, "change": "new", "spec": after});
            return self.list.push(new);
        };
        let mut fields = Vec::new();
        compare("", before, after, &mut fields);
        self.text.push_str(&format!("~ {name} changes\n"));
        if fields.is_empty() {
            self.text.push_str("    a value that is not shown\n");
        }
        for field in &fields {
            self.text.push_str(&format!("    {}\n", change(field)));
        }
        let changed = json!({"name": name, "change": "changed", "fields": fields});
        self.list.push(changed);
    }
}

/// Spec of a container. `None`: there is none of this name.
async fn known(agent: &Agent, name: &str) -> anyhow::Result<Option<Value>> {
    match agent.see(&["containers", name]).await {
        Ok(mut one) => Ok(Some(one["spec"].take())),
        Err(error) if refusal(&error).is_some_and(|refusal| refusal.status == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Members that differ, by their paths.
fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<Value>) {
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let none = &Value::Null;
            compare(
                &path,
                old.get(name).unwrap_or(none),
                new.get(name).unwrap_or(none),
                fields,
            );
        }
        return;
    }
    if before != after {
        fields.push(json!({"field": path, "before": before, "after": after}));
    }
}

fn name_of(body: &Value) -> &str {
    body["name"].as_str().unwrap_or("a body without a name")
}

/// Bodies of a file, of the input, or of all files of a directory.
fn bodies(path: &Path) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for file in files(path)? {
        let about = || format!("cannot read {}", file.display());
        let mut text = String::new();
        let read = if file == Path::new("-") {
            std::io::stdin()
                .lock()
                .take(BODIES_BYTES_MAX + 1)
                .read_to_string(&mut text)
        } else {
            let opened = std::fs::File::open(&file).with_context(about)?;
            opened.take(BODIES_BYTES_MAX + 1).read_to_string(&mut text)
        };
        if read.with_context(about)? as u64 > BODIES_BYTES_MAX {
            bail!("{} is larger than {BODIES_BYTES_MAX} bytes", file.display());
        }
        let documents = config::documents(&text);
        let documents =
            documents.map_err(|fault| anyhow::anyhow!("{}: {fault}", file.display()))?;
        for document in documents {
            all.extend(within(document, &file)?);
        }
    }
    let mut names = BTreeSet::new();
    let twice = all.iter().map(name_of).find(|name| !names.insert(*name));
    if let Some(name) = twice {
        bail!("{name} stands twice in {}", path.display());
    }
    Ok(all)
}

/// Bodies of a document: one, a list of them, or a set as `GET /desired-state` answers it.
fn within(document: Value, file: &Path) -> anyhow::Result<Vec<Value>> {
    match document {
        Value::Null => Ok(Vec::new()),
        Value::Array(bodies) => Ok(bodies),
        Value::Object(mut members) => match members.remove("containers") {
            Some(Value::Array(bodies)) => Ok(bodies),
            Some(_) => bail!("{}: containers must be a list of bodies", file.display()),
            None => Ok(vec![Value::Object(members)]),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bail!(
                "{} holds no deploy body: write name: and image:",
                file.display()
            )
        }
    }
}

/// The files with bodies, in the order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in
        std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?
    {
        let file = entry?.path();
        let kind = file.extension().and_then(|kind| kind.to_str());
        if kind.is_some_and(|kind| KINDS.contains(&kind)) {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            bail!("{} has more than {FILES_MAX} files", path.display());
        }
    }
    if files.is_empty() {
        bail!(
            "{} has no file with a body ({})",
            path.display(),
            KINDS.join(", ")
        );
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_out_of_all_forms_of_files() {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("a.yaml", "name: a\nimage: x\n---\nname: b\nimage: y\n");
        write("c.json", r#"{"containers": [{"name": "c", "image": "z"}]}"#);
        write("d.yml", "- {name: d, image: z}\n");
        write("notes.txt", "name: [");
        let all = bodies(directory.path()).unwrap();
        let names: Vec<_> = all.iter().map(name_of).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        write("e.yaml", "name: a\nimage: x\n");
        let twice = bodies(directory.path()).unwrap_err().to_string();
        assert!(twice.contains("a stands twice"), "{twice}");
        for (text, told) in [
            ("just words", "no deploy body"),
            ("containers: 3", "a list"),
            ("a: [", "e.yaml"),
        ] {
            write("e.yaml", text);
            let error = format!("{:#}", bodies(directory.path()).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_difference_names_each_member_that_changes() {
        let mut fields = Vec::new();
        let before =
            json!({"image": "a", "resources": {"cpu": null, "memory": "1g"}, "args": ["x"]});
        let after = json!({"image": "b", "resources": {"cpu": "1", "memory": "1g"}, "args": ["x"]});
        compare("", &before, &after, &mut fields);
        let lines: Vec<_> = fields.iter().map(change).collect();
        assert_eq!(
            lines,
            ["image: \"a\" -> \"b\"", "resources.cpu: null -> \"1\""]
        );
    }
}
