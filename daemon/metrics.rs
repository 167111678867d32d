//! Defines the daemon's metrics.
//!
//! Guarantees: metric names occur only in this module; other modules call the functions below.
//! Metrics use base units (seconds, bytes) and the label `camera`. Before [`install`] the functions
//! do nothing, so tests and tools need no recorder.

use std::time::Duration;

use metrics::{Unit, counter, gauge, histogram};
pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::interface::Interface;

const FRAMES: Metric = counter_of("lookout_frames_total", "Frames taken from a camera");
const FRAMES_DROPPED: Metric = counter_of(
    "lookout_frames_dropped_total",
    "Frames dropped, by reason: inbox (encoding is behind), corrupt (no picture, or no time), failed (a \
     run of the model did), nonfinite (its numbers were not finite)",
);
pub const FRAMES_EVICTED: Metric = counter_of(
    "lookout_frames_evicted_total",
    "Frames that left the rolling buffer, for their age or for room",
);
const CAMERA_LIVE: Metric =
    gauge_of("lookout_camera_live", Unit::Count, "1 while frames come from a camera, else 0");
const CAMERA_RECONNECTS: Metric =
    counter_of("lookout_camera_reconnects_total", "Times a camera was lost and sought again");
const CAPTIONS: Metric = counter_of("lookout_captions_total", "Captions published");
const CAPTIONS_SKIPPED: Metric = counter_of(
    "lookout_captions_skipped_total",
    "Windows that got no caption, by reason: late, replaced (by a newer window), gone (no frame of it \
     was left), refused (the prompt does not fit), failed (a run of the model did), nonfinite (its \
     numbers were not finite)",
);
const ANSWERS: Metric = counter_of("lookout_answers_total", "Questions answered");
const QUESTIONS_REFUSED: Metric =
    counter_of("lookout_questions_refused_total", "Questions refused, by reason");
const CAPTIONS_UNCHANGED: Metric = counter_of(
    "lookout_captions_unchanged_total",
    "Captions that say that nothing has happened, without the model",
);
const WINDOW_CHANGE: Metric = Metric {
    name: "lookout_window_change",
    kind: Shape::Histogram,
    unit: Unit::Count,
    about: "How much a window differs from the last described one, on the scale of camera.unchanged",
};
const MODEL_FAILURES: Metric = counter_of(
    "lookout_model_failures_total",
    "Captions, answers and frames that the model failed on, by part (vision, language) and kind: run \
     (it ended with an error), nonfinite (its numbers were not finite)",
);
const STAGE_SECONDS: Metric = Metric {
    name: "lookout_stage_seconds",
    kind: Shape::Histogram,
    unit: Unit::Seconds,
    about: "Where the time of a caption or an answer goes; publish is split by interface",
};
const TOKENS: Metric = counter_of("lookout_tokens_total", "Tokens of the model, in and out");
pub const BUFFER_BYTES: Metric = gauge_of(
    "lookout_buffer_bytes",
    Unit::Bytes,
    "What a camera's rolling buffer holds in a tier: hot (tokens and JPEG), warm (JPEG), disk",
);
pub const BUFFER_FRAMES: Metric = gauge_of(
    "lookout_buffer_frames",
    Unit::Count,
    "Frames that a camera's rolling buffer holds in a tier; on disk also those in memory",
);
pub const TOKEN_BYTES: Metric = gauge_of(
    "lookout_buffer_token_bytes",
    Unit::Bytes,
    "Of what a camera's rolling buffer holds in the hot tier, the tokens",
);
const UNWRITTEN: Metric = counter_of(
    "lookout_frames_unwritten_total",
    "Frames that were not kept on disk, because the queue was full or the disk failed",
);
const DISK_BYTES: Metric =
    gauge_of("lookout_disk_bytes", Unit::Bytes, "What the segments on disk take, of all cameras");
const DISK_FAILING: Metric =
    gauge_of("lookout_disk_failing", Unit::Count, "1 while no frame can be kept on disk, else 0");
const DISK_ASIDE: Metric = gauge_of(
    "lookout_disk_segments_aside",
    Unit::Count,
    "Segments on disk that are set aside, because they cannot be read or deleted",
);
const REENCODED: Metric = counter_of(
    "lookout_frames_reencoded_total",
    "Frames encoded again from their JPEG, for a question about what has left the hot tier",
);
pub const RECALL_BYTES: Metric = gauge_of(
    "lookout_recall_bytes",
    Unit::Bytes,
    "Tokens of frames encoded again that are kept for the next question",
);
const QUEUE_LENGTH: Metric =
    gauge_of("lookout_queue_length", Unit::Count, "Captions and questions that wait for the model");
