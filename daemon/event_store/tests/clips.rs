//! Clips that are stored with alerts.

use super::*;
use crate::event::{Alert, AlertClip, AlertPhase, AlertUpdate, ClipState, Severity};
use crate::event_store::{clips, read, salvage};
use crate::journal::CLIP_CHUNK;

/// Returns an event of an alert that says that its clip is in a state.
fn alert(alert_id: &str, state: ClipState) -> Body {
    let Body::Caption(Caption { inference, .. }) = caption("") else { unreachable!() };
    let window = inference.window;
    // The clip begins before the alert's window.
    let span = Span { from: window.from - Duration::from_secs(60), to: window.to };
    Body::Alert(Alert {
        alert_id: alert_id.into(),
        rule: "car".into(),
        severity: Severity::Warning,
        phase: AlertPhase::Update,
        question: "Is there a car?".into(),
        score: 0.9,
        peak_score: 0.9,
        window,
        coverage: inference.coverage,
        frames: Vec::new(),
        started_at: window.to,
        ended_at: None,
        end_reason: None,
        scored_windows: 1,
        unknown_windows: 0,
        curve: Vec::new(),
        acknowledgement: None,
        update: Some(AlertUpdate::Clip),
        description: None,
        clip: Some(AlertClip { state, span: Some(span), ..AlertClip::pending() }),
    })
}

/// Returns a file of some bytes.
fn file(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

/// Returns the clip of an alert as the journal has it.
async fn stored(journal: &Arc<dyn Journal>, alert_id: &str) -> Vec<u8> {
    let mut clip = Vec::new();
    for number in 0.. {
        let Some(chunk) = journal.clip_chunk(alert_id.into(), number).await.unwrap() else { break };
        assert!(chunk.len() <= CLIP_CHUNK);
        clip.extend_from_slice(&chunk);
    }
    clip
}

/// Stores a clip with the event that says that it is ready. Returns the event.
async fn store(journal: &Arc<dyn Journal>, alert_id: &str, bytes: usize) -> Arc<Event> {
    journal.store_clip(alert_id.into(), file(bytes)).await.unwrap();
    journal.append("gate".into(), alert(alert_id, ClipState::Ready))
}

#[tokio::test]
async fn a_clip_is_stored_in_chunks_and_outlives_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    // One chunk, exactly two, several steps.
    let sizes = [1, 2 * CLIP_CHUNK, 20 * CLIP_CHUNK + 5];
    for journal in [begin(&folder, RUN), Arc::new(MemoryJournal::new(RUN, 100))] {
        for bytes in sizes {
            journal.append("gate".into(), alert(&bytes.to_string(), ClipState::Pending));
            store(&journal, &bytes.to_string(), bytes).await;
        }
        for bytes in sizes {
            assert!(stored(&journal, &bytes.to_string()).await == file(bytes), "{bytes}");
        }
        assert!(stored(&journal, "unknown").await.is_empty());
        journal.flush();
    }
    let journal = begin(&folder, RUN + 1);
    for bytes in sizes {
        assert!(stored(&journal, &bytes.to_string()).await == file(bytes), "{bytes}");
    }
}

#[tokio::test]
async fn a_clip_whose_event_was_not_stored_is_deleted_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    journal.store_clip("lost".into(), file(9)).await.unwrap();
    journal.append("gate".into(), alert("lost", ClipState::Pending));
    assert_eq!(stored(&journal, "lost").await, file(9));
    journal.flush();
    drop(journal);
    let journal = begin(&folder, RUN + 1);
    assert!(stored(&journal, "lost").await.is_empty());
}

#[tokio::test]
async fn deleting_the_time_of_a_clip_deletes_it() {
    let folder = tempfile::tempdir().unwrap();
    for journal in [begin(&folder, RUN), Arc::new(MemoryJournal::new(RUN, 100))] {
        let event = store(&journal, "gone", 10).await;
        journal.flush();
        let clip = event.body.window().unwrap();
        let delete = |from, to| {
            let span = Span { from, to };
            journal.delete(Deletion { span, cameras: Vec::new(), include_kept: false })
        };
        let second = Duration::from_secs(1);
        assert_eq!(delete(clip.from - second, clip.from).await.unwrap().events, 0);
        assert_eq!(stored(&journal, "gone").await, file(10));
        // The alert's own window is a minute later.
        assert_eq!(delete(clip.from, clip.from + second).await.unwrap().events, 1);
        assert!(stored(&journal, "gone").await.is_empty());
    }
}

