//! The ring and its readers.

use super::*;
use crate::event::{CameraStatus, EventId};
use crate::frame::Span;
use crate::journal::EventFilter;

const RUN: u64 = 1_760_000_000_000;

fn body() -> Body {
    Body::CameraStatus(CameraStatus::connecting(SystemTime::UNIX_EPOCH))
}

fn sequence(read: Option<Read>) -> Option<u64> {
    match read {
        Some(Read::Event(event)) => Some(event.id.sequence),
        _ => None,
    }
}

#[test]
fn a_slow_reader_gets_the_number_of_missed_events() {
    let journal = MemoryJournal::shared(RUN, 3);
    let mut cursor = journal.read_from(None, 0);
    for _ in 0..5 {
        journal.append("gate".into(), body());
    }
    assert_eq!(cursor.try_next(), Some(Read::Missed(Some(2))));
    assert_eq!(sequence(cursor.try_next()), Some(3));
    assert_eq!(sequence(cursor.try_next()), Some(4));
    assert_eq!(sequence(cursor.try_next()), Some(5));
    assert_eq!(cursor.try_next(), None);
}

#[test]
fn a_reader_resumes_from_its_sequence() {
    let journal = MemoryJournal::shared(RUN, 10);
    for _ in 0..4 {
        journal.append("gate".into(), body());
    }
    assert_eq!(sequence(journal.read_from(None, 3).try_next()), Some(3));
    assert_eq!(journal.read_new().try_next(), None);
    assert_eq!(journal.read_new().position(), EventId { run: RUN, sequence: 5 });
    assert!(journal.read_new().is_at_end() && !journal.read_from(None, 3).is_at_end());
}

#[test]
fn a_reader_of_another_run_is_notified_and_reads_everything() {
    let journal = MemoryJournal::shared(RUN, 10);
    for _ in 0..8 {
        journal.append("gate".into(), body());
    }
    // A larger and a smaller sequence than this run has, and one beyond the next event.
    for (run, position) in [(RUN - 1, 501), (RUN - 1, 5), (RUN + 1, 1), (RUN, 10)] {
        let mut cursor = journal.read_from(Some(run), position);
        assert_eq!(cursor.try_next(), Some(Read::Missed(None)), "{run} {position}");
        assert_eq!(sequence(cursor.try_next()), Some(1), "{run} {position}");
        assert_eq!(journal.get(Some(run), position), None);
    }
    let mut cursor = journal.read_from(Some(RUN), 5);
    assert_eq!(sequence(cursor.try_next()), Some(5));
    assert_eq!(journal.get(Some(RUN), 5).map(|event| event.id.run), Some(RUN));
    assert_eq!(journal.get(None, 5).map(|event| event.id.sequence), Some(5));
    // A reader that has read everything waits for the next event.
    assert_eq!(journal.read_from(Some(RUN), 9).try_next(), None);
}

#[test]
fn the_newest_of_each_camera_that_readers_may_see_is_found() {
    let journal = MemoryJournal::new(RUN, 10);
    journal.hold_back(true);
    for camera in ["gate", "yard", "gate", "gate", "yard"] {
        journal.append(camera.into(), body());
    }
    let newest = |released| {
        journal.release(released);
        journal.newest().iter().map(|e| e.id.sequence).collect::<Vec<_>>()
    };
    assert!(newest(0).is_empty());
    assert_eq!(newest(1), [1]);
    assert_eq!(newest(3), [2, 3]);
    assert_eq!(newest(5), [4, 5]);
}

#[test]
fn the_newest_of_each_camera_outlives_the_ring() {
    let journal = MemoryJournal::shared(RUN, 2);
    for camera in ["yard", "gate", "yard", "gate", "gate", "gate"] {
        journal.append(camera.into(), body());
    }
    assert_eq!(journal.newest().iter().map(|e| e.id.sequence).collect::<Vec<_>>(), [3, 6]);
}

#[tokio::test]
async fn events_are_held_back_until_they_are_released() {
    let journal = MemoryJournal::new(RUN, 10_000);
    journal.hold_back(true);
    let mut cursor = journal.read_from(None, 1);
    journal.append("gate".into(), body());
    journal.append("gate".into(), body());
    assert!(cursor.is_at_end() && cursor.try_next().is_none());
    let Batch { events: waiting, dropped: missed, .. } = journal.after(0, 10);
    assert_eq!((waiting.len(), missed), (2, 0));
    journal.release(1);
    assert_eq!(sequence(Some(cursor.next().await)), Some(1));
    assert_eq!(cursor.try_next(), None);
    journal.hold_back(false);
    assert_eq!(sequence(cursor.try_next()), Some(2));
    journal.hold_back(true);
    for _ in 0..=HELD_MAX {
        journal.append("gate".into(), body());
    }
    assert_eq!(sequence(cursor.try_next()), Some(3), "too many events were held back");
}

#[tokio::test]
async fn events_are_listed_from_the_newest() {
    let journal = MemoryJournal::new(RUN, 10);
    for camera in ["gate", "yard", "gate", "gate"] {
        journal.append(camera.into(), body());
    }
    let filter = EventFilter { cameras: vec!["gate".into()], ..EventFilter::default() };
    let query = |before| Query { filter: filter.clone(), before, limit: 2 };
    let page = journal.list(query(None)).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.id.sequence).collect::<Vec<_>>(), [4, 3]);
    assert!(page.more);
    let page = journal.list(query(Some(EventId { run: RUN, sequence: 3 }))).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.id.sequence).collect::<Vec<_>>(), [1]);
    assert!(!page.more);
}

#[tokio::test]
async fn a_waiting_reader_wakes() {
    let journal = MemoryJournal::shared(RUN, 10);
    let mut cursor = journal.read_new();
    let reader = tokio::spawn(async move { cursor.next().await });
    tokio::task::yield_now().await;
    journal.append("gate".into(), body());
    assert_eq!(sequence(reader.await.ok()), Some(1));
}

#[tokio::test]
async fn deleted_events_are_missed_by_readers_and_found_by_nobody() {
    let journal = MemoryJournal::new(RUN, 10);
    for camera in ["gate", "yard", "yard", "gate"] {
        journal.append(camera.into(), body());
    }
    let mut cursor = journal.read_from(None, 0);
    let span =
        Span { from: SystemTime::UNIX_EPOCH, to: SystemTime::now() + Duration::from_secs(1) };
    let of = |camera: &str| Deletion { span, cameras: vec![camera.into()], include_kept: false };
    assert_eq!(journal.delete(of("yard")).await.unwrap().events, 2);
    assert_eq!(journal.delete(of("yard")).await.unwrap().events, 0);
    assert!(matches!(cursor.try_next(), Some(Read::Event(event)) if event.id.sequence == 1));
    assert_eq!(cursor.try_next(), Some(Read::Missed(Some(2))));
    assert!(matches!(cursor.try_next(), Some(Read::Event(event)) if event.id.sequence == 4));
    assert_eq!(cursor.try_next(), None);
    assert!(journal.get(None, 2).is_none() && journal.get(None, 4).is_some());
    assert!(journal.newest().iter().all(|event| &*event.camera == "gate"));
    let batch = journal.after(0, 3);
    assert_eq!((batch.events.len(), batch.dropped, batch.up_to), (1, 0, 3));
    // A reader at a deleted event continues behind it.
    assert_eq!(journal.delete(of("gate")).await.unwrap().events, 2);
    let event = journal.append("gate".into(), body());
    assert_eq!(cursor.try_next(), Some(Read::Event(event)));
}
