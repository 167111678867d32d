//! Files that are damaged, removed or locked while the journal is in use.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn database(folder: &TempDir) -> PathBuf {
    settings(folder).folder.join(FILE)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the journal reports a problem that contains some words.
fn wait_for_trouble(journal: &dyn Journal, words: &str) {
    let said = || journal.trouble().unwrap_or_default();
    wait_until(words, || said().contains(words));
}

/// Reads all events. Returns their positions, and whether the journal said that some are missing.
async fn read_all(journal: &dyn Journal) -> (Vec<(u64, u64)>, bool) {
    let last = journal.append("gate".into(), caption("the last one"));
    let (mut cursor, mut found, mut missed) = (journal.read_from(None, 0), Vec::new(), false);
    while found.last() != Some(&(last.id.run, last.id.sequence)) {
        match cursor.next().await {
            Read::Event(event) => found.push((event.id.run, event.id.sequence)),
            Read::Missed(_) => missed = true,
        }
    }
    (found, missed)
}

/// Returns every event that the journal lists, from the oldest.
async fn listed(journal: &dyn Journal) -> Vec<u64> {
    let page = journal.list(Query { limit: 100_000, ..everything() }).await.unwrap();
    let mut ids: Vec<_> = page.events.iter().map(|event| event.id.sequence).collect();
    ids.reverse();
    ids
}

fn write_many(folder: &TempDir, run: u64) {
    let texts: Vec<String> = (0..3_000).map(|number| format!("caption {number}")).collect();
    write(folder, run, &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Overwrites pages in the middle of the file.
fn damage(folder: &TempDir, pages: usize) {
    let file = OpenOptions::new().write(true).open(database(folder)).unwrap();
    let middle = file.metadata().unwrap().len() / 2 / 4096 * 4096;
    file.write_all_at(&vec![0xa5; pages * 4096], middle).unwrap();
}

#[tokio::test]
async fn a_damaged_page_in_the_middle_is_noticed_and_the_other_events_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    write_many(&folder, RUN);
    let journal = begin(&folder, RUN);
    let kept = EventId { run: RUN, sequence: 20 };
    journal.keep(kept, true).await.unwrap();
    journal.acknowledge("mqtt", EventId { run: RUN, sequence: 2_900 });
    drop(journal);
    damage(&folder, 64);
    let journal = begin(&folder, RUN + 1);
    assert_eq!(journal.trouble(), None, "both ends of the file are whole");
    let (found, missed) = read_all(&*journal).await;
    assert!(missed, "{} events were read", found.len());
    assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    // With an inner page of a table, everything below it is lost.
    assert!(found.len() > 1_000 && found.len() < 3_000, "{} events", found.len());
    wait_for_trouble(&*journal, "set aside as");
    // What memory holds is stored in the new file, once.
    let event = journal.append("gate".into(), caption("after it"));
    journal.flush();
    let listed = listed(&*journal).await;
    assert_eq!(listed.len(), found.len() + 1);
    assert_eq!(listed[listed.len() - 2..], [1, event.id.sequence]);
    assert!(journal.trouble().unwrap().contains("damaged page"), "it stays visible");
    assert!(journal.get(Some(RUN), 20).unwrap().kept);
    assert!(!journal.search(searched("2999")).await.unwrap().hits.is_empty());
    drop(journal);
    let journal = begin(&folder, RUN + 2);
    assert_eq!(journal.acknowledged("mqtt"), Some(EventId { run: RUN, sequence: 2_900 }));
    let span = Span { from: SystemTime::UNIX_EPOCH, to: SystemTime::now() + HOUR };
    let all = Deletion { span, cameras: Vec::new(), include_kept: false };
    assert_eq!(journal.delete(all).await.unwrap().kept_events, 1);
}

#[tokio::test]
async fn what_earlier_runs_left_is_known_even_if_the_file_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = EventId { run: RUN, sequence: 1 };
    let journal = begin(&folder, RUN);
    journal.append("gate".into(), caption("the last one"));
    journal.acknowledge("mqtt", acknowledged);
    journal.flush();
    let file = settings(&folder).folder;
    wait_until("the position", || {
        open::look_into(&file).unwrap().positions == [("mqtt".to_owned(), acknowledged)]
    });
    drop(journal);
    // The log is gone now.
    let earlier = open::look_into(&file).unwrap();
    assert_eq!(earlier.positions, [("mqtt".to_owned(), acknowledged)]);
    assert_eq!((earlier.newest, earlier.captions.len()), (Some(RUN), 1));
    assert!(!file.join(format!("{FILE}-wal")).exists(), "it was written");
}

