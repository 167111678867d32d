//! JPEGs that are stored with events.

use super::*;
use crate::event_store::jpegs::JpegQueue;
use crate::frame::FrameId;

pub const FRAME_BYTES: usize = 10_000;

fn jpeg(number: u64) -> EventJpeg {
    let frame = FrameId { run: RUN, number };
    EventJpeg { frame, jpeg: vec![number as u8; FRAME_BYTES].into() }
}

pub fn jpegs(numbers: impl IntoIterator<Item = u64>) -> Vec<EventJpeg> {
    numbers.into_iter().map(jpeg).collect()
}

pub async fn stored(journal: &Arc<dyn Journal>, number: u64) -> Option<Vec<u8>> {
    journal.jpeg("gate".into(), FrameId { run: RUN, number }).await.unwrap()
}

#[tokio::test]
async fn a_frame_of_two_events_is_stored_once_and_outlives_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN);
    for first in [0, 4] {
        journal.append_with_jpegs("gate".into(), caption("a car"), jpegs(first..first + 8));
    }
    journal.append_with_jpegs("yard".into(), caption("a dog"), jpegs([0]));
    journal.flush();
    drop(journal);
    let journal = begin(&folder, RUN + 1);
    for number in 0..12 {
        assert_eq!(stored(&journal, number).await.as_deref(), Some(&*jpeg(number).jpeg));
    }
    assert_eq!(stored(&journal, 12).await, None);
    drop(journal);
    let database = Database::open(&settings(&folder).folder).unwrap();
    assert_eq!(database.jpeg_totals(), Ok((13, 13 * FRAME_BYTES as u64)));
}

#[tokio::test]
async fn frames_go_with_the_last_event_that_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let memory = MemoryJournal::new(RUN, 100);
    let event = |text| memory.append("gate".into(), caption(text));
    let (old, limit) = (event("old"), SystemTime::now());
    std::thread::sleep(Duration::from_millis(5));
    let young = event("young");
    fs::create_dir(&settings(&folder).folder).unwrap();
    let mut database = Database::open(&settings(&folder).folder).unwrap();
    let events = [(&*old, jpegs(0..8)), (&*young, jpegs(4..12))];
    assert_eq!(database.append(events.into_iter()).map(|new| new.frames), Ok(12));
    assert_eq!(database.delete_before(limit + Duration::from_millis(2)), Ok(1));
    assert_eq!(database.jpeg_totals(), Ok((8, 8 * FRAME_BYTES as u64)));
    let readers = Readers::new(&settings(&folder).folder);
    let read = |number| {
        let frame = FrameId { run: RUN, number };
        readers.read_here(|c| crate::event_store::jpegs::get(c, "gate", frame)).unwrap()
    };
    assert!(read(3).is_none() && read(4).is_some());
}

#[tokio::test]
async fn a_database_that_is_too_large_loses_old_jpegs_before_it_loses_events() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(&settings(&folder).folder).unwrap();
    let mut database = Database::open(&settings(&folder).folder).unwrap();
    let memory = MemoryJournal::new(RUN, 100);
    let events: Vec<_> = (0..100).map(|_| memory.append("gate".into(), caption("a car"))).collect();
    let with_jpegs =
        events.iter().zip(0..).map(|(event, at)| (&**event, jpegs([2 * at, 2 * at + 1])));
    assert_eq!(database.append(with_jpegs).map(|new| new.frames), Ok(200));
    let bytes = database.bytes().unwrap();
    assert_eq!(database.delete_over(bytes - 20 * FRAME_BYTES as u64), Ok(0));
    let (frames, _) = database.jpeg_totals().unwrap();
    assert!((100..=180).contains(&frames), "{frames}");
    assert!(database.bytes().unwrap() <= bytes - 20 * FRAME_BYTES as u64);
    let readers = Readers::new(&settings(&folder).folder);
    let read = |number| {
        let frame = FrameId { run: RUN, number };
        readers.read_here(|c| crate::event_store::jpegs::get(c, "gate", frame)).unwrap()
    };
    assert!(read(0).is_none() && read(199).is_some(), "the newest frames stay");
    // Without JPEGs, the events go.
    assert_eq!(database.delete_over(1), Ok(100));
    assert_eq!(database.jpeg_totals(), Ok((0, 0)));
}

#[test]
fn a_full_queue_drops_the_jpegs_of_the_oldest_event() {
    let mut queue = JpegQueue::new(4 * FRAME_BYTES);
    queue.push(1, jpegs([1, 2]));
    queue.push(2, Vec::new());
    queue.push(4, jpegs([3, 4]));
    assert_eq!((queue.of(1).len(), queue.of(4).len()), (2, 2));
    queue.push(5, jpegs([5]));
    assert_eq!((queue.of(1).len(), queue.of(2).len(), queue.of(4).len()), (0, 0, 2));
    assert_eq!(queue.remove(4), 2);
    assert_eq!((queue.of(4).len(), queue.of(5)), (0, jpegs([5])));
}

#[tokio::test]
async fn jpegs_wait_in_memory_while_the_disk_fails() {
    let folder = tempfile::tempdir().unwrap();
    // A file is where the folder should be.
    fs::write(folder.path().join("journal"), "").unwrap();
    let journal = begin(&folder, RUN);
    journal.append_with_jpegs("gate".into(), caption("a car"), jpegs([7]));
    fs::remove_file(folder.path().join("journal")).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while journal.trouble().is_some() {
        assert!(std::time::Instant::now() < deadline, "{:?}", journal.trouble());
        std::thread::sleep(Duration::from_millis(50));
    }
    journal.flush();
    assert_eq!(stored(&journal, 7).await.as_deref(), Some(&*jpeg(7).jpeg));
}
