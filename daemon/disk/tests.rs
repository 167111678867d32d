//! Tests of the disk thread as a whole: frames of earlier runs, and a folder that is removed.

use std::collections::HashSet;
use std::fs;
use std::thread;

use super::record::tests::record;
use super::*;
use crate::frame::Span;

const BOUNDS: Bounds = Bounds { retention: Duration::from_secs(3600), bytes: 1 << 20 };

/// Records the notifications, like the timeline.
#[derive(Default)]
struct Heard {
    stored: Mutex<Vec<(u64, Option<DiskAddress>)>>,
    gone: Mutex<HashSet<u64>>,
    restored: Mutex<Vec<Entry>>,
    restoring: Mutex<bool>,
}

impl DiskEvents for Heard {
    fn progressed(&self) {}

    fn stored(&self, _: &str, id: FrameId, address: Option<DiskAddress>) {
        self.stored.lock().expect("whole").push((id.number, address));
    }

    fn segment_gone(&self, segment: u64) {
        self.gone.lock().expect("whole").insert(segment);
    }

    fn restored(&self, _: &str, mut entries: Vec<Entry>) {
        let mut restored = self.restored.lock().expect("whole");
        entries.append(&mut restored);
        *restored = entries;
    }

    fn restoring(&self, more: bool) {
        *self.restoring.lock().expect("whole") = more;
    }
}

impl Heard {
    /// Waits until a frame is reported and returns its address.
    fn address(&self, number: u64) -> Option<DiskAddress> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let stored = self.stored.lock().expect("whole");
            if let Some((_, address)) = stored.iter().find(|(stored, _)| *stored == number) {
                return *address;
            }
            drop(stored);
            thread::yield_now();
        }
        panic!("frame {number} is not reported");
    }
}

fn written(number: u64) -> WriteRequest {
    WriteRequest { record: record("gate", number), jpeg: vec![number as u8; 500].into() }
}

#[test]
fn earlier_runs_are_reported_in_order_and_overflow_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let small = Bounds { bytes: 32 << 10, ..BOUNDS };
    let mut folder = Folder::open(dir.path(), small, 1, Duration::ZERO).expect("opens");
    for number in 0..100 {
        let WriteRequest { record, jpeg } = written(number);
        folder.append(&record, &jpeg, Duration::ZERO).expect("written");
    }
    drop(folder);
    let problem = Arc::<DiskProblem>::default();
    let mut disk = Disk::open(dir.path().into(), small, problem.clone());
    assert_eq!(disk.newest_run(), Some(record("gate", 0).id.run));
    let heard = Heard::default();
    disk.restore(&heard, Duration::ZERO);
    assert!(*heard.restoring.lock().expect("whole"));
    assert!(problem.get().is_some_and(|why| why.contains("still being read")), "{problem:?}");
    disk.restore(&heard, Duration::from_secs(20));
    assert!(!*heard.restoring.lock().expect("whole"));
    assert_eq!(problem.get(), None);
    let restored = heard.restored.lock().expect("whole");
    let first = restored[0].id.number;
    let numbers: Vec<_> = restored.iter().map(|entry| entry.id.number).collect();
    assert_eq!(numbers, (first..100).collect::<Vec<_>>());
    assert!(first > 30 && restored[0].left_before.is_some());
    assert!(
        !restored[1..].iter().any(|entry| entry.left_before.is_some() && entry.id.number % 3 != 1)
    );
}

#[test]
fn a_deleted_folder_is_created_again_and_its_frames_are_forgotten() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("frames");
    let disk = Disk::open(path.clone(), BOUNDS, Arc::default());
    let (queue, heard) = (Queue::new(8, 8), Heard::default());
    thread::scope(|scope| {
        scope.spawn(|| disk.run(&queue, &heard));
        assert!(queue.write(written(0)));
        let first = heard.address(0).expect("written");
        fs::remove_dir_all(&path).expect("taken away");
        // The removal is noticed without a failed write.
        let begun = Instant::now();
        while !heard.gone.lock().expect("whole").contains(&first.segment) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is not noticed");
            thread::yield_now();
        }
        assert!(queue.write(written(1)));
        let second = heard.address(1).expect("written");
        assert!(second.segment > first.segment, "{second:?} after {first:?}");
        // A frame that no record can hold is not stored; the next one is.
        let mut odd = written(2);
        odd.record.captured_at = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(queue.write(odd) && queue.write(written(3)));
        assert_eq!(heard.address(2), None);
        assert!(heard.address(3).is_some());
        queue.close();
    });
    assert!(segment::index_file(&path, 2).exists(), "what is complete has its index");
}

