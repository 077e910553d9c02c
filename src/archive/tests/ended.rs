//! Archives that have ended, and access lists in words.

use state::event::EventKind;

use super::*;

#[tokio::test]
async fn each_archive_is_told_when_it_has_ended_with_what_became_of_it() {
    let journal = crate::journal::Journal::new(crate::metrics::Metrics::new());
    let room = ArchiveRoom::new(journal.clone(), tokio_util::sync::CancellationToken::new());
    let place = || {
        room.place(("volume a".to_owned(), None), false, "me".to_owned())
            .unwrap()
    };
    let mut pieces = place().send(|out| {
        out.write_all(b"x")?;
        Ok(ArchivedAmount {
            bytes: 7,
            ..ArchivedAmount::default()
        })
    });
    while pieces.recv().await.is_some() {}
    let upload = place().take(|_| Err(io::Error::other("of the disk").into()));
    drop(upload.sender);
    upload.done.await.unwrap_err();
    let told: Vec<_> = journal
        .after(0)
        .iter()
        .map(|entry| entry.event.clone())
        .collect();
    let facts: Vec<_> = told
        .iter()
        .filter_map(|event| {
            let EventKind::ArchiveEnded {
                direction,
                complete,
                bytes,
                ..
            } = &event.kind
            else {
                return None;
            };
            Some((*direction, *complete, *bytes))
        })
        .collect();
    assert_eq!(facts, [("read", true, 7), ("written", false, 0)]);
    assert!(
        told[0].text().starts_with("volume a (read by me): 0 files"),
        "{}",
        told[0].text()
    );
    assert!(
        told[1].text().ends_with("of the disk"),
        "{}",
        told[1].text()
    );
}

#[test]
fn access_lists_in_words_are_taken_and_what_nobody_understands_is_told() {
    let two = Two::new();
    let mut records = Vec::new();
    let list = b"user::rw-\nuser:1000:rw-\ngroup::r--\nmask::rw-\nother::r--\n";
    pax::add(&mut records, "SCHILY.acl.access", list);
    let mut unknown = Vec::new();
    pax::add(&mut unknown, "SCHILY.acl.access", b"user:lisa:rw-");
    let entries = [
        entry(EntryType::XHeader, "x", "", &records),
        entry(EntryType::Regular, "a", "", b"a"),
        entry(EntryType::XHeader, "x", "", &unknown),
        entry(EntryType::Regular, "b", "", b"b"),
    ];
    let amount = two.unpack(&archive(&entries)[..]).unwrap();
    assert_eq!(amount.left_out, 1);
    let file = File::open(two.path("to/a")).unwrap();
    let attributes = xattrs::of(file.as_fd()).unwrap();
    let (name, value) = attributes.first().expect("a list");
    assert_eq!(name, b"system.posix_acl_access");
    assert_eq!(Some(value.clone()), acl::value(list));
}