pub const PREFIX_LOOKUPS: Metric = counter_of(
    "lookout_prefix_lookups_total",
    "Prompts whose window's prefix was sought in the prefix cache: hit or miss",
);
pub const PREFIX_EVICTIONS: Metric =
    counter_of("lookout_prefix_evictions_total", "Prefixes that left the prefix cache for room");
pub const PREFIX_BYTES: Metric =
    gauge_of("lookout_prefix_cache_bytes", Unit::Bytes, "What the prefix cache holds");
const PREFIXES: Metric =
    gauge_of("lookout_prefixes", Unit::Count, "Windows whose prefix is in the prefix cache");
const ROWS: Metric = gauge_of(
    "lookout_language_rows",
    Unit::Count,
    "Captions and answers that are being read or written, together",
);
const MQTT_CONNECTED: Metric =
    gauge_of("lookout_mqtt_connected", Unit::Count, "1 while the broker is connected, else 0");
const MQTT_LOST: Metric = counter_of(
    "lookout_mqtt_lost_total",
    "Events that left the journal before the broker took them: it was away too long",
);
const MQTT_REFUSED: Metric = counter_of(
    "lookout_mqtt_refused_total",
    "Messages that the broker would not take, and that were left out",
);
const CONNECTIONS: Metric =
    gauge_of("lookout_connections", Unit::Count, "Clients connected to an interface");
const CONNECTIONS_REFUSED: Metric = counter_of(
    "lookout_connections_refused_total",
    "Connections closed at once, because as many as may be were open",
);
const CONNECTIONS_TIMED_OUT: Metric = counter_of(
    "lookout_connections_timed_out_total",
    "Connections closed because the client said nothing, asked nothing or read nothing for too long",
);
const INTERFACE_RESTARTS: Metric = counter_of(
    "lookout_interface_restarts_total",
    "Times that an interface failed or panicked and was restarted",
);
const MODEL_INFO: Metric = gauge_of(
    "lookout_model_info",
    Unit::Count,
    "Always 1; its labels name model, device and why that one",
);

const ALL: [Metric; 37] = [
    FRAMES,
    FRAMES_DROPPED,
    FRAMES_EVICTED,
    CAMERA_LIVE,
    CAMERA_RECONNECTS,
    CAPTIONS,
    CAPTIONS_SKIPPED,
    CAPTIONS_UNCHANGED,
    WINDOW_CHANGE,
    ANSWERS,
    QUESTIONS_REFUSED,
    MODEL_FAILURES,
    STAGE_SECONDS,
    TOKENS,
    BUFFER_BYTES,
    BUFFER_FRAMES,
    TOKEN_BYTES,
    UNWRITTEN,
    DISK_BYTES,
    DISK_FAILING,
    DISK_ASIDE,
    REENCODED,
    RECALL_BYTES,
    QUEUE_LENGTH,
    PREFIX_LOOKUPS,
    PREFIX_EVICTIONS,
    PREFIX_BYTES,
    PREFIXES,
    ROWS,
    MQTT_CONNECTED,
    MQTT_LOST,
    MQTT_REFUSED,
    CONNECTIONS,
    CONNECTIONS_REFUSED,
    CONNECTIONS_TIMED_OUT,
    INTERFACE_RESTARTS,
    MODEL_INFO,
];

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
        .set_buckets_for_metric(Matcher::Full(WINDOW_CHANGE.name.into()), &CHANGES)?
        .install_recorder()?;
    for metric in ALL {
        metric.describe();
    }
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

/// A stage on the way to a caption or an answer, to which its time is attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The time from an encoded frame's arrival to the decoded frame: jitter buffer, decoding,
    /// conversion.
    Decode,
    Encode,
    Wait,
    Prefill,
    DecodeTokens,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Encode => "encode",
            Stage::Wait => "wait",
            Stage::Prefill => "prefill",
            Stage::DecodeTokens => "decode_tokens",
        }
    }
}

/// Reasons for dropping a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The inbox between camera and vision was full: encoding is behind.
    Inbox,
    /// The frame was unusable: it had no time, or it was not an image.
    Corrupt,
    /// A run of the model ended with an error.
    Failed,
    /// The model's features were not finite.
    NotFinite,
}

pub fn frame(camera: &str) {
    counter!(FRAMES.name, "camera" => camera.to_owned()).increment(1);
}

pub fn frames_dropped(camera: &str, reason: DropReason, frames: u64) {
    let reason = match reason {
        DropReason::Inbox => "inbox",
        DropReason::Corrupt => "corrupt",
        DropReason::Failed => "failed",
        DropReason::NotFinite => "nonfinite",
    };
    counter!(FRAMES_DROPPED.name, "camera" => camera.to_owned(), "reason" => reason)
        .increment(frames);
}

pub fn frames_evicted(camera: &str, frames: u64) {
    counter!(FRAMES_EVICTED.name, "camera" => camera.to_owned()).increment(frames);
}