/// Opens 1,600 segments of 64 MiB with 1.7 million frames of 16 cameras. The files are sparse and
/// need no disk space.
///
/// `cargo test --lib hundred_gib -- --nocapture` prints how long that takes.
#[test]
fn a_start_with_a_hundred_gib_is_ready_before_all_is_restored() {
    const LENGTH: u64 = 63_000;
    let dir = tempfile::tempdir().expect("a folder");
    let mut number = 0;
    for segment in 1..=1600 {
        let mut index = index::Builder::default();
        for offset in (0..64 << 20).step_by(LENGTH as usize).take_while(|at| at + LENGTH < 64 << 20)
        {
            let camera = format!("camera-{}", number % 16);
            index.push(
                &record(&camera, number),
                DiskAddress { segment, offset, length: LENGTH as u32 },
            );
            number += 1;
        }
        let file = fs::File::create(segment::frames_file(dir.path(), segment)).expect("a segment");
        file.set_len(64 << 20).expect("sparse");
        segment::write_index(dir.path(), segment, 64 << 20, &index).expect("an index");
    }
    let bounds = Bounds { bytes: 110 << 30, ..BOUNDS };
    let (begun, heard) = (Instant::now(), Counted::default());
    let mut disk = Disk::open(dir.path().into(), bounds, Arc::default());
    let opened = begun.elapsed();
    // The start waits at most as long as the argument says, which is one second in the daemon.
    disk.restore(&heard, Duration::ZERO);
    assert_eq!((disk.restoring, *heard.0.lock().expect("whole")), (true, 0));
    disk.restore(&heard, Duration::from_secs(1));
    let ready = begun.elapsed();
    while disk.restoring {
        disk.restore(&heard, Duration::from_secs(1));
    }
    println!(
        "{} frames of {} bytes: opened after {opened:?}, ready after {ready:?}, whole after {:?}",
        heard.0.lock().expect("whole"),
        size_of::<Entry>(),
        begun.elapsed()
    );
    assert_eq!(*heard.0.lock().expect("whole"), number);
}

/// Counts the restored frames.
#[derive(Default)]
struct Counted(Mutex<u64>);

impl DiskEvents for Counted {
    fn progressed(&self) {}

    fn stored(&self, _: &str, _: FrameId, _: Option<DiskAddress>) {}

    fn segment_gone(&self, _: u64) {}

    fn restored(&self, _: &str, entries: Vec<Entry>) {
        *self.0.lock().expect("whole") += entries.len() as u64;
    }

    fn restoring(&self, _: bool) {}
}

/// Returns the numbers of the frames that a new start finds, with the reasons for gaps before them.
fn found_again(path: &std::path::Path) -> Vec<(u64, Option<GapCause>)> {
    let mut disk = Disk::open(path.into(), BOUNDS, Arc::default());
    let heard = Heard::default();
    disk.restore(&heard, Duration::from_secs(20));
    let restored = heard.restored.lock().expect("whole");
    restored.iter().map(|entry| (entry.id.number, entry.left_before)).collect()
}

#[test]
fn erased_frames_leave_no_byte_and_the_others_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("frames");
    let written = |camera: &str, number: u64| {
        let mut record = record(camera, number);
        record.missing_before = false;
        WriteRequest {
            record,
            jpeg: format!("JPEG {camera} {number} ").repeat(40).as_bytes().into(),
        }
    };
    let time = |number| record("gate", number).captured_at;
    let bytes = || -> Vec<u8> {
        let files = fs::read_dir(&path).expect("the folder");
        files.flat_map(|file| fs::read(file.expect("a file").path()).expect("bytes")).collect()
    };
    let holds = |camera: &str, number: u64| {
        let text = format!("JPEG {camera} {number} ");
        bytes().windows(text.len()).any(|window| window == text.as_bytes())
    };
    let erase = |queue: &Queue, from: u64, to: u64| {
        let (done, erased) = std::sync::mpsc::sync_channel(1);
        let span = Span { from: time(from), to: time(to) };
        let cameras = vec!["gate".to_owned()];
        let erasure = Erasure::new(span, cameras, move |result| done.send(result).expect("sent"));
        assert!(queue.erase(erasure));
        erased.recv_timeout(Duration::from_secs(20)).expect("a result")
    };
    // The folder is written by two runs of the thread, each with a segment of its own.
    for run in 0..2 {
        let disk = Disk::open(path.clone(), BOUNDS, Arc::default());
        let (queue, heard) = (Queue::new(100, 8), Heard::default());
        thread::scope(|scope| {
            scope.spawn(|| disk.run(&queue, &heard));
            for number in run * 10..run * 10 + 10 {
                assert!(
                    queue.write(written("gate", number)) && queue.write(written("yard", number))
                );
                heard.address(number).expect("written");
            }
            if run == 1 {
                // The end of the complete segment, and a frame of the growing one.
                assert_eq!(erase(&queue, 7, 10), Ok(3));
                assert_eq!(erase(&queue, 12, 13), Ok(1));
                assert_eq!(erase(&queue, 7, 10), Ok(0), "they are erased already");
                assert!(!holds("gate", 7) && !holds("gate", 9) && !holds("gate", 12));
                assert!(holds("gate", 6) && holds("gate", 11) && holds("yard", 8));
                assert!(queue.write(written("gate", 30)));
                heard.address(30).expect("written");
            }
            queue.close();
        });
    }
    let find = || -> Vec<_> {
        let numbers = found_again(&path).into_iter();
        numbers.filter(|(number, cause)| cause.is_some() || (5..14).contains(number)).collect()
    };
    let wanted = [5, 6, 10, 11, 13]
        .map(|number| (number, [10, 13].contains(&number).then_some(GapCause::Deleted)));
    let yard = (5..14).map(|number| (number, None));
    let mut expected: Vec<_> = wanted.into_iter().chain(yard).collect();
    let sorted = |mut frames: Vec<(u64, Option<GapCause>)>| {
        frames.sort_by_key(|(number, cause)| (*number, cause.is_none()));
        frames
    };
    expected = sorted(expected);
    assert_eq!(sorted(find()), expected);
    // Without the indexes, the records say the same.
    for file in fs::read_dir(&path).expect("the folder") {
        let file = file.expect("a file").path();
        if file.extension().is_some_and(|extension| extension == "index") {
            fs::remove_file(file).expect("removed");
        }
    }
    assert_eq!(sorted(find()), expected);
}
