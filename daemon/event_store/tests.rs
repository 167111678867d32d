//! The journal on disk, with real files.

mod changes;
mod clips;
mod clock;
mod density;
mod faults;
mod jpegs;
mod migration;

use std::fs;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::database::Database;
use super::file::FILE;
use super::*;
use crate::event::{
    CameraStatus, Caption, Coverage, Devices, EventKind, FinishReason, Inference, Placement,
    Timing, Unchanged, Usage,
};
use crate::frame::{Clock, Span};
use crate::journal::{EventFilter, Read, SearchMode};

pub const RUN: u64 = 1_760_000_000_000;

pub fn caption(text: &str) -> Body {
    let placement = Placement { device: "cpu".into(), reason: String::new() };
    let now = SystemTime::now();
    let inference = Inference {
        prompt: "Describe.".into(),
        text: text.into(),
        window: Span { from: now, to: now + Duration::from_secs(8) },
        coverage: Coverage {
            frames_expected: 8,
            frames_used: 8,
            covered_span: None,
            gaps: Vec::new(),
            clock_source: Clock::Host,
        },
        frames: Vec::new(),
        model: "model".into(),
        devices: Devices { vision: placement.clone(), language: placement },
        finish_reason: FinishReason::Stop,
        usage: Usage::default(),
        timing: Timing::default(),
    };
    Body::Caption(Caption { inference, skipped_windows: 0, unchanged: None })
}

fn status() -> Body {
    Body::CameraStatus(CameraStatus::connecting(SystemTime::UNIX_EPOCH))
}

pub fn settings(folder: &TempDir) -> Settings {
    let retention = Duration::from_secs(3600);
    Settings { folder: folder.path().join("journal"), retention, bytes: 1 << 30 }
}

fn begin(folder: &TempDir, run: u64) -> Arc<dyn Journal> {
    EventStore::open(settings(folder)).unwrap().journal(run).unwrap()
}

/// Appends texts to a journal of a run, and closes it.
fn write(folder: &TempDir, run: u64, texts: &[&str]) {
    let journal = begin(folder, run);
    for text in texts {
        journal.append("gate".into(), caption(text));
    }
    journal.flush();
}

/// Returns a search for a text in the usual mode.
pub fn searched(text: &str) -> SearchQuery {
    let filter = EventFilter::default();
    SearchQuery { text: text.into(), mode: None, filter, offset: 0, limit: 10 }
}

fn everything() -> Query {
    Query { filter: EventFilter::default(), before: None, limit: 100 }
}

fn position(read: Read) -> (u64, u64) {
    match read {
        Read::Event(event) => (event.id.run, event.id.sequence),
        Read::Missed(_) => (0, 0),
    }
}

#[tokio::test]
async fn events_outlive_the_daemon_and_are_read_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..700).map(|number| format!("caption {number}")).collect();
    write(&folder, RUN, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(EventStore::open(settings(&folder)).unwrap().newest_run(), Some(RUN));
    let journal = begin(&folder, RUN + 1);
    for _ in 0..3 {
        journal.append("gate".into(), status());
    }
    let mut cursor = journal.read_from(None, 0);
    for sequence in 1..=700 {
        assert_eq!(position(cursor.next().await), (RUN, sequence));
    }
    for sequence in 1..=3 {
        assert_eq!(position(cursor.next().await), (RUN + 1, sequence));
    }
    assert!(cursor.is_at_end());
    let last = journal.append("yard".into(), caption("a live one"));
    assert_eq!(cursor.next().await, Read::Event(last));

    let mut cursor = journal.read_from(Some(RUN), 700);
    assert_eq!(position(cursor.next().await), (RUN, 700));
    assert_eq!(position(cursor.next().await), (RUN + 1, 1));
    let mut cursor = journal.read_from(Some(RUN), 701);
    assert_eq!(position(cursor.next().await), (RUN + 1, 1));
    let mut cursor = journal.read_from(Some(RUN - 5), 3);
    assert_eq!(cursor.next().await, Read::Missed(None));
    assert_eq!(position(cursor.next().await), (RUN, 1));
    assert_eq!(journal.get(Some(RUN), 3).unwrap().body, {
        let page = journal.read_from(Some(RUN), 3).next().await;
        let Read::Event(event) = page else { panic!("{page:?}") };
        event.body.clone()
    });
    assert_eq!(journal.get(Some(RUN - 1), 3), None);
}

