//! Tests of what a folder keeps: across restarts, damage, changes by others, and wrong clocks.

use proptest::prelude::*;

use super::super::record::tests::record;
use super::*;
use crate::disk::age::Now;
use crate::disk::inspection::inspect;

const BOUNDS: Bounds = Bounds { retention: Duration::from_secs(3600), bytes: 1 << 20 };
const FIRST: u64 = 1_700_000_000;

type Found = Vec<(Record, DiskAddress)>;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn now(uptime: u64, wall: u64) -> Now {
    Now { uptime: seconds(uptime), wall: SystemTime::UNIX_EPOCH + seconds(wall) }
}

/// Returns what is left of an earlier run, the oldest first.
fn restored(folder: &mut Folder) -> Found {
    let mut found = Vec::new();
    while let Some(mut records) = folder.restore() {
        records.append(&mut found);
        found = records;
    }
    found
}

fn open(path: &Path, bounds: Bounds) -> (Folder, Found) {
    let mut folder = Folder::open(path, bounds, 1, Duration::ZERO).expect("opens");
    let found = restored(&mut folder);
    (folder, found)
}

fn jpeg(number: u64) -> Vec<u8> {
    vec![number as u8; 1000 + number as usize % 7]
}

/// Writes frames; frame `number` is taken and written at second `number` of the run.
fn write(folder: &mut Folder, numbers: std::ops::Range<u64>) -> Vec<(u64, DiskAddress)> {
    let mut write = |number| {
        let written = folder.append(&record("gate", number), &jpeg(number), seconds(number));
        written.expect("written")
    };
    numbers.map(|number| (number, write(number))).collect()
}

fn of_run(run: u64, number: u64) -> Record {
    let mut record = record("gate", number);
    record.id.run = run;
    record
}

fn numbers(found: &Found) -> Vec<u64> {
    found.iter().map(|(record, _)| record.id.number).collect()
}

fn sizes(path: &Path) -> u64 {
    let files = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry"));
    files.map(|file| file.metadata().expect("metadata").len()).sum()
}

/// Replaces a segment's file by a folder, which not even root can read or delete as a file.
fn spoil(path: &Path, segment: u64) {
    let file = frames_file(path, segment);
    fs::remove_file(&file).expect("the segment");
    fs::create_dir(&file).expect("a folder");
}

#[test]
fn written_frames_are_restored_at_the_next_start() {
    let dir = temporary();
    let (mut folder, found) = open(dir.path(), BOUNDS);
    assert!(found.is_empty() && !folder.more_before());
    let first = write(&mut folder, 0..100);
    assert!(Folder::open(dir.path(), BOUNDS, 1, Duration::ZERO).is_err(), "two daemons");
    // Inspecting is allowed and changes nothing.
    let before = sizes(dir.path());
    let looked = inspect(dir.path()).expect("looked");
    assert_eq!((looked.frames, looked.in_use, looked.unreadable.len()), (100, true, 0));
    assert_eq!(sizes(dir.path()), before);
    drop(folder);
    let (mut folder, found) = open(dir.path(), BOUNDS);
    let second = write(&mut folder, 100..120);
    assert_ne!(first[99].1.segment, second[0].1.segment);
    for (number, address) in first.iter().chain(&second) {
        let read = folder.read("gate", record("gate", *number).id, *address);
        assert_eq!(read.expect("whole"), jpeg(*number));
    }
    let wanted: Found =
        first.iter().map(|(number, address)| (record("gate", *number), *address)).collect();
    assert_eq!(found, wanted);
    let wrong = folder.read("yard", record("gate", 5).id, first[5].1);
    assert!(wrong.is_err_and(|error| error.to_string().contains("another frame")));
}

#[test]
fn the_oldest_segments_are_deleted_for_space() {
    let dir = temporary();
    let small = Bounds { bytes: 64 << 10, ..BOUNDS };
    let (mut folder, _) = open(dir.path(), small);
    let mut gone = None;
    for number in 0..300 {
        let address = write(&mut folder, number..number + 1)[0].1;
        gone = folder.take_gone().last().copied().or(gone);
        assert!(folder.bytes() <= 64 << 10, "{} bytes", folder.bytes());
        assert!(sizes(dir.path()) <= folder.bytes());
        assert!(gone.is_none_or(|gone| gone < address.segment));
    }
    // At most one segment's worth of space is unused.
    assert!(folder.bytes() > (64 << 10) * 7 / 8, "{} bytes", folder.bytes());
    folder.close();
    assert_eq!(folder.bytes(), sizes(dir.path()));
    drop(folder);
    let (folder, found) = open(dir.path(), small);
    assert_eq!(folder.bytes(), sizes(dir.path()));
    assert!(folder.more_before());
    assert_eq!(found.first().map(|(_, address)| address.segment), gone.map(|n| n + 1));
    assert_eq!(numbers(&found).last(), Some(&299));
}

