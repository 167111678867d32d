//! Sends the traces of captions, answers and alerts to an OpenTelemetry collector by OTLP.
//!
//! A trace is made when its event is in the journal, from the times that the event has. MQTT and the
//! delivery of alerts report when a receiver has accepted an event; nothing else of the daemon knows
//! of traces.
//!
//! Guarantees: a collector that is away or slow delays nothing. At most [`QUEUE`] spans wait; others
//! are dropped and counted (`lookout_trace_spans_total`). An outage is one message in the log, and
//! its end another.

mod collector;
mod spans;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::PublishError;
use crate::backoff::Backoff;
use crate::config;
use crate::event::Event;
use crate::interface::Interface;
use crate::journal::{Journal, Read};
use crate::metrics::{self, SpanResult};

use collector::Collector;
use spans::Tracer;

/// Maximum number of spans that wait for the collector.
pub const QUEUE: usize = 2_048;

/// Maximum number of spans in one request.
const BATCH: usize = 512;

/// Time for which spans are gathered for one request.
const GATHERING: Duration = Duration::from_secs(1);

/// Maximum pause after a failed request.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Time for the last requests when the daemon stops.
const LAST: Duration = Duration::from_secs(2);

/// Makes spans and queues them for the collector.
pub struct Recorder {
    config: config::Traces,
    tracer: Tracer,
    queue: mpsc::Sender<SpanData>,
    waiting: Mutex<mpsc::Receiver<SpanData>>,
}

impl Recorder {
    pub fn shared(config: config::Traces) -> Arc<Recorder> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let tracer = Tracer::new(config.sample_ratio, config.has_content);
        Arc::new(Recorder { config, tracer, queue, waiting: Mutex::new(waiting) })
    }

    /// Adds the span of an event that a receiver of this interface has just accepted. `target` is the
    /// receiver's name in the config, if it has one.
    pub fn published(&self, event: &Event, interface: Interface, target: Option<&str>) {
        self.add(self.tracer.publish(event, interface, target, SystemTime::now()));
    }

    fn add(&self, spans: impl IntoIterator<Item = SpanData>) {
        let mut dropped = 0;
        for span in spans {
            dropped += usize::from(self.queue.try_send(span).is_err());
        }
        if dropped > 0 {
            metrics::trace_spans(SpanResult::Queue, dropped);
        }
    }
}

/// Sends traces until `stop`.
pub async fn run(
    recorder: Arc<Recorder>,
    journal: Arc<dyn Journal>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let collector = Collector::new(&recorder.config)
        .map_err(|why| PublishError::Serve { interface: Interface::Otlp, why })?;
    let read = CancellationToken::new();
    let reading = async {
        read_events(&recorder, journal, stop.clone()).await;
        // Then the last requests are sent.
        read.cancel();
    };
    let mut waiting = recorder.waiting.lock().await;
    tokio::join!(reading, send_spans(collector, &mut waiting, read.clone(), stop.clone()));
    Ok(())
}

/// Makes the spans of new events.
async fn read_events(recorder: &Recorder, journal: Arc<dyn Journal>, stop: CancellationToken) {
    let mut cursor = journal.read_new();
    loop {
        let read = tokio::select! {
            read = cursor.next() => read,
            () = stop.cancelled() => match cursor.try_next() {
                Some(read) => read,
                None => return,
            },
        };
        // Events that this reader missed have no traces.
        let Read::Event(event) = read else { continue };
        recorder.add(recorder.tracer.trace(&event, SystemTime::now()));
    }
}

/// Sends the spans in requests of at most [`BATCH`]. Ends when all events were `read` and no span
/// waits.
async fn send_spans(
    collector: Collector,
    waiting: &mut mpsc::Receiver<SpanData>,
    read: CancellationToken,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(MAX_PAUSE);
    let mut is_away = false;
    let mut end = pin!(async {
        stop.cancelled().await;
        tokio::time::sleep(LAST).await;
    });
    loop {
        let first = tokio::select! {
            first = waiting.recv() => first,
            () = read.cancelled() => waiting.try_recv().ok(),
        };
        let Some(first) = first else { return };
        tokio::select! {
            () = tokio::time::sleep(GATHERING) => {}
            () = stop.cancelled() => {}
        }
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(span) = waiting.try_recv()
        {
            batch.push(span);
        }
        let spans = batch.len();
        let sent = tokio::select! {
            sent = collector.export(batch) => sent,
            () = &mut end => return,
        };
        let Err(why) = sent else {
            metrics::trace_spans(SpanResult::Exported, spans);
            backoff.reset();
            if std::mem::take(&mut is_away) {
                tracing::info!("the trace collector at {} accepts spans again", collector.name);
            }
            continue;
        };
        metrics::trace_spans(SpanResult::Failed, spans);
        if !std::mem::replace(&mut is_away, true) {
            let name = &collector.name;
            tracing::warn!("the trace collector at {name} fails, and spans are dropped: {why}");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(rand::random())) => {}
            () = stop.cancelled() => {}
        }
    }
}
