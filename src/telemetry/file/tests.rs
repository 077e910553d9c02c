use super::*;

const SMALL: FileBounds = FileBounds {
    bytes_max: 10,
    files_max: 3,
    is_json: false,
};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn files_are_bounded_in_size_and_number_and_the_newest_lines_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let log = LogFile::open(&path, SMALL).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    for number in 0..20 {
        log.write(format!("{number:04}\n").as_bytes());
    }
    assert_eq!(names(directory.path()), ["a.log", "a.log.1", "a.log.2"]);
    assert_eq!(text(&path), "0018\n0019\n");
    assert_eq!(text(&beside(&path, "2")), "0014\n0015\n");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(&beside(&path, "1"))), (0o604, 0o604));
    // A line that is larger than a file is a file of its own.
    log.write(b"a line of more than ten\n");
    assert_eq!(text(&path), "a line of more than ten\n");
    // With fewer files than before, the rest is not touched.
    let one = FileBounds {
        files_max: 1,
        ..SMALL
    };
    let log = LogFile::open(&path, one).unwrap();
    log.write(b"1\n");
    assert_eq!(text(&path), "1\n");
    assert_eq!(text(&beside(&path, "1")), "0018\n0019\n");
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (
        directory.path().join("a.log"),
        directory.path().join("b.log"),
    );
    let log = LogFile::open(&path, SMALL).unwrap();
    log.write(b"one");
    fs::rename(&path, &moved).unwrap();
    log.write(b"two");
    log.reopen().unwrap();
    log.write(b"three");
    assert_eq!(
        (text(&moved), text(&path)),
        ("onetwo".to_owned(), "three".to_owned())
    );
}

#[test]
fn a_link_stays_a_link_and_what_is_no_plain_file_is_not_moved() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (
        directory.path().join("a.log"),
        directory.path().join("l.log"),
    );
    fs::write(&path, "").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let log = LogFile::open(&link, SMALL).unwrap();
    for _ in 0..3 {
        log.write(b"12345678\n");
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        names(directory.path()),
        ["a.log", "a.log.1", "a.log.2", "l.log"]
    );
    // Nothing of another's making is followed or written through.
    let new = beside(&path, "new");
    std::os::unix::fs::symlink("/nonexistent/elsewhere", &new).unwrap();
    log.write(b"12345678\n");
    assert_eq!(text(&path), "12345678\n");
    let null = LogFile::open(Path::new("/dev/null"), SMALL).unwrap();
    for _ in 0..3 {
        null.write(b"12345678\n");
    }
    assert!(!Path::new("/dev/null.1").exists());
}

#[test]
fn where_no_file_can_be_made_the_log_ends_at_twice_its_size_and_says_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let bounds = FileBounds {
        bytes_max: 100,
        files_max: 2,
        is_json: false,
    };
    let log = LogFile::open(&path, bounds).unwrap();
    // A directory is in the way of the file that comes next.
    let new = beside(&path, "new");
    fs::create_dir_all(new.join("x")).unwrap();
    for _ in 0..100 {
        log.write(b"123456789\n");
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 200);
    fs::remove_dir_all(&new).unwrap();
    log.lock().failed = None;
    log.write(b"123456789\n");
    let told = "(lines of this log could not be written here: 80)\n";
    assert_eq!(text(&path), format!("{told}123456789\n"));
    assert_eq!(fs::metadata(beside(&path, "1")).unwrap().len(), 200);
}

#[test]
fn what_is_written_to_a_file_without_a_name_is_lost_and_counted_until_there_is_one_again() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("log");
    let path = below.join("a.log");
    fs::create_dir(&below).unwrap();
    let log = LogFile::open(&path, SMALL).unwrap();
    log.write(b"1\n");
    fs::remove_dir_all(&below).unwrap();
    assert!(log.reopen().is_err());
    for _ in 0..3 {
        log.write(b"2\n");
    }
    assert_eq!(log.lock().lost, 3);
    fs::create_dir(&below).unwrap();
    log.lock().failed = None;
    log.write(b"3\n");
    let told = "(lines of this log could not be written here: 3)\n";
    assert_eq!(text(&path), format!("{told}3\n"));
}

#[test]
fn a_disk_without_room_costs_lines_and_nothing_else() {
    // It says that it has no room at every write.
    let log = LogFile::open(Path::new("/dev/full"), SMALL).unwrap();
    log.write(b"1\n");
    log.write(b"2\n");
    assert_eq!(log.lock().lost, 2);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = open(Path::new("/nonexistent/x.log")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open the log file /nonexistent/x.log"
    );
}
