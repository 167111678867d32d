//! Times the journal with the JPEGs of frames: how fast events are stored with them, and how long an
//! event takes from being appended to a client of the gRPC server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::captions::Captions;
use super::served::Served;
use super::{FLUSHES, check, database_bytes, open};
use crate::bench::times::Times;
use crate::client::{self, Replayed};
use crate::event::Body;
use crate::frame::FrameId;
use crate::journal::{self, EventJpeg, Journal, MemoryJournal};

/// Bytes of JPEGs that are appended before the benchmark waits for the disk: less than wait in
/// memory, so that none is dropped.
const WAITING_BYTES: usize = 16 << 20;

/// Number of events of each side, and the time between two of them, when the delay is measured.
const DELAYED: u64 = 300;
const DELAY_INTERVAL: Duration = Duration::from_millis(10);

/// One event in this many is looked at again, to see whether its JPEGs are stored.
const LOOKED_AT: usize = 100;

/// The speed of storing events with JPEGs of one size.
#[derive(Serialize)]
pub struct Stored {
    pub bytes_per_jpeg: usize,
    pub events: u64,
    pub events_per_second: f64,
    pub bytes_per_event: f64,
}

/// Time from appending an event until a gRPC client on loopback has it.
#[derive(Serialize)]
pub struct ToWire {
    /// The journal is in memory only.
    pub memory: Times,
    pub disk: Times,
    pub disk_with_jpegs: Times,
}

/// Returns the JPEGs of a caption's slow frames, all with the same content.
fn jpegs(body: &Body, content: &Arc<[u8]>) -> Vec<(FrameId, Arc<[u8]>)> {
    let frames = body.inference().map(|inference| &inference.frames[..]).unwrap_or_default();
    let slow = frames.iter().filter(|frame| frame.slow);
    slow.map(|frame| (frame.id, content.clone())).collect()
}

fn of_event(jpegs: Vec<(FrameId, Arc<[u8]>)>) -> Vec<EventJpeg> {
    jpegs.into_iter().map(|(frame, jpeg)| EventJpeg { frame, jpeg }).collect()
}

/// Stores events in a new journal in a folder, each with the JPEGs of its slow frames.
pub async fn store(folder: &Path, events: u64, bytes_per_jpeg: usize) -> anyhow::Result<Stored> {
    let folder = folder.join(format!("jpegs-{bytes_per_jpeg}"));
    let journal = open(&folder, 1)?;
    let content: Arc<[u8]> = vec![0xa5; bytes_per_jpeg].into();
    let mut captions = Captions::new();
    let appended: Vec<_> = (0..events).map(|_| captions.next()).collect();
    let (begun, mut waiting) = (Instant::now(), 0);
    for (camera, body) in &appended {
        let jpegs = of_event(jpegs(body, &content));
        waiting += jpegs.len() * bytes_per_jpeg;
        journal.append_with_jpegs(camera.clone(), body.clone(), jpegs);
        if waiting > WAITING_BYTES {
            waiting = 0;
            (0..FLUSHES).for_each(|_| journal.flush());
        }
    }
    (0..FLUSHES).for_each(|_| journal.flush());
    let seconds = begun.elapsed().as_secs_f64();
    check(&*journal)?;
    for (camera, body) in appended.iter().step_by(LOOKED_AT) {
        for (frame, jpeg) in jpegs(body, &content) {
            let stored = journal.jpeg(camera.to_string(), frame).await?;
            ensure!(stored.as_deref() == Some(&*jpeg), "a JPEG was not stored");
        }
    }
    let bytes_per_event = database_bytes(&folder)? as f64 / events as f64;
    drop(journal);
    std::fs::remove_dir_all(&folder)?;
    let events_per_second = events as f64 / seconds;
    Ok(Stored { bytes_per_jpeg, events, events_per_second, bytes_per_event })
}

/// Measures the delay of a journal in memory, of one on disk, and of one that stores JPEGs as well.
pub async fn to_wire(folder: &Path, bytes_per_jpeg: usize) -> anyhow::Result<ToWire> {
    let memory = MemoryJournal::shared(1, journal::CAPACITY);
    let measured = ToWire {
        memory: delay(memory, 0).await?,
        disk: delay(open(&folder.join("plain"), 1)?, 0).await?,
        disk_with_jpegs: delay(open(&folder.join("with-jpegs"), 1)?, bytes_per_jpeg).await?,
    };
    ["plain", "with-jpegs"]
        .iter()
        .try_for_each(|name| std::fs::remove_dir_all(folder.join(name)))?;
    Ok(measured)
}

/// Appends events, and returns the times until a client has them. 0 bytes: without JPEGs.
async fn delay(journal: Arc<dyn Journal>, bytes_per_jpeg: usize) -> anyhow::Result<Times> {
    let served = Served::start(journal.clone()).await?;
    let appender = tokio::task::spawn_blocking(move || {
        let content: Arc<[u8]> = vec![0xa5; bytes_per_jpeg].into();
        let mut captions = Captions::new();
        let append = |_| {
            std::thread::sleep(DELAY_INTERVAL);
            let (camera, body) = captions.next();
            let jpegs = if bytes_per_jpeg > 0 { jpegs(&body, &content) } else { Vec::new() };
            let at = Instant::now();
            journal.append_with_jpegs(camera, body, of_event(jpegs));
            at
        };
        (0..DELAYED).map(append).collect::<Vec<_>>()
    });
    let (mut seen, mut is_complete) = (Vec::new(), true);
    let received = |replayed| {
        seen.push(Instant::now());
        is_complete &= replayed == Replayed::Event(seen.len() as u64);
        (seen.len() as u64) < DELAYED
    };
    client::replay(&served.address, received).await?;
    ensure!(is_complete, "an event is missing");
    let appended = appender.await.context("appender")?;
    let delays = seen.iter().zip(&appended).map(|(seen, at)| (*seen - *at).as_secs_f64());
    Times::of(delays.collect()).context("no event")
}
