//! Implements `lookout bench journal`: the speed of the journal on disk.
//!
//! Everything runs in this process: the journal as the daemon has it, its gRPC server, and a client.

mod captions;
mod jpegs;
mod meaning;
mod search;
mod served;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use self::captions::Captions;
use self::meaning::{SearchedByMeaning, WordSums};
use self::search::Searched;
use self::served::Served;
use super::times::Times;
use crate::client::{self, Replayed};
use crate::event_store::{EventStore, MeaningSearch, Settings};
use crate::journal::{self, EventFilter, Journal, MemoryJournal, Query, Read, SearchMode};

/// Number of events that are appended before the benchmark waits for the disk. The journal holds
/// more in memory, so none is lost.
const CHUNK: u64 = 2_000;

/// Seconds that the disk may take for them.
const FLUSHES: u32 = 60;

/// Events per second that are appended during the replay, which it has to join.
const LIVE_RATE: u64 = 100;

/// Number of events of each side, and the time between two of them, when the delay is measured.
const DELAYED: usize = 200;
const DELAY_INTERVAL: Duration = Duration::from_millis(10);

/// Number of pages that are listed.
const PAGES: usize = 200;
const PAGE: usize = 50;

#[derive(Args)]
pub struct Options {
    /// Number of events.
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    events: u64,
    /// Folder for the journal, which is removed at the end. Default: the folder for temporary files.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Number of events that are stored with JPEGs, in a journal of their own.
    #[arg(long, value_name = "N", default_value_t = 5_000,
        value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    jpeg_events: u64,
    /// Bytes of a frame's JPEG. The delay of events is measured with the first value.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [47_000, 4_000])]
    jpeg_bytes: Vec<usize>,
    /// Folder of a sentence-embedding model, to time the vector of a query.
    #[arg(long, value_name = "DIR")]
    embedding: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    events: u64,
    append: Append,
    delay: Delay,
    to_wire: jpegs::ToWire,
    with_jpegs: Vec<jpegs::Stored>,
    replay: Replay,
    /// Time for a page of 50 events.
    list: Times,
    search: Searched,
    search_by_meaning: SearchedByMeaning,
    /// Time of the embedding model for a query, if a model was given.
    query_vector: Option<Times>,
}

#[derive(Serialize)]
struct Append {
    seconds: f64,
    events_per_second: f64,
    bytes_per_event: f64,
}

/// Time from appending an event until a waiting reader has it. One event at a time.
#[derive(Serialize)]
struct Delay {
    memory: Times,
    disk: Times,
}

/// Reading of the whole journal by `Watch`, over gRPC on loopback.
#[derive(Serialize)]
struct Replay {
    seconds: f64,
    events_per_second: f64,
    /// Number of events that were appended in the meantime, and followed without a gap.
    live: u64,
}

