//! What a user who may write logs can put in their place: it costs a reader little, and a log nothing.

use super::*;

#[tokio::test]
async fn a_file_of_tebibytes_of_hole_is_passed_and_the_lines_around_it_are_read() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), ROOMY);
    write_lines(&mut writer, 0..3);
    drop(writer);
    for number in 2..4 {
        let hole = std::fs::File::create(file_path(&dir, number)).unwrap();
        hole.set_len(8 << 40).unwrap();
    }
    std::fs::copy(file_path(&dir, 1), file_path(&dir, 4)).unwrap();
    let read = async |tail| {
        let options = ReadOptions {
            tail,
            ..ReadOptions::default()
        };
        let minute = Duration::from_secs(60);
        let read = tokio::time::timeout(minute, lines(&dir, options));
        read.await.expect("the holes are not read to their ends")
    };
    let all = [numbered(0..3), numbered(0..3)].concat();
    assert_eq!(read(None).await, all);
    assert_eq!(read(Some(2)).await, numbered(1..3));
    assert_eq!(read(Some(5)).await, all[1..]);
    let since = ReadOptions {
        since: Some(at(2)),
        ..ReadOptions::default()
    };
    assert_eq!(lines(&dir, since).await.last().unwrap(), "line 2");
}

#[tokio::test]
async fn a_writer_whose_next_names_are_taken_goes_on_in_its_file_within_twice_its_limit() {
    let (_root, dir) = log_dir();
    let mut writer = LogWriter::open(dir.clone(), TIGHT);
    for number in 2..40 {
        std::fs::create_dir(file_path(&dir, number)).unwrap();
    }
    let line = [b'x'; 1000];
    let mut print = |second| {
        writer.push(at(second), Stream::Stdout, false, &line);
        writer.flush();
        writer.is_losing()
    };
    assert!(!(0..100).any(&mut print), "beyond the limit");
    assert!((100..400).any(&mut print), "not without an end");
    let size = file_path(&dir, 1).metadata().unwrap().len();
    assert!((2 * (64 << 10)..200 << 10).contains(&size), "{size}");
    std::fs::remove_dir(file_path(&dir, 2)).unwrap();
    assert!(!print(400), "a name is free again");
}
