//! Records the daemon's metrics.
//!
//! Guarantees: metric names occur only in this module's table; other modules call the functions
//! below. Metrics use base units (seconds, bytes). Before [`install`] the functions do nothing, so
//! tests and tools need no recorder.
//!
//! Not here: the values' meaning to other modules. This module depends on none of them, except for
//! the names of the interfaces.

pub mod labels;
#[cfg(test)]
mod reference;
pub mod table;

use std::time::{Duration, SystemTime};

pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::event::Devices;
use crate::interface::Interface;

pub use labels::{
    BufferTier, ClipResult, DeliveryResult, DropReason, FailureKind, JpegLoss, McpResult,
    NotWritten, ServerResult, SkipReason, SpanResult, Stage, WindowResult,
};

/// Histogram buckets in seconds, from a publish of a few milliseconds to a caption on a small CPU.
const SECONDS: [f64; 15] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0];

/// Histogram buckets of a window's change, from a camera's noise to a different image.
const CHANGES: [f64; 13] =
    [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 3.0, 10.0];

/// Interval at which samples are folded into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the process's recorder. Returns an error if one is already installed.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(table::WINDOW_CHANGE.name.into()), &CHANGES)?
        .install_recorder()?;
    table::all().for_each(table::Metric::describe);
    Ok(handle)
}

/// Folds the histograms' samples into buckets every 5 s, indefinitely. Otherwise the samples would
/// accumulate in a daemon that is not scraped, even if it cannot be scraped.
pub async fn upkeep(metrics: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}

pub fn frame(camera: &str) {
    table::FRAMES.counter([camera]).increment(1);
}

pub fn frames_dropped(camera: &str, reason: DropReason, frames: u64) {
    table::FRAMES_DROPPED.counter([camera, reason.value()]).increment(frames);
}

pub fn frames_evicted(camera: &str, frames: u64) {
    table::FRAMES_EVICTED.counter([camera]).increment(frames);
}

pub fn camera_live(camera: &str, live: bool) {
    table::CAMERA_LIVE.gauge([camera]).set(one_if(live));
}

/// The labels of a series about a camera.
pub struct Series<'a> {
    pub metric: &'a str,
    pub camera: &'a str,
    pub rule: Option<&'a str>,
}