#[test]
fn expired_frames_are_deleted_and_numbering_continues() {
    let dir = temporary();
    let short = Bounds { retention: seconds(160), ..BOUNDS };
    let (mut folder, _) = open(dir.path(), short);
    write(&mut folder, 0..300);
    let mut left = 0;
    for uptime in 300..400 {
        folder.expire(now(uptime, FIRST + uptime));
        let gone = folder.take_gone().len();
        left += gone;
    }
    let oldest = frames_file(dir.path(), left as u64 + 1);
    assert!(left > 10 && oldest.exists() && !frames_file(dir.path(), left as u64).exists());
    drop(folder);
    // The daemon restarts at once, and no camera delivers.
    let mut folder = Folder::open(dir.path(), short, 1, Duration::ZERO).expect("opens");
    let found = restored(&mut folder);
    let oldest = found.first().expect("frames").0.monotonic;
    assert!(oldest >= seconds(400 - 160 - 11), "{oldest:?}");
    for uptime in 0..200 {
        folder.expire(now(uptime, FIRST + 400 + uptime));
        assert!(folder.take_gone().len() <= 1, "of earlier runs, one at a time");
    }
    assert!(folder.segments.is_empty(), "{folder:?}");
    let next = write(&mut folder, 300..301)[0].1.segment;
    assert!(next > left as u64 + 1, "{next}");
}

#[test]
fn a_wrong_clock_deletes_nothing() {
    let dir = temporary();
    let day = Bounds { retention: seconds(86_400), ..BOUNDS };
    let (mut folder, _) = open(dir.path(), day);
    write(&mut folder, 0..100);
    // While it runs, the host's clock is set by two days, and then by 73 years.
    for uptime in 100..1200 {
        folder.expire(now(uptime, FIRST + uptime + 2 * 86_400));
    }
    for uptime in 1200..2300 {
        folder.expire(now(uptime, 4_070_908_800 + uptime));
    }
    assert_eq!(folder.take_gone(), [0; 0]);
    drop(folder);
    // The next run starts in 2099 and writes frames of 2099. Then the clock is corrected.
    let (mut folder, _) = open(dir.path(), day);
    for uptime in 0..1000 {
        folder.expire(now(uptime, 4_070_908_800 + uptime));
    }
    let mut odd = of_run(1_700_000_000_001, 0);
    odd.captured_at = SystemTime::UNIX_EPOCH + seconds(4_070_908_800);
    folder.append(&odd, &jpeg(0), seconds(1000)).expect("written");
    for uptime in 1000..3000 {
        folder.expire(now(uptime, FIRST + 5000 + uptime));
    }
    let later = of_run(1_700_000_000_001, 1);
    folder.append(&later, &jpeg(1), seconds(3000)).expect("written");
    assert_eq!(folder.take_gone(), [0; 0]);
    drop(folder);
    let (mut folder, found) = open(dir.path(), day);
    assert_eq!(found.len(), 102);
    for uptime in 0..2000 {
        folder.expire(now(uptime, FIRST + 10_000 + uptime));
    }
    assert_eq!(folder.take_gone(), [0; 0]);
}

#[test]
fn frames_that_expired_while_stopped_are_deleted_once_the_clock_is_trusted() {
    let dir = temporary();
    let (mut folder, _) = open(dir.path(), BOUNDS);
    write(&mut folder, 0..100);
    drop(folder);
    let (mut folder, _) = open(dir.path(), BOUNDS);
    let mut gone = 0;
    for uptime in 0..1000 {
        folder.expire(now(uptime, FIRST + 20_000 + uptime));
        gone += folder.take_gone().len();
        assert_eq!(gone > 0, uptime >= 900, "{uptime} s");
    }
    assert!(folder.segments.is_empty());
}

#[test]
fn a_segment_that_cannot_be_deleted_is_set_aside_and_the_next_is_deleted() {
    let dir = temporary();
    let small = Bounds { bytes: 64 << 10, retention: seconds(160) };
    let (mut folder, _) = open(dir.path(), small);
    write(&mut folder, 0..40);
    spoil(dir.path(), 1);
    // Deletion for age.
    for uptime in 160..190 {
        folder.expire(now(uptime, FIRST + uptime));
    }
    assert_eq!(folder.take_gone()[..2], [1, 2]);
    assert!(frames_file(dir.path(), 1).exists() && !frames_file(dir.path(), 2).exists());
    let aside = |files: &[&str]| Aside {
        undeletable: files.iter().map(|file| file.to_string()).collect(),
        ..Aside::default()
    };
    assert_eq!(folder.aside(), aside(&["000000000001.frames"]));
    // Deletion for room; writing continues.
    write(&mut folder, 190..300);
    assert!(folder.bytes() <= 64 << 10);
    assert!(folder.take_gone().len() > 2 && folder.aside().undeletable.len() == 1);
    // Deletion is retried, but not every second.
    fs::remove_dir(frames_file(dir.path(), 1)).expect("deletable");
    folder.expire(now(301, FIRST + 301));
    assert_eq!(folder.aside().undeletable.len(), 1);
    folder.expire(now(900, FIRST + 900));
    assert_eq!(folder.aside(), Aside::default());
}

