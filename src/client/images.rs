//! `images`, `pull`, `rmi` and `prune`: the images of a node.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};
use state::text;

use super::agent::Agent;
use super::change::unless_refused;
use super::fault::EXIT_FAILED;
use super::order::{FetchFlags, PruneFlags};
use super::screen::{Screen, asks};
use super::table::{Cell, TextTable};
use super::times::{bytes, since};

/// Digits of a digest that tell images apart.
const DIGEST_CHARS: usize = 19;
/// Bytes of a line of progress.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Parts of a bar, and the fewest with which it is shown.
const BAR: usize = 30;
const BAR_MIN: usize = 5;
/// Longest time without a line of an agent that pulls.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest wait for a removal: the agent waits 120 s for containerd to clear the disk, after some moments
/// for each image.
const REMOVAL_MAX: Duration = Duration::from_secs(300);

/// Lists the images.
pub(super) async fn list(agent: &Agent, screen: Screen) -> anyhow::Result<()> {
    let told = agent.see(&["images"]).await?;
    if screen.json {
        return Ok(screen.value(&told)?);
    }
    let shown = table(&told["images"], SystemTime::now());
    Ok(screen.write(&shown.text(screen, screen.columns()))?)
}

fn table(images: &Value, now: SystemTime) -> TextTable {
    let mut table =
        TextTable::new(&["IMAGE", "DIGEST", "CREATED", "SIZE", "USED BY"]).keeping(&["IMAGE"]);
    for one in images.as_array().into_iter().flatten() {
        let digest = one["digest"].as_str().unwrap_or_default();
        let names = one["names"].as_array().into_iter().flatten();
        let names: Vec<_> = names.filter_map(Value::as_str).collect();
        // The name with the digest says nothing more than the column beside it.
        let tag = names
            .iter()
            .find(|name| !name.contains('@'))
            .or(names.first());
        let users = if one["used"] == true {
            Cell::names(&one["used_by"])
        } else if one["managed"] == false {
            Cell::new("(not managed)")
        } else {
            Cell::new("-")
        };
        let created = since(&one["created"], now).map(|ago| format!("{ago} ago"));
        table.push(vec![
            Cell::new(tag.copied().unwrap_or_default()),
            Cell::new(digest.chars().take(DIGEST_CHARS).collect::<String>()),
            Cell::new(created.unwrap_or_default()),
            Cell::new(one["packed_bytes"].as_u64().map_or("-".to_owned(), bytes)),
            users,
        ]);
    }
    table
}

/// Removes images, each by its digest, the beginning of it, or a name.
pub(super) async fn remove(agent: &Agent, wanted: &[String], screen: Screen) -> anyhow::Result<u8> {
    let told = agent.see(&["images"]).await?;
    let mut code = 0;
    for image in wanted {
        let digest = match found(&told["images"], image) {
            Ok(digest) => digest,
            Err(error) => {
                screen.tell(&format!("{image}: {error:#}"));
                code = EXIT_FAILED;
                continue;
            }
        };
        let request = agent.request(Method::DELETE, &["images", &digest]);
        let removed = agent.answer_within(request, REMOVAL_MAX).await;
        if unless_refused(removed, image, &mut code, screen)?.is_some() {
            screen.line(&text::shown(&digest, 100))?;
        }
    }
    Ok(code)
}

/// Digest of the one image that a text names.
fn found(images: &Value, text: &str) -> anyhow::Result<String> {
    let is_short = text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let begin = if is_short {
        format!("sha256:{text}")
    } else {
        text.to_owned()
    };
    let is_digest = begin.len() >= DIGEST_CHARS && begin.starts_with("sha256:");
    let full: Option<state::reference::ImageReference> = text.parse().ok();
    let full = full.map(|reference| reference.to_string());
    let is_it = |one: &&Value| {
        let digest = one["digest"].as_str().unwrap_or_default();
        let names = one["names"].as_array().into_iter().flatten();
        let mut names = names.filter_map(Value::as_str);
        (is_digest && digest.starts_with(&begin))
            || names.any(|name| name == text || Some(name) == full.as_deref())
    };
    let mut fitting = images.as_array().into_iter().flatten().filter(is_it);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one["digest"].as_str().unwrap_or_default().to_owned()),
        (Some(_), Some(_)) => bail!("several images begin so; write more of the digest"),
        (None, _) => bail!("no image of the node is named so; `images` lists them"),
    }
}

