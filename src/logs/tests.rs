//! The whole room: what is pushed into pipes comes back out of the reader, whatever happens
//! between.

mod follow;

mod hostile;

use std::io::{PipeWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use proptest::prelude::*;
use state::quantity::ByteCount;
use state::spec::LogLimits;
use tempfile::TempDir;

use super::files::{file_numbers, file_path};
use super::line::{LogLine, Stream};
use super::read::{ReadOptions, Reading, read, read_until};
use super::rotate::LogWriter;
use super::*;

const ROOMY: LogLimits = LogLimits {
    max_size: ByteCount(1 << 20),
    max_files: 100,
};
const TIGHT: LogLimits = LogLimits {
    max_size: ByteCount(64 << 10),
    max_files: 3,
};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn log_dir() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = directory(root.path(), ContainerId::from_bits(7));
    (root, dir)
}

/// Writes a line for each second of the range, as in `line 17`.
fn write_lines(writer: &mut LogWriter, seconds: std::ops::Range<u64>) {
    for second in seconds {
        writer.push(
            at(second),
            Stream::Stdout,
            false,
            format!("line {second}").as_bytes(),
        );
        writer.flush();
    }
}

async fn all(dir: &Path, options: ReadOptions) -> Vec<LogLine> {
    read(dir.to_owned(), options)
        .map(Result::unwrap)
        .collect()
        .await
}

async fn lines(dir: &Path, options: ReadOptions) -> Vec<String> {
    all(dir, options)
        .await
        .into_iter()
        .map(|line| String::from_utf8_lossy(&line.bytes).into_owned())
        .collect()
}

fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|second| format!("line {second}")).collect()
}

/// Bytes of one stream, as they were printed.
fn printed(lines_read: &[LogLine], stream: Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines_read.iter().filter(|line| line.stream == stream) {
        bytes.extend_from_slice(&line.bytes);
        if !line.partial {
            bytes.push(b'\n');
        }
    }
    bytes
}

#[tokio::test]
async fn only_a_containers_directory_is_removed_and_twice_is_as_good_as_once() {
    let root = tempfile::tempdir().unwrap();
    let id = ContainerId::from_bits(7);
    let dir = directory(root.path(), id);
    std::fs::create_dir_all(dir.join("x")).unwrap();
    std::fs::create_dir_all(root.path().join("other")).unwrap();
    assert_eq!(stored(root.path()).unwrap(), [id]);
    remove(&dir).await.unwrap();
    remove(&dir).await.unwrap();
    assert!(!dir.exists());
    assert!(remove(&root.path().join("other")).await.is_err());
    assert!(root.path().join("other").exists());
    assert!(stored(&root.path().join("nowhere")).unwrap().is_empty());
}

#[tokio::test]
async fn the_directory_never_exceeds_its_limits_and_the_newest_lines_remain() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), TIGHT);
    let line = [b'x'; 1000];
    for second in 0..1000 {
        writer.push(
            at(second),
            Stream::Stdout,
            false,
            &[format!("{second} ").as_bytes(), &line].concat(),
        );
        if second % 7 == 0 {
            writer.flush();
        }
    }
    writer.flush();
    let numbers = file_numbers(&dir).unwrap();
    assert_eq!(numbers.len(), 3);
    for number in numbers {
        assert!(std::fs::metadata(file_path(&dir, number)).unwrap().len() <= TIGHT.max_size.0);
    }
    let lines_read = all(&dir, ReadOptions::default()).await;
    let first: u64 = String::from_utf8_lossy(&lines_read[0].bytes)
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        lines_read.len() > 120,
        "two full files at least: {}",
        lines_read.len()
    );
    for (line, second) in lines_read.iter().zip(first..) {
        assert!(line.bytes.starts_with(format!("{second} ").as_bytes()));
        assert_eq!(line.time, at(second));
    }
    assert_eq!(first + lines_read.len() as u64, 1000);
}