#[test]
fn if_no_segment_can_be_deleted_the_limit_holds_and_the_reason_is_reported() {
    let dir = temporary();
    let small = Bounds { bytes: 32 << 10, ..BOUNDS };
    let (mut folder, _) = open(dir.path(), small);
    write(&mut folder, 0..20);
    folder.segments.iter().for_each(|segment| spoil(dir.path(), segment.number));
    let mut refused = None;
    for number in 20..60 {
        let written = folder.append(&record("gate", number), &jpeg(number), seconds(20));
        refused = written.err().or(refused);
        assert!(folder.bytes() <= 32 << 10);
    }
    let refused = refused.expect("no room").to_string();
    assert!(refused.contains("cannot be deleted"), "{refused}");
    // Once they can be deleted, the next write succeeds at once.
    for segment in &folder.segments {
        let _ = fs::remove_dir(frames_file(dir.path(), segment.number));
    }
    write(&mut folder, 60..70);
}

#[test]
fn a_segment_that_cannot_be_read_is_set_aside_and_the_others_are_restored() {
    let dir = temporary();
    let small = Bounds { bytes: 64 << 10, ..BOUNDS };
    let (mut folder, _) = open(dir.path(), small);
    let places = write(&mut folder, 0..40);
    let newest = places[39].1.segment;
    drop(folder);
    spoil(dir.path(), 2);
    // A file of another program or of another version.
    fs::write(frames_file(dir.path(), 3), b"LKF1, and what then stood there").expect("written");
    let (mut folder, found) = open(dir.path(), small);
    let others = |address: &DiskAddress| address.segment != 2 && address.segment != 3;
    let wanted: Vec<_> =
        places.iter().filter(|(_, address)| others(address)).map(|(n, _)| *n).collect();
    assert!(wanted.len() > 20);
    assert_eq!(numbers(&found), wanted);
    let aside = folder.aside();
    assert_eq!(aside.unreadable, ["000000000002.frames", "000000000003.frames"]);
    let looked = {
        drop(folder);
        let looked = inspect(dir.path()).expect("looked");
        (folder, _) = open(dir.path(), small);
        looked
    };
    assert_eq!((looked.frames, looked.unreadable), (wanted.len() as u64, aside.unreadable));
    assert!(frames_file(dir.path(), 3).exists());
    assert_eq!(write(&mut folder, 100..101)[0].1.segment, newest + 1);
}

#[test]
fn a_complete_segment_is_restored_from_its_index_alone() {
    let dir = temporary();
    let (mut folder, _) = open(dir.path(), Bounds { bytes: 64 << 10, ..BOUNDS });
    let places = write(&mut folder, 0..40);
    folder.close();
    drop(folder);
    // All headers and JPEGs are overwritten.
    for number in segment::numbers(dir.path()).expect("numbers").0 {
        let file = frames_file(dir.path(), number);
        let size = fs::metadata(&file).expect("the segment").len();
        fs::write(&file, vec![0; size as usize]).expect("overwritten");
    }
    let (folder, found) = open(dir.path(), BOUNDS);
    assert_eq!(numbers(&found), (0..40).collect::<Vec<_>>());
    let read = folder.read("gate", record("gate", 3).id, places[3].1);
    assert!(read.is_err_and(|error| error.kind() == ErrorKind::InvalidData));
}

#[test]
fn a_missing_or_damaged_index_is_rebuilt() {
    let dir = temporary();
    let (mut folder, _) = open(dir.path(), BOUNDS);
    write(&mut folder, 0..10);
    drop(folder);
    let index = index_file(dir.path(), 1);
    assert!(!index.exists(), "as after kill -9");
    let (folder, found) = open(dir.path(), BOUNDS);
    drop(folder);
    let whole = fs::read(&index).expect("an index");
    fs::write(&index, &whole[..whole.len() - 9]).expect("cut off");
    let (folder, again) = open(dir.path(), BOUNDS);
    assert_eq!((found.len(), &again), (10, &found));
    assert_eq!(fs::read(&index).expect("an index"), whole);
    drop(folder);
    // An index without its segment is deleted.
    fs::remove_file(frames_file(dir.path(), 1)).expect("the segment");
    let (_, found) = open(dir.path(), BOUNDS);
    assert!(found.is_empty() && !index.exists());
}

