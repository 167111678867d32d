//! Events whose times do not rise, because the host's clock was set.

use super::super::read::{Rows, first_since, list};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_span_of_time_is_found_across_steps_of_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(&settings(&folder).folder).unwrap();
    let mut database = Database::open(&settings(&folder).folder).unwrap();
    let memory = MemoryJournal::new(RUN, 1_000);
    let start = SystemTime::UNIX_EPOCH + 1_000 * HOUR;
    // The clock runs for 3 h, is set back by 2 h, runs for 4 h, and is set forward by 10 h.
    let hours = (0..12).map(|quarter| 0.25 * f64::from(quarter));
    let hours = hours.chain((0..16).map(|quarter| 1.0 + 0.25 * f64::from(quarter)));
    let hours: Vec<f64> = hours.chain([15.0, 15.25, 15.5]).collect();
    let times: Vec<SystemTime> = hours.iter().map(|hours| start + HOUR.mul_f64(*hours)).collect();
    let events: Vec<Event> = times
        .iter()
        .map(|time| Event {
            published_at: *time,
            ..(*memory.append("gate".into(), caption("a car"))).clone()
        })
        .collect();
    database.append(events.iter().map(|event| (event, Vec::new()))).unwrap();
    let readers = Readers::new(&settings(&folder).folder);
    for since in (0..70).map(|quarter| start - HOUR / 10 + quarter * HOUR / 4) {
        for until in [None, Some(since + HOUR), Some(since + 6 * HOUR)] {
            let filter = EventFilter { since: Some(since), until, ..EventFilter::default() };
            let expected: Vec<u64> = events
                .iter()
                .filter(|event| filter.wants(event))
                .map(|event| event.id.sequence)
                .collect();
            let query = Query { filter: filter.clone(), before: None, limit: 100 };
            let page = readers.read_here(|connection| list(connection, &query)).unwrap();
            let mut found: Vec<_> = page.events.iter().map(|event| event.id.sequence).collect();
            found.reverse();
            assert_eq!(found, expected, "{filter:?}");
            let hits = readers.read_here(|c| words::find(c, "car", &filter, 100)).unwrap();
            assert_eq!(hits.len(), expected.len(), "{filter:?}");
            let first = readers.read_here(|connection| first_since(connection, since)).unwrap();
            let all = events.iter().find(|event| event.published_at >= since);
            assert_eq!(first, all.map(|event| event.id));
        }
    }
    // The rows before the span are not read.
    let since = Some(start + HOUR.mul_f64(15.1));
    let filter = EventFilter { since, ..EventFilter::default() };
    let rows = readers.read_here(|connection| Rows::of(connection, &filter)).unwrap();
    assert_eq!(rows.after, 28);
}
