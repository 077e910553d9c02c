//! Program of a container, looked at before it is started: what the kernel would refuse to execute
//! ends with exit code 1 and no more than a line in the container's log.
//!
//! The container's first process waits for its start in the container's own file system, so that
//! this look sees what the kernel will see. Whatever it cannot tell for certain, it lets pass.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;
use state::failure::Failure;
use state::policy;
use state::reason::Reason;

use crate::mounts::on_host;
use crate::secrets;
use crate::within;

/// Bytes of a program's beginning that are read; its headers are in them, wherever they matter.
const HEAD_BYTES: u64 = 4096;
/// Bytes of a script's first line that the kernel reads (`BINPRM_BUF_SIZE`).
const SHEBANG_BYTES: usize = 256;

/// Program as the OCI spec of a container names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    name: String,
    search: String,
    directory: String,
    /// Whether the container begins with the agent's own program, which becomes this one: then the
    /// OCI runtime does not look for it.
    by_init: bool,
}

impl Program {
    /// Program of an OCI spec.
    pub(super) fn of(oci_spec: &[u8]) -> Self {
        let spec: Value = serde_json::from_slice(oci_spec).unwrap_or_default();
        let process = &spec["process"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut variables = process["env"].as_array().into_iter().flatten();
        let search = variables.find_map(|entry| entry.as_str()?.strip_prefix("PATH="));
        let by_init = secrets::begins_with_init(&process["args"]);
        Self {
            name: text(&process["args"][if by_init { 2 } else { 0 }]),
            search: search.unwrap_or_default().to_owned(),
            directory: text(&process["cwd"]),
            by_init,
        }
    }

    /// The same program, looked for in this search path.
    pub(super) fn searched_in(self, search: &str) -> Self {
        Self {
            search: search.to_owned(),
            ..self
        }
    }

    /// A program that starts in this directory, of which no more is known.
    pub(super) fn in_directory(directory: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            ..Self::default()
        }
    }

    /// Denial of the directory that the program is to start in. The image may have named it, so it
    /// is known only here.
    pub(super) fn denial(&self) -> Result<(), Failure> {
        let Some(denial) = policy::working_directory(&self.directory) else {
            return Ok(());
        };
        let denied = format!(
            "{}; {:?} is asked for or is the image's WORKDIR",
            denial, self.directory
        );
        Err(Failure::new(Reason::PolicyDenied, denied))
    }

    /// Refusal that the kernel will answer to the first process `pid`; `None`: it will execute the
    /// program, or nobody knows.
    pub(super) fn refusal(&self, pid: u32) -> Option<Failure> {
        let root = directory(Path::new(&format!("/proc/{pid}/root"))).ok()?;
        self.refusal_in(&root, other_formats())
    }

    /// `lenient`: the host executes other formats, too.
    fn refusal_in(&self, root: &OwnedFd, lenient: bool) -> Option<Failure> {
        let found = self.candidates().into_iter().find_map(|path| {
            let file = open(root, &path).ok()?;
            let metadata = file.metadata().ok()?;
            let is_executable = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o111 != 0;
            (metadata.is_file() && is_executable).then_some((path, file))
        });
        let Some((path, file)) = found else {
            return self.absence(root);
        };
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
        let is_absent = |path: &str| matches!(open(root, path), Err(Errno::NOENT | Errno::NOTDIR));
        let (reason, fault) = if let Some(line) = head.strip_prefix(b"#!") {
            (Reason::CommandNotExecutable, shebang(line, is_absent)?)
        } else if head.starts_with(b"\x7fELF") {
            match other_machine(&head) {
                Some(_) if lenient => return None,
                Some(machine) => (
                    Reason::ImagePlatformMismatch,
                    format!(
                        "is a program for {machine}, and this machine is {}; build it for this one",
                        std::env::consts::ARCH
                    ),
                ),
                None => (Reason::CommandNotExecutable, loader(&head, is_absent)?),
            }
        } else if lenient {
            return None;
        } else if head.is_empty() {
            (
                Reason::CommandNotExecutable,
                "is an empty file; build the image again".to_owned(),
            )
        } else {
            (
                Reason::CommandNotExecutable,
                "is neither a program nor a script with a first line such as \"#!/bin/sh\"; add that line, or name the \
                 interpreter in \"command\""
                    .to_owned(),
            )
        };
        Some(Failure::new(reason, format!("exec {path}: it {fault}")))
    }

    /// Refusal for a program that is not there, in the words of the OCI runtime, which does not look
    /// for it where the agent's own program comes first.
    fn absence(&self, root: &OwnedFd) -> Option<Failure> {
        if !self.by_init || self.name.is_empty() {
            return None;
        }
        let name = &self.name;
        if !name.contains('/') {
            let message = format!("exec: {name:?}: executable file not found in $PATH");
            return Some(Failure::new(Reason::CommandNotFound, message));
        }
        let (reason, fault) = match open(root, self.candidates().first()?) {
            Err(Errno::NOENT | Errno::NOTDIR) => (
                Reason::CommandNotFound,
                format!("stat {name}: no such file or directory"),
            ),
            Err(_) => return None,
            Ok(_) => (Reason::CommandNotExecutable, "permission denied".to_owned()),
        };
        Some(Failure::new(reason, format!("exec: {name:?}: {fault}")))
    }