#[tokio::test]
async fn one_file_is_enough_for_a_container_that_may_have_one() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(
        dir.clone(),
        LogLimits {
            max_files: 1,
            ..TIGHT
        },
    );
    for second in 0..200 {
        writer.push(at(second), Stream::Stdout, false, &[b'x'; 1000]);
        writer.flush();
        assert_eq!(file_numbers(&dir).unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_restart_goes_on_behind_a_torn_line() {
    let (_root, dir) = log_dir();
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..3);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(file_path(&dir, 1))
        .unwrap();
    let size = file.metadata().unwrap().len();
    for torn in [1, 3, 30, 44] {
        file.set_len(size - torn).unwrap();
        write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 3..5);
        let found = lines(&dir, ReadOptions::default()).await;
        assert_eq!(found[..2], numbered(0..2));
        assert_eq!(found[found.len() - 2..], numbered(3..5));
        file.set_len(size - torn).unwrap();
    }
}

#[tokio::test]
async fn what_a_full_disk_swallowed_is_counted_and_told() {
    let (_root, dir) = log_dir();
    std::fs::write(&dir, "in the way, as a full disk is").unwrap();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    write_lines(&mut writer, 0..5);
    std::fs::remove_file(&dir).unwrap();
    write_lines(&mut writer, 5..7);
    let found = lines(&dir, ReadOptions::default()).await;
    let told = "[chas-node-agent: 5 lines (30 bytes) of this container's output were lost: File exists (os error 17)]";
    assert_eq!(found, [told, "line 5", "line 6"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_yet_and_one_that_was_removed_stop_nothing() {
    let (_root, dir) = log_dir();
    std::fs::write(&dir, "in the way").unwrap();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    write_lines(&mut writer, 0..2);
    std::fs::remove_file(&dir).unwrap();
    write_lines(&mut writer, 2..3);
    assert_eq!(lines(&dir, ReadOptions::default()).await.len(), 2);
    std::fs::remove_dir_all(&dir).unwrap();
    write_lines(&mut writer, 3..4);
    assert_eq!(lines(&dir, ReadOptions::default()).await, ["line 3"]);
    assert_eq!(file_numbers(&dir).unwrap(), [2], "numbers only grow");
}

#[tokio::test]
async fn a_clock_set_back_begins_a_new_file_and_a_restart_knows_the_last_time() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    for second in [5000, 4990, 1000, 1001] {
        write_lines(&mut writer, second..second + 1);
    }
    assert_eq!(file_numbers(&dir).unwrap(), [1, 2]);
    drop(writer);
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 990..991);
    let times: Vec<_> = all(&dir, ReadOptions::default())
        .await
        .iter()
        .map(|line| line.time)
        .collect();
    let nano = Duration::from_nanos(1);
    assert_eq!(
        times,
        [
            at(5000),
            at(5000) + nano,
            at(1000) + nano,
            at(1001),
            at(1001) + nano
        ]
    );
    let since = ReadOptions {
        since: Some(at(1001)),
        until: Some(at(2000)),
        ..ReadOptions::default()
    };
    assert_eq!(lines(&dir, since).await, ["line 1001", "line 990"]);
}

#[tokio::test]
async fn tail_since_until_and_stream_each_leave_what_they_say() {
    let (_root, dir) = log_dir();
    // 6000 lines over several files, every third of them on stderr.
    let mut writer = LogWriter::open(
        dir.clone(),
        LogLimits {
            max_size: ByteCount(64 << 10),
            max_files: 100,
        },
    );
    for second in 0..6000 {
        let stream = if second % 3 == 0 {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        writer.push(
            at(second),
            stream,
            false,
            format!("line {second}").as_bytes(),
        );
    }
    writer.flush();
    assert!(file_numbers(&dir).unwrap().len() > 4);
    for tail in [0, 1, 2, 1000, 1500, 5999, 6000, 1_000_000] {
        let options = ReadOptions {
            tail: Some(tail),
            ..ReadOptions::default()
        };
        assert_eq!(
            lines(&dir, options).await,
            numbered(6000 - (tail as u64).min(6000)..6000),
            "{tail}"
        );
    }
    let table = [
        (Some(0), Some(6000), 0..6000),
        (Some(2500), Some(4200), 2500..4201),
        (Some(6000), None, 0..0),
        (None, Some(17), 0..18),
    ];
    for (since, until, expected) in table {
        let options = ReadOptions {
            since: since.map(at),
            until: until.map(at),
            ..ReadOptions::default()
        };
        assert_eq!(
            lines(&dir, options.clone()).await,
            numbered(expected.clone()),
            "{since:?} {until:?}"
        );
        let last = expected.end.saturating_sub(10).max(expected.start)..expected.end;
        assert_eq!(
            lines(
                &dir,
                ReadOptions {
                    tail: Some(10),
                    ..options
                }
            )
            .await,
            numbered(last),
            "{since:?} {until:?} tail"
        );
    }
    let options = ReadOptions {
        tail: Some(2),
        stream: Some(Stream::Stderr),
        ..ReadOptions::default()
    };
    assert_eq!(lines(&dir, options).await, ["line 5994", "line 5997"]);
}

#[tokio::test]
async fn a_tail_counts_a_long_line_once() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    for (line, partial) in [
        ("a", false),
        ("b1", true),
        ("b2", true),
        ("b3", false),
        ("c1", true),
        ("c2", true),
    ] {
        writer.push(at(0), Stream::Stdout, partial, line.as_bytes());
    }
    writer.flush();
    let tail = |lines| ReadOptions {
        tail: Some(lines),
        ..ReadOptions::default()
    };
    assert_eq!(lines(&dir, tail(1)).await, ["c1", "c2"]);
    assert_eq!(lines(&dir, tail(2)).await, ["b1", "b2", "b3", "c1", "c2"]);
}

#[tokio::test]
async fn a_new_run_does_not_continue_the_line_that_the_last_one_left() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    writer.push(at(0), Stream::Stdout, true, b"fatal: no disk");
    writer.push(at(0), Stream::Stderr, false, b"said");
    writer.flush();
    for run in 1..3 {
        write_lines(&mut LogWriter::open(dir.clone(), ROOMY), run..run + 1);
    }
    let lines_read = all(&dir, ReadOptions::default()).await;
    assert_eq!(
        printed(&lines_read, Stream::Stdout),
        b"fatal: no disk\nline 1\nline 2\n"
    );
    assert_eq!(printed(&lines_read, Stream::Stderr), b"said\n");
    assert_eq!(lines_read.len(), 5, "one ends the line: {lines_read:?}");
}

