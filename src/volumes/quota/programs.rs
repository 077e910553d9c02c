//! Programs of the host that set and read projects and their limits: no safe call of the kernel's is
//! known to the crates in use. They run in the host's mount namespace, where the disks' devices are,
//! with nothing of the agent's environment, and for some seconds at most.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use super::SizeFault;
use super::disk::QuotaDisk;
use crate::mounts;

/// Directories of the programs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Seconds after which `timeout` ends a program.
const SECONDS_MAX: &str = "10";
/// Code of `timeout` for a program that is not there, and for one that took too long.
const ABSENT: i32 = 127;
const TIMED_OUT: i32 = 124;
/// Bytes of an answer, and of a message, that are read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Project of a directory whose files inherit it; `None`: it has none.
pub(super) fn project(directory: &Path) -> Result<Option<u32>, SizeFault> {
    let listed = run("lsattr", "e2fsprogs", &["-dp".as_ref(), directory.as_ref()])?;
    read_project(&listed).ok_or_else(|| SizeFault::Program(format!("lsattr answered {listed:?}")))
}

/// Project of an answer of `lsattr -dp`. `None`: it is no such answer.
fn read_project(listed: &str) -> Option<Option<u32>> {
    let mut words = listed.split_whitespace();
    let (project, flags) = (words.next()?.parse().ok()?, words.next()?);
    Some(Some(project).filter(|project| *project != 0 && flags.contains('P')))
}

/// Gives a directory a project, which all that is made in it inherits.
pub(super) fn set_project(directory: &Path, project: u32) -> Result<(), SizeFault> {
    let project = project.to_string();
    let words = [
        "-p".as_ref(),
        project.as_ref(),
        "+P".as_ref(),
        directory.as_ref(),
    ];
    run("chattr", "e2fsprogs", &words).map(drop)
}

/// Sets the limits of a project: bytes and files; 0: none.
pub(super) fn set_limit(
    disk: &QuotaDisk,
    project: u32,
    (bytes, files): (u64, u64),
) -> Result<(), SizeFault> {
    let words = [
        project.to_string(),
        (bytes / 1024).to_string(),
        files.to_string(),
    ];
    let [project, blocks, files] = words.each_ref().map(OsStr::new);
    let none = OsStr::new("0");
    let point = disk.mount_point.as_ref();
    let words = ["-P".as_ref(), project, none, blocks, none, files, point];
    run("setquota", "quota", &words).map(drop)
}

/// Bytes that each project of a file system uses.
pub(super) fn used(disk: &QuotaDisk) -> Result<BTreeMap<u32, u64>, SizeFault> {
    let words = ["-P", "-n", "-O", "csv"].map(OsStr::new);
    let point = OsStr::new(&disk.mount_point);
    let report = run("repquota", "quota", &[&words[..], &[point]].concat())?;
    Ok(read_used(&report))
}

/// Bytes by project of a report of `repquota`, in which they are kibibytes.
fn read_used(report: &str) -> BTreeMap<u32, u64> {
    let rows = report.lines().filter_map(|line| {
        let mut columns = line.strip_prefix('#')?.split(',');
        let project = columns.next()?.parse().ok()?;
        let kibibytes: u64 = columns.nth(2)?.parse().ok()?;
        Some((project, kibibytes.saturating_mul(1024)))
    });
    rows.collect()
}

/// Runs a program of a package, and answers what it printed.
fn run(program: &str, package: &str, words: &[&OsStr]) -> Result<String, SizeFault> {
    let (code, printed, message) = mounts::on_host(|| ended(program, words))?;
    match code {
        Some(0) => Ok(printed),
        Some(ABSENT) => Err(SizeFault::Program(format!(
            "{program} is not installed on this host; install the package {package}"
        ))),
        Some(TIMED_OUT) => Err(SizeFault::Program(format!(
            "{program} did not end within {SECONDS_MAX} s"
        ))),
        _ => Err(SizeFault::Program(format!(
            "{program} failed: {}",
            message.trim()
        ))),
    }
}

fn ended(program: &str, words: &[&OsStr]) -> io::Result<(Option<i32>, String, String)> {
    let mut child = Command::new("timeout")
        .args(["--kill-after=1", SECONDS_MAX, program])
        .args(words)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let read = |from: Option<&mut dyn Read>, most| {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            from.take(most).read_to_end(&mut bytes)?;
        }
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let printed = read(
        child.stdout.take().as_mut().map(|out| out as &mut dyn Read),
        ANSWER_BYTES_MAX,
    );
    let message = read(
        child.stderr.take().as_mut().map(|out| out as &mut dyn Read),
        MESSAGE_BYTES_MAX,
    );
    let status = child.wait()?;
    Ok((status.code(), printed?, message?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_counts_only_where_it_is_inherited() {
        let read = |listed| read_project(listed).unwrap();
        assert_eq!(
            read("1200000001 --------------e----P-- /a/_data\n"),
            Some(1_200_000_001)
        );
        assert_eq!(read("    0 --------------e------- /a/_data\n"), None);
        assert_eq!(read("    7 --------------e------- /a/_data\n"), None);
        assert_eq!(read_project("lsattr: what\n"), None);
        assert_eq!(read_project(""), None);
    }

    #[test]
    fn a_report_tells_the_use_of_each_project() {
        let report = "Project,BlockStatus,FileStatus,BlockUsed,BlockSoftLimit\n\
                      #0,ok,ok,20,0,0,,2,0,0,\n\
                      #1200000001,hard,ok,20492,0,10240,,4,0,1024,\n";
        let used = read_used(report);
        assert_eq!(
            used,
            BTreeMap::from([(0, 20 << 10), (1_200_000_001, 20_492 << 10)])
        );
    }

    #[test]
    fn a_program_that_is_missing_or_fails_says_so() {
        let missing = run("no-such-program", "its-package", &[]).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("install the package its-package"),
            "{missing}"
        );
        let failed = run("ls", "coreutils", &["/no/such/file".as_ref()]).unwrap_err();
        assert!(failed.to_string().contains("No such file"), "{failed}");
        assert_eq!(run("echo", "coreutils", &["a".as_ref()]).unwrap(), "a\n");
    }
}