/// Removes what nothing uses, once a person has seen it.
pub(super) async fn prune(agent: &Agent, flags: &PruneFlags, screen: Screen) -> anyhow::Result<u8> {
    let request = |dry_run: bool| {
        let request = agent.request(Method::POST, &["images", "prune"]);
        request.query(&[("dry_run", dry_run), ("all", flags.all)])
    };
    let found = agent.answer(request(true)).await?;
    let count = found["images"].as_array().map_or(0, Vec::len);
    if screen.json && (flags.dry_run || count == 0) {
        screen.value(&found)?;
        return Ok(0);
    }
    if count == 0 {
        screen.line("Every image is used or kept: there is none to remove.")?;
        return Ok(0);
    }
    if !screen.json {
        let shown = table(&found["images"], SystemTime::now());
        screen.write(&shown.text(screen, screen.columns()))?;
    }
    if flags.dry_run {
        return Ok(0);
    }
    if !flags.yes && !asks(&format!("{agent}: remove {}?", these(count)))? {
        screen.tell("Nothing was removed; --yes asks no question.");
        return Ok(EXIT_FAILED);
    }
    let told = agent.answer_within(request(false), REMOVAL_MAX).await?;
    if screen.json {
        screen.value(&told)?;
        return Ok(0);
    }
    let removed = told["images"].as_array().map_or(0, Vec::len);
    let size = bytes(told["packed_bytes"].as_u64().unwrap_or_default());
    screen.line(&format!("Removed {removed}: {size} as they were fetched."))?;
    Ok(0)
}

fn these(count: usize) -> String {
    match count {
        1 => "this image".to_owned(),
        count => format!("these {count} images"),
    }
}

/// Pulls an image, and shows how far it has come.
pub(super) async fn fetch(agent: &Agent, flags: &FetchFlags, screen: Screen) -> anyhow::Result<u8> {
    let mut body = json!({"image": flags.image});
    if let Some(keep) = flags.keep {
        body["keep"] = json!(keep.as_secs());
    }
    let request = agent.request(Method::POST, &["images", "pull"]).json(&body);
    let mut response = agent.open_stream(request).await?;
    let mut bar = Bar::default();
    let (mut buffer, mut last) = (Vec::new(), Value::Null);
    loop {
        let piece = tokio::time::timeout(SILENCE_MAX, response.chunk()).await;
        let piece = piece.context("the agent says nothing more about the pull")?;
        let Some(piece) = piece.map_err(|error| agent.broken(&error))? else {
            break;
        };
        buffer.extend_from_slice(&piece);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line: Value = serde_json::from_slice(&line).context("a line is no agent's")?;
            match screen.json {
                true => screen.line(&text::shown(&line.to_string(), LINE_BYTES_MAX))?,
                false => bar.show(&line, screen),
            }
            last = line;
        }
        if buffer.len() > LINE_BYTES_MAX {
            bail!("a line of the agent is larger than {LINE_BYTES_MAX} bytes");
        }
    }
    bar.end(screen);
    match last["status"].as_str() {
        Some("pulled") => {
            if !screen.json {
                let digest = last["digest"].as_str().unwrap_or_default();
                screen.line(&text::shown(digest, 100))?;
            }
            Ok(0)
        }
        Some("failed") => {
            let part = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
            let told = format!("{}: {}: {}", flags.image, part("reason"), part("message"));
            screen.tell(&text::shown(&told, text::MESSAGE_CHARS_MAX));
            Ok(EXIT_FAILED)
        }
        Some(_) | None => {
            bail!("the agent broke the pull off: it stops, or the right to call ended")
        }
    }
}

