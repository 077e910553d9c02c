//! Refusals of runc. Their texts are all there is: containerd passes them on with the code
//! `Unknown`.

use state::failure::Failure;
use state::reason::Reason;
use state::text::shown;

/// Characters of a refusal that are shown; runc's longest are a screenful.
const TEXT_CHARS_MAX: usize = 500;

/// Failure for a refusal to run a program in a task, with the part of its text that helps.
pub(crate) fn exec_refusal(text: &str) -> Failure {
    // containerd's own words before it name the program by a number that nobody else knows.
    let told = text.split_once("OCI runtime exec failed: ");
    refusal(told.map_or(text, |(_, words)| words))
}

/// Failure for a refusal to create or start a task, with the part of its text that helps.
pub(crate) fn refusal(text: &str) -> Failure {
    Failure::new(reason(text), tail(text))
}

fn reason(text: &str) -> Reason {
    let lower = text.to_ascii_lowercase();
    let has = |part: &str| lower.contains(part);
    let any = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    // A mount that fails may name anything, `cgroup` or a program's path too: it is neither a limit
    // nor the program.
    let mounting = any(&["mounting ", "rootfs_linux.go"]);
    let program = !mounting && any(&["exec: ", "exec /"]);
    let limit = !mounting && any(&["cgroup", "memory limit", "memory.limit", "rlimit"]);
    // Of version 1, of version 2, and crun's words.
    let unmounted = has("cgroup")
        && any(&[
            "mountpoint does not exist",
            "no cgroup mount found",
            "mountpoint for ",
            "subsystem does not exist",
            "is not available under",
            "not a cgroup mount",
        ]);
    let full = has("no space left on device");
    if !full
        && any(&[
            "unable to retrieve oci runtime error",
            "failed to start shim",
            "binary not installed",
        ])
    {
        // Before the command: a missing runc or shim is told in the same words.
        Reason::RuntimeBroken
    } else if any(&[
        "start binary process",
        "init process i/o",
        "init process io",
    ]) {
        Reason::LoggerFailed
    } else if program && any(&["permission denied", "is a directory"]) {
        Reason::CommandNotExecutable
    } else if has("exec format error") {
        Reason::ImagePlatformMismatch
    } else if has("executable file not found")
        || program && any(&["no such file or directory", "not a directory"])
    {
        Reason::CommandNotFound
    } else if any(&["oom-killed", "unable to set memory limit"]) {
        Reason::MemoryLimitTooSmall
    } else if unmounted && !mounting {
        Reason::CgroupMissing
    } else if limit {
        // Before the full disk: control groups, too, answer ENOSPC, and no freed byte would help.
        Reason::LimitRefused
    } else if full {
        Reason::DiskFull
    } else if mounting {
        Reason::MountFailed
    } else if any(&["chdir to cwd", "container init: mkdir "]) {
        Reason::WorkingDirInvalid
    } else {
        Reason::CreateFailed
    }
}