#[tokio::test]
async fn a_reader_that_memory_has_left_behind_reads_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    let mut cursor = journal.read_new();
    let total = journal::CAPACITY as u64 + 300;
    for number in 0..total {
        journal.append("gate".into(), status());
        if number % 1_000 == 0 {
            journal.flush();
        }
    }
    journal.flush();
    for sequence in 1..=total {
        assert_eq!(position(cursor.next().await), (RUN, sequence));
    }
    assert!(cursor.is_at_end());
}

#[tokio::test]
async fn events_are_read_from_a_time_on() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["early"]);
    std::thread::sleep(Duration::from_millis(20));
    let between = SystemTime::now();
    std::thread::sleep(Duration::from_millis(20));
    write(&folder, RUN + 1, &["late"]);
    let journal = begin(&folder, RUN + 2);
    assert_eq!(position(journal.read_since(between).next().await), (RUN + 1, 1));
    let mut all = journal.read_since(SystemTime::UNIX_EPOCH);
    assert_eq!(position(all.next().await), (RUN, 1));
    let mut live = journal.read_since(SystemTime::now());
    let event = journal.append("gate".into(), status());
    assert_eq!(live.next().await, Read::Event(event));
}

#[test]
fn the_positions_of_readers_outlive_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    assert_eq!(journal.acknowledged("mqtt"), None);
    let id = |run, sequence| EventId { run, sequence };
    for sequence in 1..=40 {
        journal.append("gate".into(), status());
        journal.acknowledge("mqtt", id(RUN, sequence));
    }
    journal.acknowledge("webhook", id(RUN, 3));
    journal.acknowledge("mqtt", id(RUN, 7));
    assert_eq!(journal.acknowledged("mqtt"), Some(id(RUN, 40)), "it never moves back");
    drop(journal);

    let journal = begin(&folder, RUN + 1);
    assert_eq!(journal.acknowledged("mqtt"), Some(id(RUN, 40)));
    assert_eq!(journal.acknowledged("webhook"), Some(id(RUN, 3)));
    journal.acknowledge("mqtt", id(RUN + 1, 0));
    drop(journal);
    // No later run has this number, although it has no event.
    assert_eq!(EventStore::open(settings(&folder)).unwrap().newest_run(), Some(RUN + 1));
}

#[test]
fn positions_are_stored_without_a_further_event() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    journal.acknowledge("mqtt", EventId { run: RUN, sequence: 9 });
    let file = settings(&folder).folder.join(FILE);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    // Another connection reads what a kill of the daemon would leave.
    let connection = rusqlite::Connection::open(file).unwrap();
    let stored = || {
        let select = "SELECT sequence FROM readers WHERE name = 'mqtt'";
        connection.query_row(select, [], |row| row.get::<_, i64>(0)).ok()
    };
    while stored() != Some(9) {
        assert!(std::time::Instant::now() < deadline, "{:?}", stored());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_newest_captions_include_those_of_earlier_runs() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    for (camera, text) in [("gate", "old"), ("yard", "of the yard"), ("gate", "of the gate")] {
        journal.append(camera.into(), caption(text));
        journal.append(camera.into(), status());
    }
    let Body::Caption(mut same) = caption("unchanged") else { panic!("a caption") };
    let event = EventId { run: RUN, sequence: 5 };
    same.unchanged = Some(Unchanged { since: SystemTime::now(), event });
    journal.append("gate".into(), Body::Caption(same));
    journal.append("hall".into(), status());
    drop(journal);

    let journal = begin(&folder, RUN + 1);
    let newest = || {
        let newest = journal.newest();
        newest.iter().map(|event| (event.id.run, event.id.sequence)).collect::<Vec<_>>()
    };
    assert_eq!(newest(), [(RUN, 3), (RUN, 5)]);
    journal.append("yard".into(), caption("newer"));
    journal.append("yard".into(), status());
    journal.flush();
    assert_eq!(newest(), [(RUN, 5), (RUN + 1, 1), (RUN + 1, 2)]);
}

