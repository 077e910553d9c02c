use std::collections::BTreeMap;
use std::io::Read as _;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

/// What a journald at this socket is sent next: as a datagram, or as a file that is sealed.
fn received(journald: &UnixDatagram) -> (String, bool) {
    let mut bytes = vec![0; 1 << 20];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg(journald, &mut parts, &mut control, RecvFlags::empty()).unwrap();
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(mut files) = message else {
            continue;
        };
        let file = files.next().unwrap();
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW));
        let (mut file, mut text) = (File::from(file), String::new());
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        return (text, true);
    }
    bytes.truncate(got.bytes);
    (String::from_utf8(bytes).unwrap(), false)
}

fn fields(entry: &str) -> BTreeMap<&str, &str> {
    let fields: Vec<_> = entry
        .strip_suffix('\n')
        .unwrap()
        .split('\n')
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let count = fields.len();
    let fields: BTreeMap<_, _> = fields.into_iter().collect();
    assert_eq!(fields.len(), count, "a field stands twice: {entry}");
    fields
}

fn journald(directory: &Path) -> (UnixDatagram, Arc<JournalSocket>) {
    let path = directory.join("socket");
    let journald = UnixDatagram::bind(&path).unwrap();
    let timeout = Some(Duration::from_secs(10));
    journald.set_read_timeout(timeout).unwrap();
    let socket = JournalSocket::open(&path).unwrap();
    assert_eq!(received(&journald), (String::new(), false));
    (journald, socket)
}

fn with(socket: &Arc<JournalSocket>, say: impl FnOnce()) {
    let format = Format::default()
        .without_time()
        .with_level(false)
        .with_ansi(false);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(JournalWriter(Arc::clone(socket)))
        .event_format(JournalFields(format))
        .finish();
    tracing::subscriber::with_default(subscriber, say);
}

#[test]
fn an_event_is_an_entry_with_a_field_for_each_fact() {
    let directory = tempfile::tempdir().unwrap();
    let (journald, socket) = journald(directory.path());
    with(&socket, || {
        tracing::warn!(
            target: "chas_node_agent::journal",
            container = %"web",
            reason = "ImageNotFound",
            request_id = "0f",
            priority = 7,
            _pid = 1,
            "step failed, retrying"
        );
    });
    let (entry, _) = received(&journald);
    let fields = fields(&entry);
    for (name, value) in [
        ("PRIORITY", "4"),
        ("CONTAINER", "web"),
        ("REASON", "ImageNotFound"),
        ("REQUEST_ID", "0f"),
        ("F_PRIORITY", "7"),
        ("PID", "1"),
        ("TARGET", "chas_node_agent::journal"),
        ("SYSLOG_IDENTIFIER", "chas-node-agent"),
    ] {
        assert_eq!(fields.get(name), Some(&value), "{name}: {entry}");
    }
    let message = fields["MESSAGE"];
    assert!(message.contains("step failed, retrying"), "{message}");
    assert!(message.contains("container=web"), "{message}");
    assert!(fields["CODE_FILE"].ends_with("tests.rs"), "{entry}");
}

#[test]
fn no_value_begins_a_field_of_its_own_however_long_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (journald, socket) = journald(directory.path());
    const FORGED: &str = "x\nPRIORITY=0\r\nCONTAINER=forged\n\u{1b}[2J\u{2028}_UID=0\0";
    let long = "y".repeat(VALUE_BYTES_MAX + 9);
    for (value, is_file) in [(FORGED, false), (&long, true)] {
        with(
            &socket,
            || tracing::error!(container = %value, error = %value, "{value}"),
        );
        let (entry, by_file) = received(&journald);
        assert_eq!(by_file, is_file);
        assert!(entry.len() < 4 * VALUE_BYTES_MAX, "{}", entry.len());
        let fields = fields(&entry);
        assert_eq!(fields["PRIORITY"], "3");
        assert!(!entry.lines().any(|line| line.chars().any(text::is_hidden)));
        assert_eq!(fields["CONTAINER"].chars().next(), value.chars().next());
    }
}

#[test]
fn a_journal_that_takes_nothing_costs_one_wait_and_is_told_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (journald, socket) = journald(directory.path());
    let say = || with(&socket, || tracing::info!("one more"));
    // Until its line is full.
    while socket.lost.load(Ordering::Relaxed) < 100 {
        say();
    }
    journald.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    while journald.recv(&mut bytes).is_ok() {}
    journald.set_nonblocking(false).unwrap();
    say();
    assert!(received(&journald).0.contains("one more"));
    let (told, _) = received(&journald);
    assert!(
        fields(&told)["MESSAGE"].starts_with("100 entries lost"),
        "{told}"
    );
    // Another journald, in the place of one that has gone.
    drop(journald);
    std::fs::remove_file(directory.path().join("socket")).unwrap();
    say();
    let again = UnixDatagram::bind(directory.path().join("socket")).unwrap();
    again
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    say();
    assert!(received(&again).0.contains("one more"));
    assert!(received(&again).0.contains("1 entries lost"));
}

#[test]
fn there_is_no_socket_where_no_journald_is() {
    assert!(JournalSocket::open(Path::new("/nonexistent/socket")).is_err());
}

#[test]
fn names_are_those_that_journald_takes_and_none_of_its_own() {
    for (field, expected) in [
        ("container", "CONTAINER"),
        ("http.status", "HTTP_STATUS"),
        ("_uid", "UID"),
        ("message_id", "F_MESSAGE_ID"),
        ("9lives", "F_9LIVES"),
        ("", "F_"),
        ("\u{e9}", "F_"),
    ] {
        assert_eq!(name(field), expected, "{field}");
    }
    assert_eq!(name(&"a".repeat(200)).len(), NAME_BYTES_MAX);
}
