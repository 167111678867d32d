//! Sends the traces of captions, answers and alerts to an OpenTelemetry collector by OTLP.
//!
//! A trace is made when its event is in the journal, from the times that the event has. Nothing
//! else of the daemon knows of traces.
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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use crate::backoff::Backoff;
use crate::config;
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

/// Sends traces until `stop`.
pub async fn run(
    config: config::Traces,
    journal: Arc<dyn Journal>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let collector = Collector::new(&config)
        .map_err(|why| PublishError::Serve { interface: Interface::Otlp, why })?;
    let (queue, waiting) = mpsc::channel(QUEUE);
    let tracer = Tracer::new(config.sample_ratio, config.has_content);
    // The queue closes when the reader of events ends. Then the last request is sent.
    tokio::join!(
        read_events(tracer, journal, queue, stop.clone()),
        send_spans(collector, waiting, stop)
    );
    Ok(())
}

/// Makes the spans of new events.
async fn read_events(
    tracer: Tracer,
    journal: Arc<dyn Journal>,
    queue: mpsc::Sender<SpanData>,
    stop: CancellationToken,
) {
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
        let mut dropped = 0;
        for span in tracer.trace(&event, SystemTime::now()) {
            dropped += usize::from(queue.try_send(span).is_err());
        }
        if dropped > 0 {
            metrics::trace_spans(SpanResult::Queue, dropped);
        }
    }
}

/// Sends the spans in requests of at most [`BATCH`].
async fn send_spans(
    collector: Collector,
    mut waiting: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(MAX_PAUSE);
    let mut is_away = false;
    let mut end = pin!(async {
        stop.cancelled().await;
        tokio::time::sleep(LAST).await;
    });
    while let Some(first) = waiting.recv().await {
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