pub fn camera_live(camera: &str, live: bool) {
    gauge!(CAMERA_LIVE.name, "camera" => camera.to_owned()).set(one_if(live));
}

pub fn camera_reconnect(camera: &str) {
    counter!(CAMERA_RECONNECTS.name, "camera" => camera.to_owned()).increment(1);
}

pub fn caption(camera: &str) {
    counter!(CAPTIONS.name, "camera" => camera.to_owned()).increment(1);
}

/// Reasons for skipping a window's caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The caption would have been published after its deadline.
    Late,
    /// The next window closed before this one's turn came.
    Replaced,
    /// No frame of the window was left in the hot tier when its turn came.
    Gone,
    /// The model cannot process the window's prompt.
    Refused,
    /// A run of the model ended with an error.
    Failed,
    /// The model's logits were not finite.
    NotFinite,
}

pub fn caption_skipped(camera: &str, reason: SkipReason) {
    let reason = match reason {
        SkipReason::Late => "late",
        SkipReason::Replaced => "replaced",
        SkipReason::Gone => "gone",
        SkipReason::Refused => "refused",
        SkipReason::Failed => "failed",
        SkipReason::NotFinite => "nonfinite",
    };
    counter!(CAPTIONS_SKIPPED.name, "camera" => camera.to_owned(), "reason" => reason).increment(1);
}

pub fn caption_unchanged(camera: &str) {
    counter!(CAPTIONS_UNCHANGED.name, "camera" => camera.to_owned()).increment(1);
}

pub fn window_change(camera: &str, change: f32) {
    // An infinite value would make the histogram's sum infinite forever.
    if change.is_finite() {
        histogram!(WINDOW_CHANGE.name, "camera" => camera.to_owned()).record(f64::from(change));
    }
}

pub fn answer(camera: &str) {
    counter!(ANSWERS.name, "camera" => camera.to_owned()).increment(1);
}

/// Counts a refused question. It has no label `camera`, because a refused question may name any
/// camera.
pub fn question_refused(error: &crate::service::AskError) {
    use crate::service::AskError;
    let reason = match error {
        AskError::NoSuchCamera(_) => "no_such_camera",
        AskError::NoFootage { .. } => "no_footage",
        AskError::QueueFull { .. } => "queue_full",
        AskError::BadQuestion(_) => "bad_question",
        AskError::Stopping => "stopping",
        AskError::Failed(_) | AskError::Model(_) => "model",
    };
    counter!(QUESTIONS_REFUSED.name, "reason" => reason).increment(1);
}

/// Kinds of model failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A run ended with an error.
    Run,
    /// A computed number was not finite.
    NotFinite,
}

pub fn model_failed(part: crate::model::Part, kind: FailureKind) {
    let part = match part {
        crate::model::Part::Vision => "vision",
        crate::model::Part::Language => "language",
    };
    let kind = match kind {
        FailureKind::Run => "run",
        FailureKind::NotFinite => "nonfinite",
    };
    counter!(MODEL_FAILURES.name, "part" => part, "kind" => kind).increment(1);
}

pub fn stage(camera: &str, stage: Stage, took: Duration) {
    histogram!(STAGE_SECONDS.name, "camera" => camera.to_owned(), "stage" => stage.name())
        .record(took.as_secs_f64());
}

/// Records the time from the event's entry in the journal until the interface took it. For MQTT
/// that is the broker's PubAck.
pub fn published(camera: &str, interface: Interface, took: Duration) {
    let (camera, interface) = (camera.to_owned(), interface.name());
    histogram!(STAGE_SECONDS.name, "camera" => camera, "stage" => "publish", "interface" => interface)
        .record(took.as_secs_f64());
}

pub fn tokens(camera: &str, tokens_in: u64, tokens_out: u64) {
    counter!(TOKENS.name, "camera" => camera.to_owned(), "direction" => "in").increment(tokens_in);
    counter!(TOKENS.name, "camera" => camera.to_owned(), "direction" => "out")
        .increment(tokens_out);
}

pub fn buffer(camera: &str, usage: &crate::timeline::Usage) {
    for (name, tier) in [("hot", usage.hot), ("warm", usage.warm), ("disk", usage.disk)] {
        gauge!(BUFFER_BYTES.name, "camera" => camera.to_owned(), "tier" => name)
            .set(tier.bytes as f64);
        gauge!(BUFFER_FRAMES.name, "camera" => camera.to_owned(), "tier" => name)
            .set(tier.frames as f64);
    }
    gauge!(TOKEN_BYTES.name, "camera" => camera.to_owned()).set(usage.token_bytes as f64);
}

/// Reasons why a frame was not written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// Too many frames were waiting: the disk is too slow.
    Queue,
    /// The disk is full, read-only or broken.
    Disk,
}