#[tokio::test]
async fn a_file_that_is_cut_short_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    write_many(&folder, RUN);
    let journal = begin(&folder, RUN + 1);
    journal.append("gate".into(), status());
    journal.flush();
    let file = OpenOptions::new().write(true).open(database(&folder)).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    wait_for_trouble(&*journal, "set aside as");
    journal.append("gate".into(), status());
    journal.flush();
    let listed = listed(&*journal).await;
    let (earlier, of_this_run) = listed.split_at(listed.len() - 2);
    assert_eq!(of_this_run, [1, 2]);
    assert!(earlier.len() > 500 && earlier.is_sorted_by(|a, b| a < b), "{listed:?}");
}

#[test]
fn a_file_is_replaced_when_nobody_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["one"]);
    let readers = Arc::new(Readers::new(&settings(&folder).folder));
    let (in_the_read, has_begun) = std::sync::mpsc::sync_channel(1);
    let (go_on, may_end) = std::sync::mpsc::sync_channel(1);
    let (ended, order) = std::sync::mpsc::sync_channel(2);
    let reader = std::thread::spawn({
        let (readers, ended) = (readers.clone(), ended.clone());
        move || {
            let read = |connection: &rusqlite::Connection| {
                in_the_read.send(()).unwrap();
                may_end.recv().unwrap();
                ended.send("read").unwrap();
                let count =
                    connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0));
                Ok(count?)
            };
            let count: i64 = readers.read_here(read).unwrap();
            count
        }
    });
    has_begun.recv().unwrap();
    let replacing = std::thread::spawn({
        let readers = readers.clone();
        move || readers.replace(|| ended.send("replaced").unwrap())
    });
    wait_until("the replacement", || readers.read_here(|_| Ok(())).is_err());
    std::thread::sleep(Duration::from_millis(100));
    go_on.send(()).unwrap();
    assert_eq!(reader.join().unwrap(), 1);
    replacing.join().unwrap();
    assert_eq!(order.iter().take(2).collect::<Vec<_>>(), ["read", "replaced"]);
    assert!(readers.read_here(|_| Ok(())).is_ok());
}

#[test]
fn a_corrupt_file_stays_in_its_place_until_a_new_one_can_be_made() {
    let folder = tempfile::tempdir().unwrap();
    write_many(&folder, RUN);
    let folder_of_journal = settings(&folder).folder;
    // SQLite can make no new database with it in the way.
    let obstacle = folder_of_journal.join(format!("{FILE}-journal"));
    fs::create_dir(&obstacle).unwrap();
    let before = EventId { run: RUN + 1, sequence: 1 };
    let open = || open::open(&folder_of_journal, Some("a reason"), before);
    assert!(open().is_err());
    fs::remove_dir(&obstacle).unwrap();
    let notice = open().unwrap().notice.unwrap_or_default();
    assert!(notice.contains(": a reason; 3000 of its events were copied"), "{notice}");
}

#[tokio::test]
async fn a_removed_or_replaced_database_is_noticed() {
    for replaced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, RUN, &["an old one"]);
        let other = tempfile::tempdir().unwrap();
        write(&other, RUN - 1, &["of another file"]);
        let journal = begin(&folder, RUN + 1);
        let mut reader = journal.read_from(Some(RUN), 1);
        assert_eq!(position(reader.next().await), (RUN, 1));
        let mut late = journal.read_from(Some(RUN), 2);
        journal.append("gate".into(), status());
        journal.flush();
        if replaced {
            fs::rename(database(&other), database(&folder)).unwrap();
        } else {
            fs::remove_dir_all(&settings(&folder).folder).unwrap();
        }
        wait_for_trouble(&*journal, "removed while it was in use");
        journal.append("gate".into(), status());
        journal.flush();
        wait_until("both events to be stored", || {
            journal.flush();
            let found = rusqlite::Connection::open(database(&folder)).unwrap().query_row(
                "SELECT count(*) FROM events WHERE run = ?",
                [RUN as i64 + 1],
                |row| row.get(0),
            );
            found == Ok(2)
        });
        // The rest of the earlier run may have had more events.
        assert_eq!(late.next().await, Read::Missed(None));
        assert_eq!(position(late.next().await), (RUN + 1, 1));
    }
}