pub fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(options))?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Report> {
    let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("lookout-bench-").tempdir_in(&parent);
    let folder = folder.with_context(|| parent.display().to_string())?;
    let progress = |what: &str| {
        if !options.json {
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    };
    let mut captions = Captions::new();
    let journal = open(folder.path(), 1)?;

    progress("measuring the delay");
    let memory = delay(MemoryJournal::shared(1, journal::CAPACITY), &mut captions).await?;
    let delay = Delay { memory, disk: delay(journal.clone(), &mut captions).await? };

    let bytes = options.jpeg_bytes.first().copied().unwrap_or_default();
    let to_wire = jpegs::to_wire(folder.path(), bytes).await?;
    let mut with_jpegs = Vec::new();
    for bytes in &options.jpeg_bytes {
        progress(&format!("appending {} events with JPEGs", options.jpeg_events));
        with_jpegs.push(jpegs::store(folder.path(), options.jpeg_events, *bytes).await?);
    }

    progress(&format!("appending {} events", options.events));
    let append = append(&*journal, &mut captions, options.events, folder.path())?;
    // A new run of the daemon has nothing of it in memory.
    drop(journal);
    let journal = open(folder.path(), 2)?;

    progress("replaying them");
    let stored = options.events + DELAYED as u64;
    let replay = replay(&journal, captions, stored).await?;

    progress("listing and searching");
    let list = list(&*journal).await?;
    let search = search::measure(&*journal).await?;
    drop(journal);

    progress("making vectors");
    let journal = open_with_meaning(folder.path(), 3)?;
    let stored_seconds = meaning::complete(&*journal).await?;
    drop(journal);
    progress("loading them, and searching by meaning");
    let journal = open_with_meaning(folder.path(), 4)?;
    let loaded_seconds = meaning::complete(&*journal).await?;
    let search_by_meaning = SearchedByMeaning {
        captions: stored + replay.live,
        stored_seconds,
        loaded_seconds,
        meaning: meaning::measure(&*journal, SearchMode::Meaning).await?,
        fused: meaning::measure(&*journal, SearchMode::Fused).await?,
    };
    let model = options.embedding.as_deref();
    Ok(Report {
        events: options.events,
        append,
        delay,
        to_wire,
        with_jpegs,
        replay,
        list,
        search,
        search_by_meaning,
        query_vector: model.map(meaning::query_vector).transpose()?,
    })
}

fn open(folder: &Path, run: u64) -> anyhow::Result<Arc<dyn Journal>> {
    let journal = EventStore::open(settings(folder))?.journal(run)?;
    check(&*journal)?;
    Ok(journal)
}

fn open_with_meaning(folder: &Path, run: u64) -> anyhow::Result<Arc<dyn Journal>> {
    let meaning = MeaningSearch { embedder: Box::new(WordSums), bytes: u64::MAX };
    let journal = EventStore::open(settings(folder))?.with_meaning(meaning).journal(run)?;
    check(&*journal)?;
    Ok(journal)
}

fn settings(folder: &Path) -> Settings {
    let retention = Duration::from_secs(365 * 86_400);
    Settings { folder: folder.into(), retention, bytes: u64::MAX }
}

/// Returns an error if the journal does not store events.
fn check(journal: &dyn Journal) -> anyhow::Result<()> {
    journal.trouble().map_or(Ok(()), |trouble| Err(anyhow::anyhow!(trouble)))
}

async fn delay(journal: Arc<dyn Journal>, captions: &mut Captions) -> anyhow::Result<Times> {
    let mut reader = journal.read_new();
    let appender = tokio::task::spawn_blocking({
        let bodies: Vec<_> = (0..DELAYED).map(|_| captions.next()).collect();
        move || {
            let append = |(camera, body)| {
                std::thread::sleep(DELAY_INTERVAL);
                let at = Instant::now();
                journal.append(camera, body);
                at
            };
            bodies.into_iter().map(append).collect::<Vec<_>>()
        }
    });
    let mut seen = Vec::new();
    while seen.len() < DELAYED {
        ensure!(matches!(reader.next().await, Read::Event(_)), "an event is missing");
        seen.push(Instant::now());
    }
    let appended = appender.await.context("appender")?;
    let delays = seen.iter().zip(&appended).map(|(seen, at)| (*seen - *at).as_secs_f64());
    Times::of(delays.collect()).context("no event")
}

fn append(
    journal: &dyn Journal,
    captions: &mut Captions,
    events: u64,
    folder: &Path,
) -> anyhow::Result<Append> {
    let begun = Instant::now();
    let mut left = events;
    while left > 0 {
        let chunk = left.min(CHUNK);
        left -= chunk;
        let bodies: Vec<_> = (0..chunk).map(|_| captions.next()).collect();
        for (camera, body) in bodies {
            journal.append(camera, body);
        }
        // Each waits a second at most, and not at all when everything is stored.
        (0..FLUSHES).for_each(|_| journal.flush());
        check(journal)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Append {
        seconds,
        events_per_second: events as f64 / seconds,
        bytes_per_event: database_bytes(folder)? as f64 / events as f64,
    })
}

/// Returns the size of a journal's files.
fn database_bytes(folder: &Path) -> std::io::Result<u64> {
    let files = std::fs::read_dir(folder)?.flatten().map(|file| file.metadata());
    Ok(files.flatten().map(|metadata| metadata.len()).sum())
}

/// Reads `stored` events, and those that are appended in the meantime.
async fn replay(
    journal: &Arc<dyn Journal>,
    mut captions: Captions,
    stored: u64,
) -> anyhow::Result<Replay> {
    let served = Served::start(journal.clone()).await?;
    let ended = Arc::new(AtomicBool::new(false));
    let appender = tokio::task::spawn_blocking({
        let (journal, ended) = (journal.clone(), ended.clone());
        move || {
            while !ended.load(Ordering::Relaxed) {
                let (camera, body) = captions.next();
                journal.append(camera, body);
                std::thread::sleep(Duration::from_secs(1) / LIVE_RATE as u32);
            }
        }
    });
    let begun = Instant::now();
    let (mut seconds, mut read, mut is_complete) = (0.0, 0, true);
    let received = |replayed| {
        // The events of this run follow those of the earlier one.
        let expected = if read < stored { read + 1 } else { read - stored + 1 };
        is_complete &= replayed == Replayed::Event(expected);
        read += 1;
        if read == stored {
            seconds = begun.elapsed().as_secs_f64();
        }
        // All that was appended during the replay, and some events after it.
        let live = (seconds * LIVE_RATE as f64) as u64 + LIVE_RATE;
        is_complete && (read < stored || read < stored + live)
    };
    client::replay(&served.address, received).await?;
    ended.store(true, Ordering::Relaxed);
    appender.await.context("appender")?;
    ensure!(is_complete, "the replay has a gap after {} events", read - 1);
    Ok(Replay { seconds, events_per_second: stored as f64 / seconds, live: read - stored })
}

async fn list(journal: &dyn Journal) -> anyhow::Result<Times> {
    let mut query = Query { filter: EventFilter::default(), before: None, limit: PAGE };
    let mut seconds = Vec::new();
    for _ in 0..PAGES {
        let begun = Instant::now();
        let page = journal.list(query.clone()).await?;
        seconds.push(begun.elapsed().as_secs_f64());
        query.before = page.events.last().map(|event| event.id).filter(|_| page.more);
        // Every second page is one of a single camera in the last hour.
        let is_plain = query.filter.cameras.is_empty();
        query.filter.cameras = if is_plain { vec!["camera-3".into()] } else { Vec::new() };
        query.filter.since = is_plain.then(|| SystemTime::now() - Duration::from_secs(3600));
    }
    Times::of(seconds).context("no page")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
        let times = |times: &Times| {
            format!("p50 {:>9}, p95 {:>9}, p99 {:>9}", ms(times.p50), ms(times.p95), ms(times.p99))
        };
        let Report { events, append, delay, to_wire, replay, list, search, .. } = self;
        writeln!(f, "{events} events of {:.0} bytes on disk", append.bytes_per_event)?;
        writeln!(f, "append           {:>9.0} events/s", append.events_per_second)?;
        for jpegs::Stored { bytes_per_jpeg, events_per_second, bytes_per_event, .. } in
            &self.with_jpegs
        {
            let jpegs = format!("{bytes_per_jpeg} bytes a JPEG");
            writeln!(
                f,
                "  {jpegs:<14} {events_per_second:.0} events/s of {bytes_per_event:.0} bytes"
            )?;
        }
        writeln!(f, "replay by gRPC   {:>9.0} events/s", replay.events_per_second)?;
        writeln!(f, "                 then {} live events without a gap", replay.live)?;
        writeln!(f, "seen, in memory  {}", times(&delay.memory))?;
        writeln!(f, "seen, on disk    {}", times(&delay.disk))?;
        writeln!(f, "to gRPC, memory  {}", times(&to_wire.memory))?;
        writeln!(f, "  on disk        {}", times(&to_wire.disk))?;
        writeln!(f, "  with JPEGs     {}", times(&to_wire.disk_with_jpegs))?;
        writeln!(f, "page of {PAGE}       {}", times(list))?;
        writeln!(f, "search, all      {}", times(&search.all))?;
        for query in &search.queries {
            writeln!(f, "  {:<32} {}", query.query, times(&query.times))?;
        }
        let SearchedByMeaning { captions, stored_seconds, loaded_seconds, meaning, fused } =
            &self.search_by_meaning;
        writeln!(f, "vectors of {captions} captions, stored in {stored_seconds:.1} s")?;
        writeln!(f, "                 loaded in {loaded_seconds:.1} s")?;
        writeln!(f, "by meaning       {}", times(meaning))?;
        writeln!(f, "fused            {}", times(fused))?;
        if let Some(query_vector) = &self.query_vector {
            writeln!(f, "vector of a query {}", times(query_vector))?;
        }
        Ok(())
    }
}
