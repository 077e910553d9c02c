//! Programs of the host that `doctor` and `support-bundle` run: with a bound on time and output, and
//! nothing of this program's environment but the search path.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::config;

/// Directories of the host's own programs, where no `PATH` is set.
const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Output of a program, as much of it as `bytes_max`, and whether there was more.
///
/// # Errors
/// It cannot be run, fails, or does not end in time; in words.
pub(super) async fn output(
    line: &[&str],
    bytes_max: usize,
    time_max: Duration,
) -> Result<(Vec<u8>, bool), String> {
    let [program, arguments @ ..] = line else {
        return Err("no program is named".to_owned());
    };
    let path = config::environment("PATH").unwrap_or_else(|| HOST_PATH.into());
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let (out, told) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        if let Some(out) = out {
            out.take(limit.saturating_add(1))
                .read_to_end(&mut output)
                .await?;
        }
        if let Some(told) = told {
            told.take(4096).read_to_end(&mut errors).await?;
        }
        Ok::<_, std::io::Error>((output, errors))
    };
    let read = tokio::time::timeout(time_max, reading).await;
    let read = read.map_err(|_| format!("{program} did not end within {time_max:?}"))?;
    let (mut output, errors) = read.map_err(|error| format!("{program}: {error}"))?;
    if output.len() > bytes_max {
        output.truncate(bytes_max);
        // It may wait for a reader for ever.
        let _gone = child.start_kill();
        return Ok((output, true));
    }
    let ended = tokio::time::timeout(time_max, child.wait()).await;
    let ended = ended.map_err(|_| format!("{program} did not end within {time_max:?}"))?;
    match ended {
        Ok(status) if status.success() => Ok((output, false)),
        Ok(status) => {
            let told = String::from_utf8_lossy(&errors);
            Err(format!("{program}: {status}: {}", told.trim()))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Fault of the program nft or of the kernel's nf_tables; `None`: both work.
pub(super) async fn nft_fault() -> Option<String> {
    let listed = output(&["nft", "list", "tables"], 1 << 20, Duration::from_secs(5));
    listed.await.err()
}

/// Whether the clock is kept by a time service; `None`: nobody tells.
pub(super) async fn clock_is_kept() -> Option<bool> {
    let asked = ["timedatectl", "show", "-p", "NTPSynchronized", "--value"];
    let told = output(&asked, 100, Duration::from_secs(3)).await;
    if let Ok((text, _)) = told {
        return Some(text.trim_ascii() == b"yes");
    }
    let tracking = output(&["chronyc", "-n", "tracking"], 4096, Duration::from_secs(3)).await;
    let (text, _) = tracking.ok()?;
    Some(!String::from_utf8_lossy(&text).contains("Not synchronised"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_bounded_in_time_and_output_and_tells_why_it_fails() {
        let second = Duration::from_secs(1);
        assert_eq!(
            output(&["echo", "a"], 10, second).await,
            Ok((b"a\n".to_vec(), false))
        );
        let endless = output(&["yes"], 10, Duration::from_secs(10)).await;
        assert_eq!(endless, Ok((b"y\ny\ny\ny\ny\n".to_vec(), true)));
        for (line, part) in [
            (&["sleep", "100"][..], "did not end"),
            (&["ls", "/nonexistent"], "No such file"),
            (&["/nonexistent/program"], "No such file"),
            (&[], "no program"),
        ] {
            let fault = output(line, 10, second).await.unwrap_err();
            assert!(fault.contains(part), "{fault}");
        }
    }
}