#[tokio::test]
async fn a_clip_is_kept_with_any_event_of_its_alert() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    let first = journal.append("gate".into(), alert("kept", ClipState::Pending));
    for id in ["kept", "other"] {
        store(&journal, id, 3 * CLIP_CHUNK).await;
    }
    journal.flush();
    assert!(journal.keep(first.id, true).await.unwrap().kept);
    drop(journal);
    let database = Database::open(&settings(&folder).folder).unwrap();
    // The clip of the other alert goes first, then its event.
    let bytes = database.bytes().unwrap();
    assert_eq!(database.delete_over(bytes - CLIP_CHUNK as u64), Ok(0));
    let chunk = |id: &str| clips::chunk(&database.connection, id, 0).unwrap();
    assert!(chunk("kept").is_some() && chunk("other").is_none());
    assert_eq!(database.delete_over(1), Ok(1));
    assert!(chunk("kept").is_some());
    assert!(read::get(&database.connection, first.id).unwrap().is_some());
    drop(database);

    let journal = begin(&folder, RUN + 1);
    journal.keep(first.id, false).await.unwrap();
    drop(journal);
    let database = Database::open(&settings(&folder).folder).unwrap();
    database.delete_over(1).unwrap();
    assert!(clips::chunk(&database.connection, "kept", 0).unwrap().is_none());
}

#[tokio::test]
async fn a_clip_that_is_ready_after_its_alert_was_kept_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    for id in ["kept", "other"] {
        let first = journal.append("gate".into(), alert(id, ClipState::Pending));
        journal.flush();
        if id == "kept" {
            journal.keep(first.id, true).await.unwrap();
        }
        store(&journal, id, 3 * CLIP_CHUNK).await;
    }
    journal.flush();
    drop(journal);
    let database = Database::open(&settings(&folder).folder).unwrap();
    database.delete_over(1).unwrap();
    let chunk = |id: &str| clips::chunk(&database.connection, id, 0).unwrap();
    assert!(chunk("kept").is_some() && chunk("other").is_none());
}

#[tokio::test]
async fn kept_clips_are_copied_from_a_corrupt_file() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    let mut first = Vec::new();
    for id in ["kept", "damaged", "other"] {
        let Body::Alert(of_alert) = alert(id, ClipState::Ready) else { unreachable!() };
        let bytes = 3 * CLIP_CHUNK as u64;
        let clip = of_alert.clip.clone().map(|clip| AlertClip { bytes, ..clip });
        first.push(journal.append("gate".into(), alert(id, ClipState::Pending)));
        journal.store_clip(id.into(), file(3 * CLIP_CHUNK)).await.unwrap();
        journal.append("gate".into(), Body::Alert(Alert { clip, ..of_alert }));
    }
    journal.flush();
    for event in &first[..2] {
        journal.keep(event.id, true).await.unwrap();
    }
    drop(journal);
    let path = settings(&folder).folder;
    let corrupt = path.join("corrupt.sqlite");
    fs::rename(path.join(FILE), &corrupt).unwrap();
    let source = rusqlite::Connection::open(&corrupt).unwrap();
    let damaged = "DELETE FROM clip_chunks WHERE number = 1 AND clip = \
                   (SELECT id FROM clips WHERE alert_id = 'damaged')";
    assert_eq!(source.execute(damaged, []), Ok(1));
    drop(source);

    let mut database = Database::open(&path).unwrap();
    let copied = salvage::copy(&corrupt, &mut database, EventId { run: RUN + 1, sequence: 1 });
    assert!(copied.starts_with("6 of its events were copied"), "{copied}");
    drop(database);
    let journal = begin(&folder, RUN + 1);
    assert!(stored(&journal, "kept").await == file(3 * CLIP_CHUNK));
    assert!(stored(&journal, "damaged").await.is_empty(), "a part of a clip cannot be played");
    assert!(stored(&journal, "other").await.is_empty(), "only kept clips are copied");
    drop(journal);
    let database = Database::open(&path).unwrap();
    database.delete_over(1).unwrap();
    assert!(clips::chunk(&database.connection, "kept", 0).unwrap().is_some());
}

#[tokio::test]
async fn kept_clips_count_toward_the_limit_of_kept_events() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { bytes: 4 << 20, ..settings(&folder) };
    let journal = EventStore::open(settings).unwrap().journal(RUN).unwrap();
    let event = store(&journal, "large", 3 << 20).await;
    journal.flush();
    let error = journal.keep(event.id, true).await.unwrap_err();
    assert!(matches!(error, QueryError::TooMuchKept { .. }), "{error}");
}
