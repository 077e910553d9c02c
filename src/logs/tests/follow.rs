//! Followers of a log, and the pipes that it comes from.

use super::*;

/// Everything that comes until nothing more does, in virtual time.
async fn ready(reading: &mut Reading) -> Vec<String> {
    let mut found = Vec::new();
    while let Ok(Some(line)) =
        tokio::time::timeout(Duration::from_millis(700), reading.next()).await
    {
        found.push(String::from_utf8_lossy(&line.unwrap().bytes).into_owned());
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_goes_on_over_restarts_and_ends_with_the_directory() {
    let (_root, dir) = log_dir();
    let mut reading = read(
        dir.clone(),
        ReadOptions {
            follow: true,
            tail: Some(1),
            ..ReadOptions::default()
        },
    );
    assert!(ready(&mut reading).await.is_empty());
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..2);
    assert_eq!(ready(&mut reading).await.last().unwrap(), "line 1");
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    write_lines(&mut writer, 2..4);
    assert_eq!(ready(&mut reading).await, numbered(2..4));
    writer.push(at(4), Stream::Stdout, false, b"last words");
    writer.flush();
    remove(&dir).await.unwrap();
    assert_eq!(
        reading.next().await.unwrap().unwrap().bytes,
        Bytes::from("last words")
    );
    assert!(reading.next().await.is_none());
}

#[tokio::test]
async fn a_follower_whose_output_has_ended_is_given_all_of_it_however_slow_it_is() {
    let (_root, dir) = log_dir();
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..5000);
    let follow = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let mut reading = read_until(dir.clone(), follow.clone(), async {});
    let first = reading.next().await.unwrap().unwrap();
    assert_eq!(first.bytes, Bytes::from("line 0"));
    tokio::time::sleep(Duration::from_millis(20)).await;
    remove(&dir).await.unwrap();
    assert_eq!(reading.count().await, 4999);
    let nowhere = read_until(dir, follow, async {});
    assert_eq!(nowhere.count().await, 0, "a directory that never comes");
}

#[tokio::test]
async fn a_follower_of_a_past_time_ends_by_itself() {
    let (_root, dir) = log_dir();
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..200);
    assert_eq!(
        lines(
            &dir,
            ReadOptions {
                follow: true,
                until: Some(at(2)),
                ..ReadOptions::default()
            }
        )
        .await,
        numbered(0..3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_overtaken_by_rotation_is_told() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), TIGHT);
    write_lines(&mut writer, 0..1);
    let mut reading = read(
        dir.clone(),
        ReadOptions {
            follow: true,
            ..ReadOptions::default()
        },
    );
    assert_eq!(ready(&mut reading).await, numbered(0..1));
    for second in 1..1000 {
        writer.push(at(second), Stream::Stdout, false, &[b'x'; 1000]);
    }
    writer.flush();
    let gone = file_numbers(&dir).unwrap()[0] - 2;
    let found = ready(&mut reading).await;
    assert!(found.contains(&format!(
        "[chas-node-agent: {gone} log files were rotated away before they were read]"
    )));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_loses_and_repeats_nothing_while_the_files_rotate() {
    let (_root, dir) = log_dir();
    let limits = LogLimits {
        max_size: ByteCount(64 << 10),
        max_files: 100,
    };
    let count = 20_000;
    let writing = std::thread::spawn({
        let dir = dir.clone();
        move || {
            for part in 0..4 {
                let mut writer = LogWriter::open(dir.clone(), limits);
                for second in part * count / 4..(part + 1) * count / 4 {
                    writer.push(
                        at(second),
                        Stream::Stdout,
                        false,
                        format!("line {second} {}", "x".repeat(60)).as_bytes(),
                    );
                    if second % 50 == 0 {
                        writer.flush();
                        std::thread::sleep(Duration::from_micros(500));
                    }
                }
                writer.flush();
            }
        }
    });
    let mut reading = read(
        dir.clone(),
        ReadOptions {
            follow: true,
            ..ReadOptions::default()
        },
    );
    for second in 0..count {
        let line = reading.next().await.unwrap().unwrap();
        assert!(
            line.bytes.starts_with(format!("line {second} ").as_bytes()),
            "{second}: {line:?}"
        );
    }
    writing.join().unwrap();
    assert!(reading.next().now_or_never().is_none());
    assert!(file_numbers(&dir).unwrap().len() > 20);
}