pub fn unwritten(camera: &str, why: Unwritten) {
    let reason = match why {
        Unwritten::Queue => "queue",
        Unwritten::Disk => "disk",
    };
    counter!(UNWRITTEN.name, "camera" => camera.to_owned(), "reason" => reason).increment(1);
}

pub fn disk(bytes: u64, failing: bool) {
    gauge!(DISK_BYTES.name).set(bytes as f64);
    gauge!(DISK_FAILING.name).set(one_if(failing));
}

/// Sets the number of segments that are set aside.
pub fn disk_aside(unreadable: usize, undeletable: usize) {
    gauge!(DISK_ASIDE.name, "reason" => "unreadable").set(unreadable as f64);
    gauge!(DISK_ASIDE.name, "reason" => "undeletable").set(undeletable as f64);
}

pub fn reencoded(camera: &str, frames: u64) {
    counter!(REENCODED.name, "camera" => camera.to_owned()).increment(frames);
}

pub fn recalled(bytes: u64) {
    gauge!(RECALL_BYTES.name).set(bytes as f64);
}

pub fn queue_length(waiting: usize) {
    gauge!(QUEUE_LENGTH.name).set(waiting as f64);
}

pub fn prefix_looked_up(found: bool) {
    let result = if found { "hit" } else { "miss" };
    counter!(PREFIX_LOOKUPS.name, "result" => result).increment(1);
}

/// Sets what the prefix cache holds after a prefix was stored, and counts the prefixes evicted for
/// it.
pub fn prefixes_kept(bytes: usize, prefixes: usize, evicted: usize) {
    gauge!(PREFIX_BYTES.name).set(bytes as f64);
    gauge!(PREFIXES.name).set(prefixes as f64);
    counter!(PREFIX_EVICTIONS.name).increment(evicted as u64);
}

pub fn rows(in_work: usize) {
    gauge!(ROWS.name).set(in_work as f64);
}

pub fn mqtt_connected(connected: bool) {
    gauge!(MQTT_CONNECTED.name).set(one_if(connected));
}

pub fn mqtt_lost(events: u64) {
    counter!(MQTT_LOST.name).increment(events);
}

pub fn mqtt_refused(messages: u64) {
    counter!(MQTT_REFUSED.name).increment(messages);
}

/// Changes the number of open connections by `change` (1 or -1).
pub fn connections(interface: Interface, change: f64) {
    gauge!(CONNECTIONS.name, "interface" => interface.name()).increment(change);
}

pub fn connection_refused(interface: Interface) {
    counter!(CONNECTIONS_REFUSED.name, "interface" => interface.name()).increment(1);
}

pub fn connection_timed_out(interface: Interface) {
    counter!(CONNECTIONS_TIMED_OUT.name, "interface" => interface.name()).increment(1);
}

pub fn interface_restarted(interface: Interface) {
    counter!(INTERFACE_RESTARTS.name, "interface" => interface.name()).increment(1);
}

pub fn model(model: &str, device: &str, device_reason: &str) {
    let labels = [("model", model), ("device", device), ("device_reason", device_reason)]
        .map(|(key, value)| metrics::Label::new(key, value.to_owned()));
    gauge!(MODEL_INFO.name, labels.to_vec()).set(1.0);
}

fn one_if(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// A metric as `/metrics` shows it.
pub struct Metric {
    pub name: &'static str,
    kind: Shape,
    unit: Unit,
    about: &'static str,
}

#[derive(Clone, Copy)]
pub enum Shape {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    fn describe(self) {
        match self.kind {
            Shape::Counter => metrics::describe_counter!(self.name, self.unit, self.about),
            Shape::Gauge => metrics::describe_gauge!(self.name, self.unit, self.about),
            Shape::Histogram => metrics::describe_histogram!(self.name, self.unit, self.about),
        }
    }
}

const fn counter_of(name: &'static str, about: &'static str) -> Metric {
    Metric { name, kind: Shape::Counter, unit: Unit::Count, about }
}

const fn gauge_of(name: &'static str, unit: Unit, about: &'static str) -> Metric {
    Metric { name, kind: Shape::Gauge, unit, about }
}

/// Runs `record` with a recorder of its own and returns the metrics as `/metrics` shows them.
#[cfg(test)]
pub fn rendered(record: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, record);
    recorder.handle().render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_unit() {
        for metric in ALL {
            assert!(metric.name.starts_with("lookout_"), "{}", metric.name);
            let counted = matches!(metric.kind, Shape::Counter);
            assert_eq!(metric.name.ends_with("_total"), counted, "{}", metric.name);
            assert_eq!(metric.name.ends_with("_seconds"), metric.unit == Unit::Seconds);
            assert_eq!(metric.name.ends_with("_bytes"), metric.unit == Unit::Bytes);
            assert!(!metric.about.is_empty());
        }
    }
}