    fn candidates(&self) -> Vec<String> {
        let below = |directory: &str| match directory {
            absolute if absolute.starts_with('/') => format!("{absolute}/{}", self.name),
            relative => format!("{}/{relative}/{}", self.directory, self.name),
        };
        match self.name.as_str() {
            "" => Vec::new(),
            absolute if absolute.starts_with('/') => vec![absolute.to_owned()],
            name if name.contains('/') => vec![below("")],
            _ => self.search.split(':').map(below).collect(),
        }
    }
}

fn directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn open(root: &OwnedFd, path: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    within::open(root, path, flags).map(File::from)
}

/// Whether the host's binfmt_misc executes further formats, such as programs of other machines, or
/// may do so.
fn other_formats() -> bool {
    on_host(|| {
        let Ok(formats) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else {
            return Ok(false);
        };
        Ok(formats.flatten().any(|format| {
            let name = format.file_name();
            let is_format = name != "register" && name != "status";
            let text = std::fs::read_to_string(format.path());
            is_format && text.is_ok_and(|text| text.starts_with("enabled"))
        }))
    })
    .unwrap_or(true)
}

/// Fault of a script, of whose first line this is the part after `#!`.
fn shebang(line: &[u8], is_absent: impl Fn(&str) -> bool) -> Option<String> {
    let line = &line[..line.len().min(SHEBANG_BYTES - 2)];
    let end = line.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&line[..end]).ok()?;
    let words = line.trim_matches([' ', '\t']);
    let interpreter = words.split([' ', '\t']).next().unwrap_or_default();
    if interpreter.is_empty() {
        return Some("is a script whose first line names no interpreter".to_owned());
    }
    if !interpreter.starts_with('/') || !is_absent(interpreter) {
        return None;
    }
    if interpreter.ends_with('\r') {
        return Some(format!(
            "is a script with the line ends of Windows (CRLF), so that {interpreter:?} is asked for as its interpreter; save \
             it with plain line feeds"
        ));
    }
    Some(format!(
        "is a script for {interpreter}, which the image does not have; install it, or name another"
    ))
}

/// Number at `at` of a program's headers, least significant byte first.
fn number(head: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let bytes = head.get(at..at.checked_add(bytes)?)?;
    let number = bytes
        .iter()
        .rev()
        .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    usize::try_from(number).ok()
}

/// Machine that an ELF program is for, if it is none whose programs run here (elf(5), `e_machine`).
fn other_machine(head: &[u8]) -> Option<String> {
    let is_little = *head.get(5)? == 1;
    let machine = match (is_little, head.get(18)?, head.get(19)?) {
        (true, low, high) => u16::from_le_bytes([*low, *high]),
        (false, high, low) => u16::from_be_bytes([*high, *low]),
    };
    let own: &[u16] = match std::env::consts::ARCH {
        "x86_64" => &[62, 3],
        "aarch64" => &[183, 40],
        _ => return None,
    };
    if is_little && own.contains(&machine) {
        return None;
    }
    let known = [
        (3, "386"),
        (8, "mips"),
        (21, "ppc64"),
        (22, "s390x"),
        (40, "arm"),
        (62, "amd64"),
        (183, "arm64"),
        (243, "riscv64"),
        (258, "loong64"),
    ];
    let name = known.iter().find(|(number, _)| *number == machine);
    Some(name.map_or_else(
        || format!("machine {machine}"),
        |(_, name)| (*name).to_owned(),
    ))
}

/// Fault of a program of this machine: the loader that it names is absent.
fn loader(head: &[u8], is_absent: impl Fn(&str) -> bool) -> Option<String> {
    const PT_INTERP: usize = 3;
    let is_64 = *head.get(4)? == 2;
    // e_phoff, e_phentsize, e_phnum; p_offset and p_filesz in each.
    let (table, size, count) = if is_64 { (32, 54, 56) } else { (28, 42, 44) };
    let width = if is_64 { 8 } else { 4 };
    let (offset_at, length_at) = if is_64 { (8, 32) } else { (4, 16) };
    let (table, size) = (number(head, table, width)?, number(head, size, 2)?);
    let entry = (0..number(head, count, 2)?.min(64))
        .map(|n| table.saturating_add(n * size))
        .find(|entry| number(head, *entry, 4) == Some(PT_INTERP))?;
    let start = number(head, entry + offset_at, width)?;
    let length = number(head, entry + length_at, width)?;
    let path = head.get(start..start.checked_add(length)?)?;
    let path = std::str::from_utf8(path).ok()?.trim_end_matches('\0');
    (path.starts_with('/') && is_absent(path)).then(|| {
        format!(
            "needs the loader {path}, which the image does not have; build it for the image's C library, or statically"
        )
    })
}

#[cfg(test)]
mod tests;
