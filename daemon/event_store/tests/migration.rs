//! Journals of earlier versions.

use super::*;
use crate::event_store::schema::MIGRATIONS;

/// Makes a journal of version 1: its events have no UUID in the body.
fn first_version(folder: &TempDir, texts: &[&str]) {
    let memory = MemoryJournal::new(RUN, 100);
    fs::create_dir(&settings(folder).folder).unwrap();
    let connection = rusqlite::Connection::open(settings(folder).folder.join(FILE)).unwrap();
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    connection.execute_batch(MIGRATIONS[0]).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    for text in texts {
        let event = memory.append("gate".into(), caption(text));
        let whole = crate::wire::encode::event_bytes(&event);
        // The field `uuid`: tag, length and 36 bytes.
        let at = whole.windows(2).position(|two| two == [0x22, 0x24]).unwrap();
        let body = [&whole[..at], &whole[at + 38..]].concat();
        connection
            .execute(
                "INSERT INTO events (run, sequence, uuid, published_ms, camera, kind, text, body) \
                 VALUES (?, ?, ?, ?, 'gate', 1, ?, ?)",
                rusqlite::params![
                    event.id.run as i64,
                    event.id.sequence as i64,
                    [event.id.sequence as u8; 16],
                    super::super::values::milliseconds(event.published_at),
                    text,
                    body,
                ],
            )
            .unwrap();
    }
}

#[tokio::test]
async fn a_journal_of_version_1_opens_with_all_events() {
    let folder = tempfile::tempdir().unwrap();
    first_version(&folder, &["A red car.", "A dog \0 with a zero."]);
    let journal = begin(&folder, RUN + 1);
    assert_eq!(journal.trouble(), None);
    let page = journal.list(everything()).await.unwrap();
    let shown: Vec<_> = page
        .events
        .iter()
        .map(|event| (event.uuid.to_string(), event.body.inference().unwrap().text.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("02020202-0202-0202-0202-020202020202".into(), "A dog \0 with a zero."),
            ("01010101-0101-0101-0101-010101010101".into(), "A red car."),
        ]
    );
    let hits = journal.search(searched("car")).await.unwrap().hits;
    assert_eq!(hits.len(), 1);
    // The texts are to get their vectors.
    let file = rusqlite::Connection::open(settings(&folder).folder.join(FILE)).unwrap();
    let count = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM vectors_pending"), 2);
    let event = journal.append("gate".into(), caption("A bus."));
    journal.flush();
    assert_eq!(journal.list(everything()).await.unwrap().events[0], event);
}
