//! `cp`: files out of a container, or into it, as tar streams of the API. What comes is unpacked by the
//! host's tar, below one directory and for whoever calls.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use reqwest::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::agent::Agent;
use super::order::CopyFlags;
use super::screen::{Screen, input};
use super::volumes::{export, import};

/// End of a copy.
#[derive(Debug, PartialEq, Eq)]
enum CopyEnd<'a> {
    Container { name: &'a str, path: &'a str },
    Host(&'a Path),
    Stream,
}

impl<'a> CopyEnd<'a> {
    fn read(text: &'a str) -> Self {
        let is_path = text.starts_with(['/', '.']);
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((name, path)) if !is_path && !name.is_empty() => Self::Container { name, path },
            Some(_) | None => Self::Host(Path::new(text)),
        }
    }
}

/// Copies files.
pub(super) async fn copy(agent: &Agent, flags: &CopyFlags, screen: Screen) -> anyhow::Result<()> {
    match (CopyEnd::read(&flags.from), CopyEnd::read(&flags.to)) {
        (CopyEnd::Container { name, path }, to) => {
            let request = agent.get(&["containers", name, "archive"]);
            let request = request.query(&[("path", path)]);
            match to {
                CopyEnd::Stream => export(agent, request, screen).await,
                CopyEnd::Host(to) => fetch(agent, request, path, to).await,
                CopyEnd::Container { .. } => bail!(
                    "one end must be on this host; between two containers: cp A:/path - | cp - B:/path"
                ),
            }
        }
        (from, CopyEnd::Container { name, path }) => {
            let request = |path: &str| {
                let request = agent.request(Method::PUT, &["containers", name, "archive"]);
                request.query(&[("path", path)])
            };
            match from {
                CopyEnd::Stream => import(agent, request(path), input()?, screen).await,
                CopyEnd::Host(from) => {
                    let mut tar = pack(from)?;
                    let archive = tar.stdout.take().context("tar gives no archive")?;
                    import(agent, request(path), archive, screen).await?;
                    succeeded(tar.wait().await?)
                }
                CopyEnd::Container { .. } => Ok(()),
            }
        }
        (_, CopyEnd::Host(_) | CopyEnd::Stream) => {
            bail!("one end must be in a container, as in web:/etc/nginx")
        }
    }
}

fn tar() -> Command {
    let mut tar = Command::new("tar");
    tar.kill_on_drop(true).env_remove("TAR_OPTIONS");
    tar
}

fn succeeded(status: std::process::ExitStatus) -> anyhow::Result<()> {
    match status.success() {
        true => Ok(()),
        false => bail!("tar failed ({status})"),
    }
}

/// Archive of a file or directory of this host, under its last name.
fn pack(from: &Path) -> anyhow::Result<tokio::process::Child> {
    let whole = from
        .canonicalize()
        .with_context(|| format!("cannot read {}", from.display()))?;
    let (Some(directory), Some(name)) = (whole.parent(), whole.file_name()) else {
        bail!("{} is the whole host", from.display());
    };
    let mut tar = tar();
    tar.args(["-c", "-f", "-", "-C"])
        .arg(directory)
        .arg("--")
        .arg(name);
    let packed = tar.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    packed.context("cannot run tar")
}

/// Unpacks an archive: into a directory that is there, or under a name that is not.
///
/// Its owners are the caller's; nothing of it gets a bit that gives rights (`setuid`), is a device, or has
/// another name than was asked for.
async fn fetch(
    agent: &Agent,
    request: reqwest::RequestBuilder,
    path: &str,
    to: &Path,
) -> anyhow::Result<()> {
    let Some(last) = Path::new(path).file_name() else {
        bail!(
            "{path} has no name of its own: name what is to be copied, as in web:/etc, or give `-`"
        );
    };
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let (parent, name) = match to.is_dir() {
        true => (to, to.join(last)),
        false => (parent.unwrap_or(Path::new(".")), to.to_owned()),
    };
    if name.is_dir() && !name.is_symlink() {
        bail!(
            "{} is there; remove it, or give another place",
            name.display()
        );
    }
    let mut response = agent.open_stream(request).await?;
    // Unpacked beside its place, where nobody else may look, and renamed when it is whole.
    let beside = Beside::within(parent)?;
    let mut tar = tar();
    tar.args([
        "-x",
        "-f",
        "-",
        "--no-same-owner",
        "--no-same-permissions",
        "-C",
    ]);
    let mut tar = tar
        .arg(&beside.0)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let mut input = tar.stdin.take().context("tar takes no archive")?;
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| agent.broken(&error))?
    {
        if let Err(error) = input.write_all(&piece).await {
            bail!("tar took no more of the archive: {error}");
        }
    }
    drop(input);
    succeeded(tar.wait().await?)?;
    is_plain(&beside.0)?;
    std::fs::rename(beside.0.join(last), &name)
        .with_context(|| format!("cannot write {} of what came", name.display()))
}

/// Whether there are files, directories and links alone: root's tar makes devices too.
fn is_plain(directory: &Path) -> anyhow::Result<()> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if !kind.is_file() && !kind.is_symlink() {
                let name =
                    state::text::shown(&entry.file_name().to_string_lossy(), 255).into_owned();
                bail!(
                    "{name} is a device, a pipe or a socket: nothing was copied; take it as a tar stream (`-`)"
                );
            }
        }
    }
    Ok(())
}

/// Directory for this copy alone, which goes with it.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        let _what_is_left = std::fs::remove_dir_all(&self.0);
    }
}

impl Beside {
    fn within(parent: &Path) -> anyhow::Result<Self> {
        let path = parent.join(format!(".chas-cp-{}", super::change::key()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot write in {}", parent.display()))?;
        Ok(Self(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_directory_or_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", below.join("link")).unwrap();
        is_plain(directory.path()).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(below.join("socket")).unwrap();
        let told = is_plain(directory.path()).unwrap_err().to_string();
        assert!(told.starts_with("socket is a device"), "{told}");
    }

    #[test]
    fn an_end_is_a_path_of_a_container_or_of_this_host() {
        assert_eq!(
            CopyEnd::read("web:/etc"),
            CopyEnd::Container {
                name: "web",
                path: "/etc"
            }
        );
        for text in ["./a:b", "/a:b", "a", ":x"] {
            assert_eq!(
                CopyEnd::read(text),
                CopyEnd::Host(Path::new(text)),
                "{text}"
            );
        }
        assert_eq!(CopyEnd::read("-"), CopyEnd::Stream);
    }
}