#[tokio::test]
async fn names_of_files_that_are_none_are_passed_over() {
    let (_root, dir) = log_dir();
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..1);
    let pipe = file_path(&dir, 3);
    std::fs::create_dir(file_path(&dir, 2)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    std::fs::write(dir.join(format!("{}.log", u64::MAX)), "x").unwrap();
    let mut writer = LogWriter::open(dir.clone(), TIGHT);
    for second in 1..100 {
        writer.push(at(second), Stream::Stdout, false, &[b'x'; 1000]);
        writer.flush();
    }
    assert_eq!(file_numbers(&dir).unwrap(), [1, 4]);
    let found = lines(&dir, ReadOptions::default()).await;
    assert_eq!((found.len(), found[0].as_str()), (100, "line 0"));
    std::fs::remove_file(file_path(&dir, 1)).unwrap();
    std::fs::remove_file(file_path(&dir, 4)).unwrap();
    std::fs::create_dir(file_path(&dir, 1)).unwrap();
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..1);
    assert_eq!(file_numbers(&dir).unwrap(), [4]);
    assert_eq!(lines(&dir, ReadOptions::default()).await, ["line 0"]);
}

#[tokio::test]
async fn what_is_no_log_line_is_passed_over() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    write_lines(&mut writer, 0..1);
    let path = file_path(&dir, 1);
    let append = |bytes: &[u8]| {
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(bytes)
            .unwrap();
    };
    append(&[0; 4096]);
    append(b"\n\ngarbage\n");
    write_lines(&mut writer, 1..2);
    append(&[b'x'; 300_000]);
    append(b"\n");
    write_lines(&mut writer, 2..3);
    append(b"2023-11-14T22:13:22.000000000Z stdout F not end");
    assert_eq!(lines(&dir, ReadOptions::default()).await, numbered(0..3));
    for tail in 0..4 {
        let options = ReadOptions {
            tail: Some(tail),
            ..ReadOptions::default()
        };
        assert_eq!(
            lines(&dir, options).await,
            numbered(3 - (tail as u64).min(3)..3)
        );
    }
}