/// Text without the chain of callers in front.
pub(crate) fn tail(text: &str) -> String {
    const CALLERS: [&str; 9] = [
        "failed to create shim task: ",
        "failed to create shim: ",
        "failed to start task: ",
        "OCI runtime create failed: ",
        "runc create failed: ",
        "exec failed: ",
        "unable to start container process: ",
        "starting container process caused: ",
        "error during container init: ",
    ];
    let mut rest = text;
    while let Some(shorter) = CALLERS.iter().find_map(|caller| rest.strip_prefix(caller)) {
        rest = shorter;
    }
    shown(rest.trim_end_matches(": unknown"), TEXT_CHARS_MAX).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of runc 1.1.5, their code, and the part that is shown.
    const REFUSALS: &[(&str, Reason, &str)] = &[
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
        (
            "exec: \"/etc\": permission denied: unknown",
            Reason::CommandNotExecutable,
            "exec: \"/etc\": permission denied",
        ),
        (
            "exec /bin/x: exec format error: unknown",
            Reason::ImagePlatformMismatch,
            "exec /bin/x: exec format error",
        ),
        (
            "unable to apply cgroup configuration: failed to write 1: unknown",
            Reason::LimitRefused,
            "unable to apply cgroup configuration: failed to write 1",
        ),
        (
            "error during container init: error mounting \"x\" to rootfs at \"/x\": no such file or directory: unknown",
            Reason::MountFailed,
            "error mounting \"x\" to rootfs at \"/x\": no such file or directory",
        ),
        (
            "error mounting \"cgroup\" to rootfs at \"/sys/fs/cgroup\": permission denied: unknown",
            Reason::MountFailed,
            "error mounting \"cgroup\" to rootfs at \"/sys/fs/cgroup\": permission denied",
        ),
        (
            "exec: \"/cgroup.sh\": stat /cgroup.sh: no such file or directory: unknown",
            Reason::CommandNotFound,
            "exec: \"/cgroup.sh\": stat /cgroup.sh: no such file or directory",
        ),
        (
            "exec /run.sh: no such file or directory: unknown",
            Reason::CommandNotFound,
            "exec /run.sh: no such file or directory",
        ),
        (
            "unable to apply cgroup configuration: cgroup mountpoint does not exist: unknown",
            Reason::CgroupMissing,
            "unable to apply cgroup configuration: cgroup mountpoint does not exist",
        ),
        (
            "cgroups: cgroup mountpoint does not exist: unknown",
            Reason::CgroupMissing,
            "cgroups: cgroup mountpoint does not exist",
        ),
        (
            "the cgroup controller `pids` is not available under /sys/fs/cgroup: unknown",
            Reason::CgroupMissing,
            "the cgroup controller `pids` is not available under /sys/fs/cgroup",
        ),
        (
            "mkdir /sys/fs/cgroup/memory/chas/x: no space left on device: unknown",
            Reason::LimitRefused,
            "mkdir /sys/fs/cgroup/memory/chas/x: no space left on device",
        ),
        (
            "unable to set memory limit to 1048576 (current usage: 2420736, peak usage: 2531328): unknown",
            Reason::MemoryLimitTooSmall,
            "unable to set memory limit to 1048576 (current usage: 2420736, peak usage: 2531328)",
        ),
        (
            "chdir to cwd (\"/x\"): permission denied: unknown",
            Reason::WorkingDirInvalid,
            "chdir to cwd (\"/x\"): permission denied",
        ),
        (
            "error during container init: mkdir /etc/passwd: not a directory: unknown",
            Reason::WorkingDirInvalid,
            "mkdir /etc/passwd: not a directory",
        ),
        (
            "container init was OOM-killed (memory limit too low?): unknown",
            Reason::MemoryLimitTooSmall,
            "container init was OOM-killed (memory limit too low?)",
        ),
        (
            "error during container init: error setting cgroup config for procHooks process: failed to write \"100\": \
                 write /sys/fs/cgroup/cpu/chas/x/cpu.cfs_quota_us: invalid argument: unknown",
            Reason::LimitRefused,
            "error setting cgroup config for procHooks process: failed to write \"100\": \
                 write /sys/fs/cgroup/cpu/chas/x/cpu.cfs_quota_us: invalid argument",
        ),
        (
            "unable to retrieve OCI runtime error (open /x/log.json: no such file or directory): exec: \"runc\": \
                 executable file not found in $PATH: unknown",
            Reason::RuntimeBroken,
            "unable to retrieve OCI runtime error (open /x/log.json: no such file or directory): exec: \"runc\": \
                 executable file not found in $PATH",
        ),
        (
            "container with given ID already exists: unknown",
            Reason::CreateFailed,
            "container with given ID already exists",
        ),
        (
            "write /x: no space left on device: unknown",
            Reason::DiskFull,
            "write /x: no space left on device",
        ),
    ];

    #[test]
    fn each_refusal_has_its_code_and_its_useful_end() {
        let runc = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";
        for (text, reason, shown) in REFUSALS {
            assert_eq!(
                refusal(&format!("{runc}{text}")),
                Failure::new(*reason, *shown),
                "{text}"
            );
        }
    }
}