/// Runs the pump on two pipes while `print` writes into their other ends.
fn pumped(
    dir: &Path,
    limits: LogLimits,
    print: impl FnOnce(PipeWriter, PipeWriter) + Send + 'static,
) {
    let (stdout, out) = io::pipe().unwrap();
    let (stderr, err) = io::pipe().unwrap();
    let printing = std::thread::spawn(move || print(out, err));
    let mut writer = LogWriter::open(dir.to_owned(), limits);
    logger::pump_pipes(stdout, stderr, &mut writer, &AtomicBool::new(false));
    printing.join().unwrap();
}

#[tokio::test]
async fn what_goes_into_the_pipes_is_all_there_when_they_close() {
    let (_root, dir) = log_dir();
    pumped(&dir, ROOMY, |mut out, mut err| {
        for number in 0..5000 {
            writeln!(out, "out {number}").unwrap();
            writeln!(err, "err {number}").unwrap();
        }
        drop(err);
        write!(out, "no newline").unwrap();
    });
    let lines_read = all(&dir, ReadOptions::default()).await;
    for (stream, name, end) in [
        (Stream::Stdout, "out", "no newline\n"),
        (Stream::Stderr, "err", ""),
    ] {
        let expected: String = (0..5000)
            .map(|number| format!("{name} {number}\n"))
            .collect();
        assert_eq!(
            String::from_utf8(printed(&lines_read, stream)).unwrap(),
            expected + end,
            "the end of a stream ends its line"
        );
    }
}

#[tokio::test]
async fn asked_to_end_it_drains_the_pipes_first() {
    let (_root, dir) = log_dir();
    let (stdout, mut out) = io::pipe().unwrap();
    let (stderr, err) = io::pipe().unwrap();
    writeln!(out, "still here").unwrap();
    drop((out, err));
    logger::pump_pipes(
        stdout,
        stderr,
        &mut LogWriter::open(dir.clone(), ROOMY),
        &AtomicBool::new(true),
    );
    assert_eq!(lines(&dir, ReadOptions::default()).await, ["still here"]);
}

#[tokio::test]
async fn a_file_cut_anywhere_gives_its_whole_lines_and_nothing_invented() {
    let (_root, dir) = log_dir();
    write_lines(&mut LogWriter::open(dir.clone(), ROOMY), 0..3);
    let whole = std::fs::read(file_path(&dir, 1)).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(file_path(&dir, 1))
        .unwrap();
    for length in (0..whole.len() as u64).rev() {
        file.set_len(length).unwrap();
        let newlines = whole[..usize::try_from(length).unwrap()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count() as u64;
        assert_eq!(
            lines(&dir, ReadOptions::default()).await,
            numbered(0..newlines)
        );
    }
    file.write_all_at(&whole, 0).unwrap();
    assert_eq!(lines(&dir, ReadOptions::default()).await, numbered(0..3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_two_streams_come_back_over_rotation(
        chunks in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(prop_oneof![1 => Just(b'\n'), 5 => any::<u8>()], 1..60), 1..180usize), 0..12)
    ) {
        let chunks: Vec<(bool, Vec<u8>)> = chunks.into_iter().map(|(err, bytes, times)| (err, bytes.repeat(times))).collect();
        let (_root, dir) = log_dir();
        // A line that is one newline takes 46 bytes on disk: 12 × 59 × 179 of them still fit, so
        // nothing is rotated away.
        let limits = LogLimits { max_size: ByteCount(64 << 10), max_files: 100 };
        let to_print = chunks.clone();
        pumped(&dir, limits, move |mut out, mut err| {
            for (to_err, bytes) in to_print {
                if to_err { err.write_all(&bytes).unwrap() } else { out.write_all(&bytes).unwrap() }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lines_read = runtime.block_on(all(&dir, ReadOptions::default()));
        for (stream, to_err) in [(Stream::Stdout, false), (Stream::Stderr, true)] {
            let mut expected: Vec<u8> = chunks.iter().filter(|(err, _)| *err == to_err).flat_map(|(_, bytes)| bytes.clone()).collect();
            if expected.last().is_some_and(|byte| *byte != b'\n') {
                expected.push(b'\n');
            }
            prop_assert!(printed(&lines_read, stream) == expected);
        }
        prop_assert!(lines_read.windows(2).all(|pair| pair[0].time < pair[1].time));
    }
}