#[test]
fn a_journal_of_version_1_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let event = MemoryJournal::new(RUN, 1).append("gate".into(), caption("kept"));
    fs::create_dir(settings(&folder).folder).unwrap();
    let connection = rusqlite::Connection::open(settings(&folder).folder.join(FILE)).unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection
        .execute(
            "INSERT INTO events (run, sequence, uuid, published_ms, camera, kind, text, body) \
             VALUES (?, 1, zeroblob(16), 0, 'gate', 1, 'kept', ?)",
            rusqlite::params![values::integer(RUN), crate::wire::encode::event_bytes(&event)],
        )
        .unwrap();
    drop(connection);
    let journal = begin(&folder, RUN + 1);
    assert_eq!(journal.trouble(), None);
    assert_eq!(journal.get(Some(RUN), 1).map(|event| event.id.sequence), Some(1));
    assert_eq!(journal.newest().len(), 1);
    journal.acknowledge("mqtt", EventId { run: RUN, sequence: 1 });
    drop(journal);
    let journal = begin(&folder, RUN + 2);
    assert_eq!(journal.acknowledged("mqtt").map(|id| id.sequence), Some(1));
}

#[tokio::test]
async fn pages_and_filters_select_events() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["one", "two", "three"]);
    let journal = begin(&folder, RUN + 1);
    journal.append("yard".into(), status());
    journal.flush();
    let page = journal.list(Query { limit: 3, ..everything() }).await.unwrap();
    let ids: Vec<_> = page.events.iter().map(|event| (event.id.run, event.id.sequence)).collect();
    assert_eq!(ids, [(RUN + 1, 1), (RUN, 3), (RUN, 2)]);
    assert!(page.more);
    let before = Some(page.events[2].id);
    let page = journal.list(Query { before, ..everything() }).await.unwrap();
    assert_eq!((page.events.len(), page.more), (1, false));
    let filters = [
        EventFilter { cameras: vec!["yard".into()], ..EventFilter::default() },
        EventFilter { kinds: vec![EventKind::CameraStatus], ..EventFilter::default() },
    ];
    for filter in filters {
        let page = journal.list(Query { filter, ..everything() }).await.unwrap();
        assert_eq!(page.events.len(), 1);
        assert_eq!(&*page.events[0].camera, "yard");
    }
    let future = Some(SystemTime::now() + Duration::from_secs(60));
    let filter = EventFilter { since: future, ..EventFilter::default() };
    assert!(journal.list(Query { filter, ..everything() }).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn texts_are_found_by_their_words() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["Two red cars wait at the gate.", "A red bus.", "A dog runs after a car."];
    write(&folder, RUN, &texts);
    let journal = begin(&folder, RUN + 1);
    let Body::Caption(mut unchanged) = caption("unchanged") else { panic!("a caption") };
    let since = SystemTime::now();
    unchanged.unchanged = Some(Unchanged { since, event: EventId { run: RUN, sequence: 1 } });
    journal.append("gate".into(), Body::Caption(unchanged));
    journal.flush();
    let search = async |words: &str| {
        let page = journal.search(searched(words)).await.unwrap();
        page.hits.iter().map(|hit| hit.event.id.sequence).collect::<Vec<_>>()
    };
    assert_eq!(search("red car").await, [1]);
    assert_eq!(search("\"red bus\"").await, [2]);
    assert!(search("\"bus red\"").await.is_empty());
    assert!(search("unchanged").await.is_empty());
    assert!(search("NOT dog) *").await.is_empty(), "operators are words");
    let mut cars = search("car").await;
    cars.sort_unstable();
    assert_eq!(cars, [1, 3]);
    let page = journal.search(searched("dog")).await.unwrap();
    assert_eq!(page.hits[0].snippet, "A [dog] runs after a car.");
    assert!(page.hits[0].score > 0.0 && page.hits[0].words_rank == Some(1));
    assert_eq!((page.mode, page.coverage.meaning), (SearchMode::Words, None));
    let filter = EventFilter { cameras: vec!["yard".into()], ..EventFilter::default() };
    let page = journal.search(SearchQuery { filter, ..searched("dog") }).await.unwrap();
    assert!(page.hits.is_empty());
    let none = journal.search(searched(" \"\" - ")).await;
    assert_eq!(none, Err(QueryError::NoWord));
    let mode = Some(SearchMode::Meaning);
    let none = journal.search(SearchQuery { mode, ..searched("dog") }).await;
    assert_eq!(none, Err(QueryError::NoModel));
}

