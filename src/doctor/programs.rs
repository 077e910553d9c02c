//! Programs of the host that `doctor` and `support-bundle` run: with a bound on time and output, and
//! nothing of this program's environment but the search path.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::config;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// Directories of the host's own programs, where no `PATH` is set.
const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Part of an output that is kept where there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptPart {
    Begin,
    End,
}

impl KeptPart {
    /// Bounds a text; answers whether something of it is gone. What is left of a line that was cut at
    /// its begin is gone, too.
    pub(super) fn bound(self, text: &mut Vec<u8>, bytes_max: usize) -> bool {
        let more = text.len().saturating_sub(bytes_max);
        match self {
            Self::Begin => text.truncate(bytes_max),
            Self::End if more > 0 => {
                let line = text[more - 1..].iter().position(|byte| *byte == b'\n');
                text.drain(..line.map_or(more, |at| more + at));
            }
            Self::End => {}
        }
        more > 0
    }
}

/// Begin of a program's output, as much of it as `bytes_max`, and whether there was more.
///
/// # Errors
/// It cannot be run, fails, or does not end in time; in words.
pub(super) async fn output(
    line: &[&str],
    bytes_max: usize,
    time_max: Duration,
) -> Result<(Vec<u8>, bool), String> {
    part_of_output(KeptPart::Begin, line, bytes_max, time_max).await
}

/// Part of a program's output, else as [`output`].
pub(super) async fn part_of_output(
    part: KeptPart,
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
        let (mut is_cut, mut piece) = (false, vec![0; PIECE_BYTES]);
        if let Some(mut out) = out {
            while part == KeptPart::End || !is_cut {
                let count = out.read(&mut piece).await?;
                if count == 0 {
                    break;
                }
                output.extend_from_slice(&piece[..count]);
                // Not with each piece: all that is kept is moved by it.
                if output.len() > bytes_max
                    && (part == KeptPart::Begin || output.len() > 2 * bytes_max)
                {
                    is_cut |= part.bound(&mut output, bytes_max);
                }
            }
            is_cut |= part.bound(&mut output, bytes_max);
        }
        if let Some(told) = told {
            told.take(4096).read_to_end(&mut errors).await?;
        }
        Ok::<_, std::io::Error>((output, is_cut, errors))
    };
    let read = tokio::time::timeout(time_max, reading).await;
    let read = read.map_err(|_| format!("{program} did not end within {time_max:?}"))?;
    let (output, is_cut, errors) = read.map_err(|error| format!("{program}: {error}"))?;
    if is_cut && part == KeptPart::Begin {
        // It may wait for a reader for ever.
        let _gone = child.start_kill();
        return Ok((output, true));
    }
    let ended = tokio::time::timeout(time_max, child.wait()).await;
    let ended = ended.map_err(|_| format!("{program} did not end within {time_max:?}"))?;
    match ended {
        Ok(status) if status.success() => Ok((output, is_cut)),
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
        let end = part_of_output(
            KeptPart::End,
            &["seq", "100000"],
            12,
            Duration::from_secs(10),
        );
        assert_eq!(end.await, Ok((b"100000\n".to_vec(), true)));
        let whole = part_of_output(KeptPart::End, &["echo", "a"], 2, second);
        assert_eq!(whole.await, Ok((b"a\n".to_vec(), false)));
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
