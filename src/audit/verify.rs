//! Verification of the audit: every line is its own, and follows the one before.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use super::file::files;
use super::line::{self, ChainEnd};

/// Faults that are told; the others are counted.
const TOLD_MAX: usize = 20;

/// Outcome of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// Text to print; ends with a newline.
    pub text: String,
    /// Whether every line is in its place.
    pub is_sound: bool,
}

/// Verifies the audit in a directory, with the files beside each other in their order. Blocks.
///
/// # Errors
/// The disk's.
pub fn verify(directory: &Path) -> io::Result<AuditReport> {
    let files = files(directory)?;
    let (mut lines, mut first, mut end) = (0_u64, None, None::<ChainEnd>);
    let mut faults = Vec::new();
    for path in &files {
        for (number, text) in (1_u64..).zip(BufReader::new(File::open(path)?).split(b'\n')) {
            let text = text?;
            let place = format!("{}:{number}", path.display());
            let read = std::str::from_utf8(&text).ok().and_then(line::read);
            let Some(read) = read else {
                faults.push(format!("{place}: no whole line: cut off, or changed"));
                continue;
            };
            lines += 1;
            if end.as_ref().is_some_and(|end| end.hash != read.prev) {
                let missing = end.as_ref().map_or(0, |end| end.number);
                faults.push(format!(
                    "{place}: does not follow line {missing} of the chain"
                ));
            }
            first.get_or_insert(read.end.number);
            end = Some(read.end);
        }
    }
    let mut text = format!("{} files, {lines} lines", files.len());
    if let (Some(first), Some(end)) = (first, &end) {
        text += &format!(
            ", numbers {first} to {}; the chain ends with {}",
            end.number, end.hash
        );
    }
    text.push('\n');
    for fault in faults.iter().take(TOLD_MAX) {
        text += &format!("{fault}\n");
    }
    if faults.len() > TOLD_MAX {
        text += &format!("and {} more\n", faults.len() - TOLD_MAX);
    }
    let is_sound = faults.is_empty();
    Ok(AuditReport { text, is_sound })
}