#[test]
fn more_frames_than_memory_may_hold_stay_on_disk() {
    let dir = temporary();
    let bounds = Bounds { bytes: 256 << 10, ..BOUNDS };
    let (mut folder, _) = open(dir.path(), bounds);
    folder.frames_most = 60;
    write(&mut folder, 0..100);
    assert!(folder.frames <= 60 + 16, "{} frames", folder.frames);
    let gone = folder.take_gone();
    assert!(gone.len() > 1 && gone.iter().all(|n| frames_file(dir.path(), *n).exists()));
    assert!(folder.more_before());
    drop(folder);
    let mut folder = Folder::open(dir.path(), bounds, 1, Duration::ZERO).expect("opens");
    folder.frames_most = 60;
    let found = restored(&mut folder);
    assert!(found.len() > 30 && found.len() <= 60, "{} frames", found.len());
    assert_eq!(numbers(&found).last(), Some(&99));
    assert!(folder.more_before());
    // Frames that cannot be queried are deleted in time anyway.
    for uptime in 0..5000 {
        folder.expire(now(uptime, FIRST + 100 + uptime));
    }
    assert!(folder.segments.is_empty());
}

#[test]
fn a_folder_or_a_segment_that_somebody_deletes_is_noticed() {
    let dir = temporary();
    let path = dir.path().join("frames");
    let (mut folder, _) = open(&path, BOUNDS);
    write(&mut folder, 0..3);
    assert!(folder.is_there() && !folder.notice_deleted());
    fs::remove_file(frames_file(&path, 1)).expect("the segment");
    assert!(folder.is_there() && folder.notice_deleted());
    assert_eq!((folder.take_gone(), folder.bytes()), (vec![1], 0));
    assert_eq!(write(&mut folder, 3..4)[0].1.segment, 2);
    fs::rename(&path, dir.path().join("elsewhere")).expect("moved");
    assert!(!folder.is_there());
    fs::create_dir(&path).expect("another");
    assert!(!folder.is_there());
    folder.forget_all();
    assert_eq!(folder.take_gone(), [2]);
    let mut folder = Folder::open(&path, BOUNDS, folder.next(), seconds(4)).expect("opens");
    assert_eq!(write(&mut folder, 4..5)[0].1.segment, 3);
}

#[test]
fn damage_loses_only_the_affected_frames() {
    let dir = temporary();
    let (mut folder, _) = open(dir.path(), BOUNDS);
    let places = write(&mut folder, 0..30);
    drop(folder);
    let file = frames_file(dir.path(), 1);
    let mut bytes = fs::read(&file).expect("the segment");
    // Damages one JPEG and then one header.
    bytes[places[4].1.offset as usize + 200] ^= 1;
    let at = places[10].1.offset as usize;
    bytes[at + 20] ^= 1;
    fs::write(&file, &bytes).expect("damaged");
    let found = segment::read(dir.path(), 1, &mut Names::default());
    let End::Damaged(dropped, _) = found.end else { panic!("{found:?}") };
    assert_eq!(dropped, (bytes.len() - at) as u64 + u64::from(places[4].1.length));
    let (folder, found) = open(dir.path(), BOUNDS);
    assert_eq!(numbers(&found), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let read = folder.read("gate", record("gate", 10).id, places[10].1);
    assert!(read.is_err_and(|error| error.kind() == ErrorKind::InvalidData));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_truncated_write_loses_only_its_own_frame(whole in 1u64..12, cut in 0usize..2200) {
        let dir = temporary();
        let (mut folder, _) = open(dir.path(), BOUNDS);
        let places = write(&mut folder, 0..whole);
        let file = frames_file(dir.path(), 1);
        drop(folder);
        let bytes = fs::read(&file).expect("the segment");
        let kept = bytes.len().saturating_sub(cut);
        fs::write(&file, &bytes[..kept]).expect("cut off");
        let complete = |address: &DiskAddress| address.offset as usize + address.length as usize <= kept;
        let wanted = places.iter().filter(|(_, address)| complete(address)).count();
        let (mut folder, found) = open(dir.path(), BOUNDS);
        prop_assert_eq!(found.len(), wanted);
        // The next run writes in an intact segment.
        let next = write(&mut folder, 100..103);
        drop(folder);
        let (folder, found) = open(dir.path(), BOUNDS);
        prop_assert_eq!(found.len(), wanted + 3);
        let read = folder.read("gate", record("gate", 101).id, next[1].1);
        prop_assert_eq!(read.expect("whole"), jpeg(101));
    }
}