#[tokio::test]
async fn a_removed_log_loses_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    for _ in 0..20 {
        journal.append("gate".into(), status());
    }
    journal.flush();
    fs::remove_file(settings(&folder).folder.join(format!("{FILE}-wal"))).unwrap();
    wait_until("a new log", || settings(&folder).folder.join(format!("{FILE}-wal")).exists());
    journal.append("gate".into(), status());
    journal.flush();
    drop(journal);
    let journal = begin(&folder, RUN + 1);
    assert_eq!(listed(&*journal).await, (1..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_are_stored_late_when_another_program_locks_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    journal.append("gate".into(), caption("stored"));
    journal.flush();
    let other = rusqlite::Connection::open(database(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut live = journal.read_new();
    let event = journal.append("gate".into(), caption("locked out"));
    let begun = Instant::now();
    assert_eq!(live.next().await, Read::Event(event.clone()));
    assert!(begun.elapsed() < Duration::from_secs(10), "a reader waits for the lock");
    wait_for_trouble(&*journal, "locked");
    // Events that are in memory only are listed before those on disk.
    assert_eq!(listed(&*journal).await, [1, 2]);
    let limit = Query { limit: 1, ..everything() };
    let page = journal.list(limit.clone()).await.unwrap();
    assert_eq!((&page.events[..], page.more), (&[event.clone()][..], true));
    let page = journal.list(Query { before: Some(event.id), ..limit }).await.unwrap();
    assert_eq!((page.events[0].id.sequence, page.more), (1, false));
    other.execute_batch("ROLLBACK").unwrap();
    wait_until("the journal to recover", || journal.trouble().is_none());
    assert_eq!(listed(&*journal).await, [1, 2]);
    drop(journal);
    let journal = begin(&folder, RUN + 1);
    assert_eq!(listed(&*journal).await, [1, 2]);
}

#[test]
fn a_disk_without_space_is_reported_until_a_new_event_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    // More events than one transaction stores again after the error.
    for _ in 0..700 {
        journal.append("gate".into(), status());
    }
    journal.flush();
    let other = rusqlite::Connection::open(database(&folder)).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN new.sequence > 700 BEGIN \
             SELECT RAISE (ABORT, 'the disk is full'); END",
        )
        .unwrap();
    journal.append("gate".into(), status());
    wait_for_trouble(&*journal, "the disk is full");
    // Storing is tried again after five seconds.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(journal.trouble().is_some(), "the journal reports no trouble");
        std::thread::sleep(Duration::from_millis(1));
    }
    other.execute_batch("DROP TRIGGER full").unwrap();
    wait_until("the journal to recover", || journal.trouble().is_none());
    let count: i64 = other.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 701);
}

#[test]
fn a_folder_is_refused_while_another_journal_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    let error = EventStore::open(settings(&folder)).err().unwrap().to_string();
    let process = format!("process {}", std::process::id());
    assert!(error.contains(&process) && error.contains("configure another"), "{error}");
    drop(journal);
    assert!(EventStore::open(settings(&folder)).is_ok());
}

#[tokio::test]
async fn readers_get_every_event_once_while_others_are_appended() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, RUN, &["one", "two", "three"]);
    let journal = begin(&folder, RUN + 1);
    // More than memory holds, so that a reader moves from the disk to memory, and back if it is
    // overtaken.
    let total = journal::CAPACITY as u64 + 3_000;
    let appender = std::thread::spawn({
        let journal = journal.clone();
        move || {
            for number in 0..total {
                journal.append("gate".into(), status());
                if number % 512 == 0 {
                    journal.flush();
                }
            }
        }
    });
    let read = async |mut cursor: Box<dyn Cursor>, pause: u64| {
        let mut expected: Vec<(u64, u64)> = (1..=3).map(|sequence| (RUN, sequence)).collect();
        expected.extend((1..=total).map(|sequence| (RUN + 1, sequence)));
        for position_of in expected {
            assert_eq!(position(cursor.next().await), position_of);
            if pause > 0 && position_of.1 % pause == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(cursor.is_at_end());
    };
    let cursor = || journal.read_from(None, 0);
    tokio::join!(read(cursor(), 0), read(cursor(), 700), read(cursor(), 90));
    appender.join().unwrap();
}