/// Leaves out the series of cameras, and of rules on cameras, for which `is_present` is false. The
/// recorder cannot remove the series of a camera or a rule that was removed.
pub fn of_cameras(rendered: &str, is_present: impl Fn(Series<'_>) -> bool) -> String {
    let series = |line: &str| {
        let label = |name: &str| {
            let (_, rest) = line.split_once(name)?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let (metric, _) = line.split_once('{')?;
        Some((metric.to_owned(), label("camera=\"")?, label("rule=\"")))
    };
    let is_shown = |line: &&str| {
        let of_camera = |(metric, camera, rule): (String, String, Option<String>)| {
            is_present(Series { metric: &metric, camera: &camera, rule: rule.as_deref() })
        };
        line.starts_with('#') || series(line).is_none_or(of_camera)
    };
    rendered.split_inclusive('\n').filter(is_shown).collect()
}

/// Sets the gauges of a removed camera to 0, where a camera of the same name begins.
pub fn camera_removed(camera: &str) {
    camera_live(camera, false);
    for tier in [BufferTier::Hot, BufferTier::Warm, BufferTier::Disk] {
        buffer_tier(camera, tier, 0, 0);
    }
    buffer_tokens(camera, 0);
}

pub fn camera_reconnect(camera: &str) {
    table::CAMERA_RECONNECTS.counter([camera]).increment(1);
}

pub fn caption(camera: &str) {
    table::CAPTIONS.counter([camera]).increment(1);
}

pub fn captions_skipped(camera: &str, reason: SkipReason, windows: u64) {
    table::CAPTIONS_SKIPPED.counter([camera, reason.value()]).increment(windows);
}

pub fn caption_unchanged(camera: &str) {
    table::CAPTIONS_UNCHANGED.counter([camera]).increment(1);
}

pub fn window_change(camera: &str, change: f32) {
    // An infinite value would make the histogram's sum infinite forever.
    if change.is_finite() {
        table::WINDOW_CHANGE.histogram([camera]).record(f64::from(change));
    }
}

/// Sets the state of a rule for a camera.
pub fn rule(camera: &str, rule: &str, score: Option<f64>, is_active: bool, is_blind: bool) {
    if let Some(score) = score {
        table::RULE_SCORE.gauge([camera, rule]).set(score);
    }
    table::RULE_ACTIVE.gauge([camera, rule]).set(one_if(is_active));
    table::RULE_BLIND.gauge([camera, rule]).set(one_if(is_blind));
}

pub fn rule_window(camera: &str, rule: &str, result: WindowResult) {
    table::RULE_WINDOWS.counter([camera, rule, result.value()]).increment(1);
}

pub fn alert(camera: &str, rule: &str) {
    table::ALERTS.counter([camera, rule]).increment(1);
}

pub fn false_alarm(camera: &str, rule: &str) {
    table::FALSE_ALARMS.counter([camera, rule]).increment(1);
}

pub fn answer(camera: &str) {
    table::ANSWERS.counter([camera]).increment(1);
}

/// Counts a refused question. It has no label `camera`, because a refused question may name any
/// camera.
pub fn question_refused(reason: &str) {
    table::QUESTIONS_REFUSED.counter([&reason.to_ascii_lowercase()]).increment(1);
}

/// Counts a request that access control refused, by the reason.
pub fn access_denied(interface: Interface, reason: &str) {
    table::ACCESS_DENIED.counter([interface.name(), &reason.to_ascii_lowercase()]).increment(1);
}

/// Counts entries of the audit log that were not written.
pub fn audit_lost(entries: u64) {
    table::AUDIT_LOST.counter([]).increment(entries);
}

/// Counts lines of the log that were lost.
pub fn log_lines_lost(lines: u64) {
    table::LOG_LINES_LOST.counter([]).increment(lines);
}

/// Counts a failure of a model's component, `vision` or `language`.
pub fn model_failed(component: &str, kind: FailureKind) {
    table::MODEL_FAILURES.counter([component, kind.value()]).increment(1);
}

pub fn language_server_ready(server: &str, is_ready: bool) {
    table::LANGUAGE_SERVER_READY.gauge([server]).set(one_if(is_ready));
}

pub fn language_server_request(server: &str, result: ServerResult) {
    table::LANGUAGE_SERVER_REQUESTS.counter([server, result.value()]).increment(1);
}

pub fn stage(camera: &str, stage: Stage, took: Duration) {
    table::STAGE_SECONDS.histogram([camera, stage.value()]).record(took.as_secs_f64());
}

/// Counts spans of traces.
pub fn trace_spans(result: SpanResult, spans: usize) {
    table::TRACE_SPANS.counter([result.value()]).increment(spans as u64);
}

/// Records the time from the event's entry in the journal until the interface took it. For MQTT
/// that is the broker's PubAck.
pub fn published(camera: &str, interface: Interface, took: Duration) {
    table::PUBLISH_SECONDS.histogram([camera, interface.name()]).record(took.as_secs_f64());
}

pub fn tokens(camera: &str, tokens_in: u64, tokens_out: u64) {
    table::TOKENS.counter([camera, "in"]).increment(tokens_in);
    table::TOKENS.counter([camera, "out"]).increment(tokens_out);
}

/// Sets the contents of a tier of a camera's buffer.
pub fn buffer_tier(camera: &str, tier: BufferTier, frames: usize, bytes: u64) {
    table::BUFFER_BYTES.gauge([camera, tier.value()]).set(bytes as f64);
    table::BUFFER_FRAMES.gauge([camera, tier.value()]).set(frames as f64);
}

/// Sets the size of the tokens in a camera's hot tier.
pub fn buffer_tokens(camera: &str, bytes: u64) {
    table::BUFFER_TOKEN_BYTES.gauge([camera]).set(bytes as f64);
}

pub fn frame_not_written(camera: &str, reason: NotWritten) {
    table::FRAMES_NOT_WRITTEN.counter([camera, reason.value()]).increment(1);
}

pub fn disk(bytes: u64, failing: bool) {
    table::DISK_BYTES.gauge([]).set(bytes as f64);
    table::DISK_FAILING.gauge([]).set(one_if(failing));
}

/// Sets the number of segments that are set aside.
pub fn disk_segments_set_aside(unreadable: usize, undeletable: usize) {
    table::DISK_SEGMENTS_SET_ASIDE.gauge(["unreadable"]).set(unreadable as f64);
    table::DISK_SEGMENTS_SET_ASIDE.gauge(["undeletable"]).set(undeletable as f64);
}

pub fn frames_reencoded(camera: &str, frames: u64) {
    table::FRAMES_REENCODED.counter([camera]).increment(frames);
}

/// Sets the size of the cache of re-encoded tokens.
pub fn reencode_cache(bytes: u64) {
    table::REENCODE_CACHE_BYTES.gauge([]).set(bytes as f64);
}

pub fn waiting_jobs(jobs: usize) {
    table::WAITING_JOBS.gauge([]).set(jobs as f64);
}

pub fn active_sequences(sequences: usize) {
    table::ACTIVE_SEQUENCES.gauge([]).set(sequences as f64);
}

pub fn prefix_cache_lookup(found: bool) {
    let result = if found { "hit" } else { "miss" };
    table::PREFIX_CACHE_LOOKUPS.counter([result]).increment(1);
}

/// Sets the contents of the prefix cache after a prefix was stored, and counts the prefixes evicted
/// for it.
pub fn prefix_cache(bytes: usize, prefixes: usize, evicted: usize) {
    table::PREFIX_CACHE_BYTES.gauge([]).set(bytes as f64);
    table::PREFIX_CACHE_ENTRIES.gauge([]).set(prefixes as f64);
    table::PREFIX_CACHE_EVICTIONS.counter([]).increment(evicted as u64);
}

pub fn journal_events_stored(events: u64) {
    table::JOURNAL_EVENTS_STORED.counter([]).increment(events);
}

pub fn journal_events_not_stored(events: u64) {
    table::JOURNAL_EVENTS_NOT_STORED.counter([]).increment(events);
}

pub fn journal_failing(failing: bool) {
    table::JOURNAL_FAILING.gauge([]).set(one_if(failing));
}

pub fn journal_jpegs_stored(frames: u64) {
    table::JOURNAL_JPEGS_STORED.counter([]).increment(frames);
}

pub fn journal_jpegs_not_stored(reason: JpegLoss, frames: u64) {
    table::JOURNAL_JPEGS_NOT_STORED.counter([reason.value()]).increment(frames);
}

/// Sets the number and the bytes of the frames in the database of events.
pub fn journal_jpegs(frames: u64, bytes: u64) {
    table::JOURNAL_JPEGS.gauge([]).set(frames as f64);
    table::JOURNAL_JPEG_BYTES.gauge([]).set(bytes as f64);
}

/// Counts a clip of an alert that was made, or could not be.
pub fn clip(camera: &str, result: ClipResult) {
    table::CLIPS.counter([camera, result.value()]).increment(1);
}

/// Sets the size of the encoded streams that are held for clips.
pub fn encoded_bytes(bytes: u64) {
    table::ENCODED_BYTES.gauge([]).set(bytes as f64);
}

/// Sets the size of the database of events.
pub fn journal_bytes(bytes: u64) {
    table::JOURNAL_BYTES.gauge([]).set(bytes as f64);
}

/// Sets the number of vectors in memory.
pub fn search_vectors(vectors: usize) {
    table::SEARCH_VECTORS.gauge([]).set(vectors as f64);
}

pub fn delivery_attempt(target: &str, result: DeliveryResult) {
    table::DELIVERY_ATTEMPTS.counter([target, result.value()]).increment(1);
}

pub fn delivery_failing(target: &str, is_failing: bool) {
    table::DELIVERY_FAILING.gauge([target]).set(one_if(is_failing));
}

pub fn delivery_missed(target: &str, events: u64) {
    table::DELIVERY_MISSED.counter([target]).increment(events);
}

pub fn mqtt_connected(connected: bool) {
    table::MQTT_CONNECTED.gauge([]).set(one_if(connected));
}

pub fn mqtt_events_missed(events: u64) {
    table::MQTT_EVENTS_MISSED.counter([]).increment(events);
}

pub fn mqtt_message_refused() {
    table::MQTT_MESSAGES_REFUSED.counter([]).increment(1);
}

/// Changes the number of open connections by `change` (1 or -1).
/// Counts a call of a tool by MCP.
pub fn mcp_call(tool: &str, result: McpResult) {
    table::MCP_CALLS.counter([tool, result.value()]).increment(1);
}

pub fn connections(interface: Interface, change: f64) {
    table::CONNECTIONS.gauge([interface.name()]).increment(change);
}

pub fn connection_refused(interface: Interface) {
    table::CONNECTIONS_REFUSED.counter([interface.name()]).increment(1);
}

pub fn connection_timed_out(interface: Interface) {
    table::CONNECTIONS_TIMED_OUT.counter([interface.name()]).increment(1);
}

/// Sets whether other machines can reach an interface without TLS.
pub fn interface_insecure(interface: Interface, is_insecure: bool) {
    table::INTERFACE_INSECURE.gauge([interface.name()]).set(one_if(is_insecure));
}

pub fn tls_handshake_failed(interface: Interface) {
    table::TLS_HANDSHAKES_FAILED.counter([interface.name()]).increment(1);
}

/// Sets when the certificate in use expires, and whether newer files cannot be used.
pub fn tls_certificate(expires: SystemTime, renewal_is_failing: bool) {
    let since = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    table::TLS_CERTIFICATE_EXPIRY.gauge([]).set(since.as_secs_f64());
    table::TLS_RENEWAL_FAILING.gauge([]).set(one_if(renewal_is_failing));
}

pub fn interface_restarted(interface: Interface) {
    table::INTERFACE_RESTARTS.counter([interface.name()]).increment(1);
}

pub fn model(model: &str, devices: &Devices) {
    table::MODEL_INFO.gauge([model, &devices.device(), &devices.reason()]).set(1.0);
}

fn one_if(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// Returns the text of `/metrics` after `record` has run with a recorder of its own.
#[cfg(test)]
pub fn rendered(record: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, record);
    recorder.handle().render()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::table::{Kind, all};
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names = HashSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is twice in the table");
            let letters = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.starts_with("lookout_") && name.chars().all(letters), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn a_series_has_the_labels_of_the_table() {
        let text = rendered(|| {
            frames_dropped("gate", DropReason::NotFinite, 2);
            disk(7, true);
        });
        let dropped = "lookout_frames_dropped_total{camera=\"gate\",reason=\"not_finite\"} 2";
        assert!(text.lines().any(|line| line == dropped), "{text}");
        assert!(text.lines().any(|line| line == "lookout_disk_failing 1"), "{text}");
    }

    #[test]
    #[should_panic(expected = "lookout_tokens_total: direction = sideways")]
    fn a_value_outside_the_table_is_a_bug() {
        rendered(|| table::TOKENS.counter(["gate", "sideways"]).increment(1));
    }
}
