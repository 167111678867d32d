//! Events that are kept or deleted on request.

use super::jpegs::{FRAME_BYTES, jpegs, stored};
use super::*;
use crate::event_store::database::Database;

const PLANTED: &str = "zirconium";

fn id(sequence: u64) -> EventId {
    EventId { run: RUN, sequence }
}

/// A span that all windows overlap.
fn always() -> Span {
    Span { from: SystemTime::UNIX_EPOCH, to: SystemTime::now() + Duration::from_secs(3600) }
}

fn of(camera: &str) -> Deletion {
    Deletion { span: always(), cameras: vec![camera.into()], include_kept: false }
}

/// Returns the files of the journal's folder that contain a word.
fn files_with(folder: &TempDir, word: &str) -> Vec<String> {
    let files = fs::read_dir(settings(folder).folder).unwrap().map(|file| file.unwrap().path());
    let found = files.filter(|file| {
        let bytes = fs::read(file).unwrap();
        bytes.windows(word.len()).any(|part| part == word.as_bytes())
    });
    found.map(|file| file.display().to_string()).collect()
}

#[tokio::test]
async fn a_kept_event_and_its_frames_survive_retention() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    for first in 0..3 {
        journal.append_with_jpegs("gate".into(), caption("a car"), jpegs(first..first + 2));
    }
    journal.flush();
    let kept = journal.keep(id(2), true).await.unwrap();
    assert!(kept.kept && kept.id == id(2));
    assert_eq!(journal.get(None, 2), Some(kept.clone()), "memory has the mark, too");
    assert_eq!(journal.keep(id(9), true).await, Err(QueryError::NoEvent(id(9))));
    drop(journal);

    let database = Database::open(&settings(&folder).folder).unwrap();
    let later = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(database.delete_before(later), Ok(2));
    assert_eq!(database.delete_over(1), Ok(0));
    assert_eq!(database.jpeg_totals(), Ok((2, 2 * FRAME_BYTES as u64)));
    drop(database);

    let journal = begin(&folder, RUN + 1);
    assert_eq!(journal.list(everything()).await.unwrap().events, [kept]);
    assert!(stored(&journal, 1).await.is_some() && stored(&journal, 2).await.is_some());
    // The reader learns that events around it are gone.
    let mut cursor = journal.read_from(Some(RUN), 1);
    assert_eq!(cursor.next().await, Read::Missed(Some(1)));
    assert_eq!(position(cursor.next().await), (RUN, 2));
    assert!(!journal.keep(id(2), false).await.unwrap().kept);
    drop(journal);
    let database = Database::open(&settings(&folder).folder).unwrap();
    assert_eq!(database.delete_before(later), Ok(1));
    assert_eq!(database.jpeg_totals(), Ok((0, 0)));
}

#[tokio::test]
async fn kept_events_take_at_most_half_of_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let small = Settings { bytes: 1 << 20, ..settings(&folder) };
    let journal = EventStore::open(small).unwrap().journal(RUN).unwrap();
    for first in [0, 30] {
        let body = caption("a car");
        journal.append_with_jpegs("gate".into(), body, jpegs(first..first + 30));
    }
    journal.flush();
    assert!(journal.keep(id(1), true).await.is_ok());
    let refused = journal.keep(id(2), true).await.unwrap_err();
    assert!(matches!(refused, QueryError::TooMuchKept { most: 524_288, .. }), "{refused}");
    assert!(!journal.get(None, 2).unwrap().kept);
    assert!(journal.keep(id(1), false).await.is_ok());
    assert!(journal.keep(id(2), true).await.is_ok());
}

#[tokio::test]
async fn a_deletion_leaves_no_byte_of_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    let text = |number: u64| format!("a {PLANTED} car {number}");
    for number in 0..250 {
        let body = caption(&text(number));
        journal.append_with_jpegs("gate".into(), body, jpegs([number, number + 1]));
        journal.append("yard".into(), caption("a quiet dog"));
    }
    journal.flush();
    journal.keep(id(1), true).await.unwrap();
    assert!(!files_with(&folder, PLANTED).is_empty());
    let mut live = journal.read_from(None, 1);

    // A reader that has read, but does not read, keeps nothing.
    let hits = async || {
        let page = journal.search(SearchQuery { limit: 500, ..searched(PLANTED) }).await;
        page.unwrap().hits.len()
    };
    assert_eq!(hits().await, 250);
    let deleted = journal.delete(of("gate")).await.unwrap();
    assert_eq!(
        deleted,
        Deleted { events: 249, jpegs: 249, kept_events: 1, more: false, buffer_frames: 0 }
    );
    assert_eq!(hits().await, 1);
    let all = Deletion { include_kept: true, ..of("gate") };
    let deleted = journal.delete(all).await.unwrap();
    assert_eq!(
        deleted,
        Deleted { events: 1, jpegs: 2, kept_events: 0, more: false, buffer_frames: 0 }
    );
    assert_eq!(hits().await, 0);
    assert_eq!(files_with(&folder, PLANTED), Vec::<String>::new());
    // The index has stems.
    assert_eq!(files_with(&folder, &PLANTED[..7]), Vec::<String>::new());

    // The other camera's events are left, in memory and on disk.
    assert_eq!(live.next().await, Read::Missed(Some(1)));
    assert_eq!(position(live.next().await), (RUN, 2));
    assert!(journal.get(None, 1).is_none());
    drop((live, journal));
    let journal = begin(&folder, RUN + 1);
    let query = Query { limit: 1000, ..everything() };
    assert_eq!(journal.list(query).await.unwrap().events.len(), 250);
    assert_eq!(stored(&journal, 0).await, None);
}

#[tokio::test]
async fn a_deletion_is_about_windows_and_not_about_times_of_publication() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
    for (from, to) in [(0, 10), (10, 20), (20, 30), (30, 40)] {
        let Body::Caption(mut one) = caption("a car") else { panic!("a caption") };
        one.inference.window = Span { from: at(from), to: at(to) };
        journal.append("gate".into(), Body::Caption(one));
    }
    journal.append("gate".into(), status());
    journal.flush();
    let span = Span { from: at(10), to: at(25) };
    let deletion = Deletion { span, cameras: Vec::new(), include_kept: false };
    assert_eq!(journal.delete(deletion).await.unwrap().events, 2);
    let left = journal.list(everything()).await.unwrap().events;
    let left: Vec<_> = left.iter().map(|event| event.id.sequence).collect();
    assert_eq!(left, [5, 4, 1]);
}

#[tokio::test]
async fn without_a_disk_changes_are_refused_and_events_are_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("journal"), "").unwrap();
    let journal = begin(&folder, RUN);
    journal.append("gate".into(), caption("a car"));
    let refused = journal.keep(id(1), true).await.unwrap_err();
    assert!(matches!(refused, QueryError::Unwritable(_)), "{refused}");
    let refused = journal.delete(of("gate")).await.unwrap_err();
    assert!(matches!(refused, QueryError::Unwritable(_)), "{refused}");
    assert!(journal.get(None, 1).is_some());
}
