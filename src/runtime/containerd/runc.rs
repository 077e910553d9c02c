//! What runc's refusals mean. Its texts are all there is: containerd passes them on with the code `Unknown`.

use state::reason::Reason;

/// A refusal's text is shown; runc's longest are a screenful.
const TEXT_CHARS_MAX: usize = 500;

/// The code of a refusal to create or start a task, and the part of its text that helps.
pub(crate) fn refusal(text: &str) -> (Reason, String) {
    let lower = text.to_ascii_lowercase();
    let has = |part: &str| lower.contains(part);
    let program = has("exec: ") || has("exec ") || has("starting container process");
    let reason = if has("no space left on device") {
        Reason::DiskFull
    } else if has("exec format error") {
        Reason::ImagePlatformMismatch
    } else if has("executable file not found")
        || (program && (has("no such file or directory") || has("permission denied") || has("is a directory")))
    {
        Reason::CommandNotFound
    } else if has("cgroup") || has("memory limit") || has("memory.limit") || has("cpu.cfs") || has("pids.max") || has("rlimit") {
        Reason::LimitRefused
    } else {
        Reason::CreateFailed
    };
    (reason, tail(text))
}

/// Drops the chain of who called whom in front.
fn tail(text: &str) -> String {
    const CALLERS: [&str; 6] = [
        "failed to create shim task: ",
        "failed to create shim: ",
        "failed to start task: ",
        "OCI runtime create failed: ",
        "runc create failed: ",
        "unable to start container process: ",
    ];
    let mut rest = text;
    while let Some(shorter) = CALLERS.iter().find_map(|caller| rest.strip_prefix(caller)) {
        rest = shorter;
    }
    rest.trim_end_matches(": unknown").chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code_and_its_useful_end() {
        let runc =
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";
        for (text, reason, shown) in [
            (
                "exec: \"nope\": executable file not found in $PATH: unknown",
                Reason::CommandNotFound,
                "exec: \"nope\": executable file not found in $PATH",
            ),
            (
                "exec: \"/nope\": stat /nope: no such file or directory: unknown",
                Reason::CommandNotFound,
                "exec: \"/nope\": stat /nope: no such file or directory",
            ),
            ("exec: \"/etc\": permission denied: unknown", Reason::CommandNotFound, "exec: \"/etc\": permission denied"),
            ("exec /bin/x: exec format error: unknown", Reason::ImagePlatformMismatch, "exec /bin/x: exec format error"),
            (
                "unable to apply cgroup configuration: failed to write 1: unknown",
                Reason::LimitRefused,
                "unable to apply cgroup configuration: failed to write 1",
            ),
            (
                "error mounting \"x\": no such file or directory: unknown",
                Reason::CreateFailed,
                "error mounting \"x\": no such file or directory",
            ),
            ("write /x: no space left on device: unknown", Reason::DiskFull, "write /x: no space left on device"),
        ] {
            assert_eq!(refusal(&format!("{runc}{text}")), (reason, shown.to_owned()));
        }
    }
}
