//! Versions of runc and containerd with known ways out of a container.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Longest run of `runc --version`. It takes some 10 ms.
const RUN_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of a release.
type Release = [u32; 3];

/// Known faults of a program, with the first release of each line that has none of them; what is
/// older than the lowest line has them all.
struct KnownFaults {
    names: &'static str,
    mended: &'static [Release],
}

const RUNC: KnownFaults = KnownFaults {
    names: "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
    mended: &[[1, 2, 8], [1, 3, 3]],
};
/// First runc that enters a container with a user namespace of its own in a network namespace that
/// is the host's: those before start it, and refuse an exec.
const ENTERS: Release = [1, 3, 0];
const CONTAINERD: KnownFaults = KnownFaults {
    names: "CVE-2024-25621",
    mended: &[[1, 7, 29], [2, 0, 7], [2, 1, 5]],
};

/// Sentence about containerd of this version, if it has known faults.
pub(crate) fn containerd_fault(version: &str) -> Option<String> {
    fault("containerd", &CONTAINERD, version)
}

/// Sentence about the OCI runtime `program`, if it is a runc with known faults. What it is if it
/// cannot be asked is not known, and then there is none.
pub(crate) async fn runc_fault(program: &str, search_path: &OsStr) -> Option<String> {
    match told(program, search_path).await {
        Ok(told) => {
            let version = told.lines().next()?.strip_prefix("runc version ")?;
            fault("runc", &RUNC, version)
        }
        Err(error) => {
            tracing::debug!(program, %error, "version of the OCI runtime not known");
            None
        }
    }
}

/// The reason why the OCI runtime `program` cannot look after containers with ids of their own;
/// `None`: it can.
///
/// # Errors
/// It could not be asked, and the next time may go better: while it is upgraded, a program is absent
/// or has only half of its libraries for a moment.
pub(crate) async fn own_ids_obstacle(
    program: &str,
    search_path: &OsStr,
) -> io::Result<Option<String>> {
    let told = told(program, search_path).await?;
    Ok(obstacle(program, told.lines().next().unwrap_or_default()))
}

/// Whether a failure to ask for a version may last: the program cannot be run, or has no version to
/// tell. What was ended from outside is asked again for as long as it takes.
pub(crate) fn may_last(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
    )
}

/// The same of a program that says this of its version.
fn obstacle(program: &str, says: &str) -> Option<String> {
    let version = says.strip_prefix("runc version ").map(str::trim);
    let known = version.and_then(|version| Some((version, release(version)?)));
    let Some((version, release)) = known else {
        return Some(format!("{program} is no runc of a version that is known"));
    };
    (release < ENTERS).then(|| {
        format!(
            "runc {version} cannot enter a container with ids of its own (exec): 1.3.0 and later do, \
             and count from the agent's next start"
        )
    })
}

/// Words of a program about its version.
///
/// # Errors
/// It is not there, fails, or does not end in time.
pub(crate) async fn told(program: &str, search_path: &OsStr) -> io::Result<String> {
    let run = Command::new(program)
        .arg("--version")
        .env_clear()
        .env("PATH", search_path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(RUN_TIMEOUT, run).await??;
    // Somebody ended it, or the memory did.
    if let Some(signal) = output.status.signal() {
        return Err(io::Error::other(format!("it was ended by signal {signal}")));
    }
    if !output.status.success() {
        let message = format!("it ended with {}", output.status);
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fault(program: &str, known: &KnownFaults, version: &str) -> Option<String> {
    let version = version.trim().trim_start_matches('v');
    let release = release(version)?;
    let [lowest, ..] = known.mended else {
        return None;
    };
    let is_of_line = |mended: &&Release| mended[..2] == release[..2];
    let is_faulty = match known.mended.iter().find(is_of_line) {
        Some(mended) => release < *mended,
        None => release < *lowest,
    };
    let mended: Vec<_> = known
        .mended
        .iter()
        .map(|[a, b, c]| format!("{a}.{b}.{c}"))
        .collect();
    is_faulty.then(|| {
        format!(
            "{program} {version} has {}, mended in {}, unless your distribution mended its own",
            known.names,
            mended.join(" and ")
        )
    })
}

/// The three numbers that a version begins with.
fn release(version: &str) -> Option<Release> {
    let mut parts = version.splitn(3, '.');
    let mut number = || -> Option<u32> {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse().ok()
    };
    Some([number()?, number()?, number()?])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_release_before_the_mended_one_of_its_line_has_the_faults() {
        for (version, is_faulty) in [
            ("1.1.5+ds1", true),
            ("1.0.0-rc95", true),
            ("1.2.7", true),
            ("1.2.8", false),
            ("1.3.0-rc.1", true),
            ("1.3.2", true),
            ("1.3.3", false),
            ("1.4.0", false),
            ("2.0.0", false),
            ("unknown", false),
        ] {
            let fault = fault("runc", &RUNC, version);
            assert_eq!(fault.is_some(), is_faulty, "{version}: {fault:?}");
        }
        for (version, is_faulty) in [
            ("1.6.20~ds1", true),
            ("v1.7.28", true),
            ("1.7.29", false),
            ("2.0.6", true),
            ("2.1.5", false),
            ("2.2.0", false),
        ] {
            assert_eq!(containerd_fault(version).is_some(), is_faulty, "{version}");
        }
        let told = containerd_fault("1.6.20~ds1").unwrap();
        assert!(
            told.contains("1.6.20~ds1 has CVE-2024-25621, mended in 1.7.29 and"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn ids_of_their_own_take_a_runc_that_enters_them() {
        for (says, part) in [
            ("runc version 1.1.5+ds1", Some("runc 1.1.5+ds1 cannot")),
            ("runc version 1.2.9", Some("1.3.0 and later")),
            ("runc version 1.3.0", None),
            ("runc version 1.4.0-rc.1", None),
            ("crun version 1.28", Some("is no runc")),
            ("runc version unknown", Some("is no runc")),
            ("", Some("is no runc")),
        ] {
            let told = obstacle("runc", says);
            match part {
                Some(part) => assert!(told.as_ref().unwrap().contains(part), "{told:?}"),
                None => assert_eq!(told, None, "{says}"),
            }
        }
        let path = OsStr::new("/usr/bin:/bin");
        let absent = own_ids_obstacle("/nonexistent/runc", path).await;
        assert!(may_last(&absent.unwrap_err()));
        let failed = own_ids_obstacle("false", path).await.unwrap_err();
        assert!(may_last(&failed) && failed.to_string().contains("exit status: 1"));
        // What may pass is no answer: a container would keep the host's ids for its life.
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("runc");
        std::fs::write(&program, "#!/bin/sh\nkill -9 $$\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = program.to_str().unwrap();
        let killed = own_ids_obstacle(program, path).await.unwrap_err();
        assert!(killed.to_string().contains("signal 9"), "{killed}");
        assert!(!may_last(&killed));
    }

    #[tokio::test]
    async fn a_program_that_is_no_runc_or_missing_has_no_known_fault() {
        for program in ["true", "/nonexistent/runc"] {
            assert_eq!(runc_fault(program, OsStr::new("/usr/bin:/bin")).await, None);
        }
    }
}