/// Progress: one line that is written anew on a terminal, a line for each change elsewhere.
#[derive(Debug, Default)]
struct Bar {
    shown: String,
    is_open: bool,
}

impl Bar {
    fn show(&mut self, line: &Value, screen: Screen) {
        let shown = drawn(line, screen.columns());
        if shown == self.shown {
            return;
        }
        if screen.is_terminal {
            screen.tell_over(&shown);
            self.is_open = true;
        } else {
            screen.tell(&shown);
        }
        self.shown = shown;
    }

    fn end(&mut self, screen: Screen) {
        if std::mem::take(&mut self.is_open) {
            screen.tell("");
        }
    }
}

/// A line of progress: a bar of all layers together, as long as the terminal has room for it beside the
/// numbers.
fn drawn(line: &Value, columns: Option<usize>) -> String {
    let count = |name: &str| line[name].as_u64().unwrap_or_default();
    let (fetched, total) = (count("fetched_bytes"), count("total_bytes"));
    let mut shown = text::shown(line["status"].as_str().unwrap_or_default(), 20).into_owned();
    if total > 0 {
        shown = format!("{} of {} {shown}", bytes(fetched), bytes(total));
        // Two brackets, a blank, and the column where a terminal's cursor stands.
        let beside = shown.chars().count() + 4;
        let bar = columns.map_or(BAR, |columns| columns.saturating_sub(beside).min(BAR));
        if bar >= BAR_MIN {
            let part = u128::from(fetched.min(total)) * bar as u128 / u128::from(total);
            let part = usize::try_from(part).unwrap_or(bar);
            shown = format!("[{}{}] {shown}", "=".repeat(part), " ".repeat(bar - part));
        }
    }
    if let Some(message) = line["message"].as_str() {
        shown.push_str(": ");
        shown.push_str(&text::shown(message, 200));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_a_bar_once_its_size_is_known() {
        let line = |fetched: u64, total: u64, message: Value| {
            drawn(
                &json!({"status": "pulling", "fetched_bytes": fetched, "total_bytes": total,
                "message": message}),
                None,
            )
        };
        assert_eq!(line(0, 0, Value::Null), "pulling");
        let half = line(1 << 20, 2 << 20, Value::Null);
        assert_eq!(
            half,
            format!(
                "[{}{}] 1.0MiB of 2.0MiB pulling",
                "=".repeat(15),
                " ".repeat(15)
            )
        );
        let more = line(9, 3, Value::Null);
        assert!(more.starts_with(&format!("[{}]", "=".repeat(30))), "{more}");
        let half = json!({"status": "pulling", "fetched_bytes": 1 << 20, "total_bytes": 2 << 20});
        for (columns, shown) in [
            (40, "[======      ] 1.0MiB of 2.0MiB pulling"),
            (30, "1.0MiB of 2.0MiB pulling"),
        ] {
            assert_eq!(drawn(&half, Some(columns)), shown);
        }
        let waits = line(0, 0, json!("waits for a slot\u{1b}[2J"));
        assert!(waits.contains("pulling: waits for a slot\\u"), "{waits}");
    }

    #[test]
    fn an_image_is_named_by_its_digest_the_beginning_of_it_or_a_name() {
        let (a, b) = ("a".repeat(64), format!("{}b", "a".repeat(63)));
        let images = json!([
            {"digest": format!("sha256:{a}"), "names": ["docker.io/library/nginx:1"]},
            {"digest": format!("sha256:{b}"), "names": ["r.example/b:2", "r.example/b@sha256:x"]},
        ]);
        let of = |text: &str| found(&images, text).map_err(|error| error.to_string());
        assert_eq!(of("nginx:1"), Ok(format!("sha256:{a}")));
        assert_eq!(of("r.example/b:2"), Ok(format!("sha256:{b}")));
        assert_eq!(of(&format!("sha256:{b}")), Ok(format!("sha256:{b}")));
        assert!(of(&a[..12]).unwrap_err().contains("several"));
        assert!(of("nginx:2").unwrap_err().contains("no image"));
        assert!(of("sha256:").unwrap_err().contains("no image"));
    }
}