#[tokio::test]
async fn pages_of_a_common_word_contain_every_match_once() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..2_300)
        .map(|number| match number % 7 {
            0 => "A car, a red car and a blue car.".into(),
            1 => "A dog.".into(),
            _ => format!("A car drives past number {number}."),
        })
        .collect();
    write(&folder, RUN, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let journal = begin(&folder, RUN + 1);
    let mut found = Vec::new();
    let mut more = true;
    while more {
        let offset = found.len();
        let query = SearchQuery { offset, limit: 190, ..searched("car") };
        let page = journal.search(query).await.unwrap();
        more = page.more;
        found.extend(page.hits.iter().map(|hit| (hit.event.id.sequence, hit.score)));
    }
    let mut ids: Vec<u64> = found.iter().map(|(id, _)| *id).collect();
    // The best of the newest 500 come first, the newest of them before the others.
    let newest = (1..=2_300).rev().find(|id| (id - 1) % 7 == 0).unwrap();
    assert_eq!(ids[..2], [newest, newest - 7]);
    assert!(found.is_sorted_by(|a, b| a.1 >= b.1), "{found:?}");
    assert!(ids[..1_000].iter().all(|id| *id > 1_000), "{ids:?}");
    ids.sort_unstable();
    assert_eq!(ids, (1..=2_300).filter(|id| (id - 1) % 7 != 1).collect::<Vec<_>>());
}

#[test]
fn old_events_and_their_texts_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["old one", "old two"]);
    let mut database = Database::open(&settings(&folder).folder).unwrap();
    let memory = MemoryJournal::new(RUN + 1, 4_000);
    let limit = SystemTime::now();
    let events: Vec<_> =
        (0..2_000).map(|_| memory.append("gate".into(), caption("young"))).collect();
    database.append(events.iter().map(|event| (&**event, Vec::new()))).unwrap();
    assert_eq!(database.delete_before(limit), Ok(2));
    assert_eq!(database.delete_before(limit), Ok(0));
    let readers = Readers::new(&settings(&folder).folder);
    let found = |words: &'static str| {
        let read = |c: &rusqlite::Connection| words::find(c, words, &EventFilter::default(), 10);
        readers.read_here(read).unwrap().len()
    };
    assert_eq!((found("old"), found("young")), (0, 10));
    let before = database.bytes().unwrap();
    assert_eq!(database.delete_over(before), Ok(0));
    assert_eq!(database.delete_over(before - 1), Ok(1_000));
    assert!(database.bytes().unwrap() < before);
}

#[tokio::test]
async fn a_corrupt_file_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["lost"]);
    let file = settings(&folder).folder.join(FILE);
    fs::write(&file, "no database, but long enough to look like one".repeat(100)).unwrap();
    let journal = begin(&folder, RUN + 1);
    let trouble = journal.trouble().unwrap();
    assert!(trouble.contains("set aside as") && trouble.contains(".corrupt-"), "{trouble}");
    let event = journal.append("gate".into(), caption("kept"));
    journal.flush();
    let page = journal.list(everything()).await.unwrap();
    assert_eq!(page.events, [event]);
    let names = fs::read_dir(settings(&folder).folder).unwrap();
    let aside = names.filter(|name| {
        name.as_ref().unwrap().file_name().to_string_lossy().starts_with("events.sqlite.corrupt-")
    });
    assert!(aside.count() >= 1);
}

#[tokio::test]
async fn without_its_folder_the_journal_continues_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    // A file is where the folder should be.
    fs::write(folder.path().join("journal"), "").unwrap();
    let journal = begin(&folder, RUN);
    assert!(journal.trouble().unwrap().contains("events are not stored"));
    let mut cursor = journal.read_from(None, 1);
    let event = journal.append("gate".into(), caption("in memory"));
    assert_eq!(cursor.try_next(), Some(Read::Event(event.clone())));
    assert_eq!(journal.list(everything()).await.unwrap().events, std::slice::from_ref(&event));
    // It recovers, and stores what memory has.
    fs::remove_file(folder.path().join("journal")).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while journal.trouble().is_some() {
        assert!(std::time::Instant::now() < deadline, "{:?}", journal.trouble());
        std::thread::sleep(Duration::from_millis(50));
        journal.append("gate".into(), status());
    }
    journal.flush();
    drop(journal);
    let journal = begin(&folder, RUN + 1);
    assert_eq!(journal.get(Some(RUN), 1), Some(event));
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["one"]);
    let file = settings(&folder).folder.join(FILE);
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let trouble = begin(&folder, RUN + 2).trouble().unwrap();
    assert!(trouble.contains("version 99") && trouble.contains("newer lookout"), "{trouble}");
}
