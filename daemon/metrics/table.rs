//! The table of all metrics. `docs/metrics.md` is generated from it.

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

use super::labels::{
    CAMERA, CLIP_RESULT, COMPONENT, DELIVERY_RESULT, DENIAL, DEVICE, DEVICE_REASON, DIRECTION,
    DROP_REASON, FAILURE_KIND, INTERFACE, JPEG_LOSS, Label, MCP_RESULT, MODEL, NOT_WRITTEN,
    REFUSAL, RESULT, RULE, SERVER, SERVER_RESULT, SET_ASIDE, SKIP_REASON, SPAN_RESULT, STAGE,
    TARGET, TIER, TOOL, WINDOW_RESULT,
};

/// A metric: its name, type, labels and meaning.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [Label],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Metrics of one subject.
pub struct Section {
    pub title: &'static str,
    pub metrics: &'static [Metric],
}

/// Defines the metrics, each as a constant, and the table of their sections.
macro_rules! metrics {
    ($($title:literal {
        $($id:ident: $kind:ident $name:literal [$($label:ident)*] $help:literal,)+
    })+) => {
        $($(pub const $id: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+)+

        pub static SECTIONS: &[Section] =
            &[$(Section { title: $title, metrics: &[$($id),+] }),+];
    };
}

metrics! {
    "Cameras and frames" {
        FRAMES: Counter "lookout_frames_total" [CAMERA]
            "Frames taken from a camera",
        FRAMES_DROPPED: Counter "lookout_frames_dropped_total" [CAMERA DROP_REASON]
            "Frames dropped before they were encoded, or because encoding failed",
        FRAMES_EVICTED: Counter "lookout_frames_evicted_total" [CAMERA]
            "Frames that left the buffer by age or size",
        CAMERA_LIVE: Gauge "lookout_camera_live" [CAMERA]
            "1 while the camera delivers frames, else 0",
        CAMERA_RECONNECTS: Counter "lookout_camera_reconnects_total" [CAMERA]
            "Times that a camera was lost and the connection was retried",
    }
    "Captions, questions and the model" {
        CAPTIONS: Counter "lookout_captions_total" [CAMERA]
            "Captions published, including the unchanged ones",
        CAPTIONS_SKIPPED: Counter "lookout_captions_skipped_total" [CAMERA SKIP_REASON]
            "Windows without a caption",
        CAPTIONS_UNCHANGED: Counter "lookout_captions_unchanged_total" [CAMERA]
            "Captions published as unchanged, without running the model",
        WINDOW_CHANGE: Histogram "lookout_window_change" [CAMERA]
            "Difference from the last captioned window, on the scale of camera.unchanged_threshold",
        ANSWERS: Counter "lookout_answers_total" [CAMERA]
            "Questions answered",
        QUESTIONS_REFUSED: Counter "lookout_questions_refused_total" [REFUSAL]
            "Questions refused; without the camera, because a question may name any",
        MODEL_FAILURES: Counter "lookout_model_failures_total" [COMPONENT FAILURE_KIND]
            "Captions, answers and frames on which the model failed",
        STAGE_SECONDS: Histogram "lookout_stage_seconds" [CAMERA STAGE]
            "Time that a frame, a caption, an answer or a window with rules spent in a stage",
        PUBLISH_SECONDS: Histogram "lookout_publish_seconds" [CAMERA INTERFACE]
            "Time from an event's entry in the journal until the interface had taken it",
        TOKENS: Counter "lookout_tokens_total" [CAMERA DIRECTION]
            "Tokens of the language model",
        WAITING_JOBS: Gauge "lookout_waiting_jobs" []
            "Captions and questions that wait for the language model",
        ACTIVE_SEQUENCES: Gauge "lookout_active_sequences" []
            "Captions and answers that are being generated together",
        LANGUAGE_SERVER_READY: Gauge "lookout_language_server_ready" [SERVER]
            "1 while the language server passes its checks, else 0",
        LANGUAGE_SERVER_REQUESTS: Counter "lookout_language_server_requests_total" [SERVER SERVER_RESULT]
            "Attempts to get a text or a score from a language server",
        MODEL_INFO: Gauge "lookout_model_info" [MODEL DEVICE DEVICE_REASON]
            "Always 1",
    }
    "Rules and alerts" {
        RULE_SCORE: Gauge "lookout_rule_score" [CAMERA RULE]
            "Score of the newest window that was scored, 0 to 1",
        RULE_ACTIVE: Gauge "lookout_rule_active" [CAMERA RULE]
            "1 while an alert of the rule is active, else 0",
        RULE_BLIND: Gauge "lookout_rule_blind" [CAMERA RULE]
            "1 while no window could be scored for longer than the rule's hold, else 0",
        RULE_WINDOWS: Counter "lookout_rule_windows_total" [CAMERA RULE WINDOW_RESULT]
            "Windows on which the rule was due",
        ALERTS: Counter "lookout_alerts_total" [CAMERA RULE]
            "Alerts that began",
        FALSE_ALARMS: Counter "lookout_false_alarms_total" [CAMERA RULE]
            "Alerts that were marked as false alarms",
        CLIPS: Counter "lookout_clips_total" [CAMERA CLIP_RESULT]
            "Clips of alerts that were made, or could not be",
        ENCODED_BYTES: Gauge "lookout_encoded_bytes" []
            "Size of the encoded streams that are held for clips",
        DELIVERY_ATTEMPTS: Counter "lookout_delivery_attempts_total" [TARGET DELIVERY_RESULT]
            "Attempts to deliver an event of an alert to a webhook or by ntfy",
        DELIVERY_FAILING: Gauge "lookout_delivery_failing" [TARGET]
            "1 while the last attempt to deliver failed, else 0",
        DELIVERY_MISSED: Counter "lookout_delivery_missed_total" [TARGET]
            "Alerts older than `catch_up`, and events deleted by the journal, before they were sent",
    }
    "The buffer" {
        BUFFER_BYTES: Gauge "lookout_buffer_bytes" [CAMERA TIER]
            "Size of a tier",
        BUFFER_FRAMES: Gauge "lookout_buffer_frames" [CAMERA TIER]
            "Frames in a tier",
        BUFFER_TOKEN_BYTES: Gauge "lookout_buffer_token_bytes" [CAMERA]
            "Size of the tokens in the hot tier",
        FRAMES_NOT_WRITTEN: Counter "lookout_frames_not_written_total" [CAMERA NOT_WRITTEN]
            "Frames not written to disk",
        DISK_BYTES: Gauge "lookout_disk_bytes" []
            "Size of all segments on disk",
        DISK_FAILING: Gauge "lookout_disk_failing" []
            "1 while no frame can be written to disk, else 0",
        DISK_SEGMENTS_SET_ASIDE: Gauge "lookout_disk_segments_set_aside" [SET_ASIDE]
            "Segments that are set aside",
        FRAMES_REENCODED: Counter "lookout_frames_reencoded_total" [CAMERA]
            "Frames encoded again for a question",
        REENCODE_CACHE_BYTES: Gauge "lookout_reencode_cache_bytes" []
            "Size of the cache of re-encoded tokens, shared by all cameras",
    }
    "The prefix cache" {
        PREFIX_CACHE_LOOKUPS: Counter "lookout_prefix_cache_lookups_total" [RESULT]
            "Lookups of a window's prefix",
        PREFIX_CACHE_EVICTIONS: Counter "lookout_prefix_cache_evictions_total" []
            "Prefixes evicted to stay within generate.prefix_cache_bytes",
        PREFIX_CACHE_BYTES: Gauge "lookout_prefix_cache_bytes" []
            "Size of the prefix cache",
        PREFIX_CACHE_ENTRIES: Gauge "lookout_prefix_cache_entries" []
            "Windows whose prefix is in the cache",
    }
    "The journal on disk" {
        JOURNAL_EVENTS_STORED: Counter "lookout_journal_events_stored_total" []
            "Events written to disk",
        JOURNAL_EVENTS_NOT_STORED: Counter "lookout_journal_events_not_stored_total" []
            "Events that left memory before they could be written to disk",
        JOURNAL_FAILING: Gauge "lookout_journal_failing" []
            "1 while no event can be written to disk, else 0",
        JOURNAL_BYTES: Gauge "lookout_journal_bytes" []
            "Size of the database of events",
        JOURNAL_JPEGS: Gauge "lookout_journal_jpegs" []
            "Frames stored with events; a frame of several events counts once",
        JOURNAL_JPEG_BYTES: Gauge "lookout_journal_jpeg_bytes" []
            "Size of these frames' JPEGs, a part of lookout_journal_bytes",
        JOURNAL_JPEGS_STORED: Counter "lookout_journal_jpegs_stored_total" []
            "Frames written to disk with events",
        JOURNAL_JPEGS_NOT_STORED: Counter "lookout_journal_jpegs_not_stored_total" [JPEG_LOSS]
            "Frames of events that were not written to disk",
        SEARCH_VECTORS: Gauge "lookout_search_vectors" []
            "Captions and answers that the search by meaning can find",
    }
    "Interfaces" {
        MQTT_CONNECTED: Gauge "lookout_mqtt_connected" []
            "1 while the broker is connected, else 0",
        MQTT_EVENTS_MISSED: Counter "lookout_mqtt_events_missed_total" []
            "Events that the journal deleted, or older than `mqtt.catch_up`, before they were sent",
        MQTT_MESSAGES_REFUSED: Counter "lookout_mqtt_messages_refused_total" []
            "Messages dropped because the broker does not accept them",
        MCP_CALLS: Counter "lookout_mcp_calls_total" [TOOL MCP_RESULT]
            "Calls of a tool by MCP",
        TRACE_SPANS: Counter "lookout_trace_spans_total" [SPAN_RESULT]
            "Spans of traces, with what became of them",
        CONNECTIONS: Gauge "lookout_connections" [INTERFACE]
            "Clients connected",
        CONNECTIONS_REFUSED: Counter "lookout_connections_refused_total" [INTERFACE]
            "Connections closed at once, because too many were open",
        CONNECTIONS_TIMED_OUT: Counter "lookout_connections_timed_out_total" [INTERFACE]
            "Connections closed, because the client was idle or too slow",
        INTERFACE_INSECURE: Gauge "lookout_interface_insecure" [INTERFACE]
            "1 if other machines can reach the interface without TLS or without access control, else 0",
        TLS_HANDSHAKES_FAILED: Counter "lookout_tls_handshakes_failed_total" [INTERFACE]
            "Connections closed, because the client did not complete the TLS handshake",
        TLS_CERTIFICATE_EXPIRY: Gauge "lookout_tls_certificate_expiry_timestamp_seconds" []
            "Time at which the certificate in use expires, in seconds since 1970",
        TLS_RENEWAL_FAILING: Gauge "lookout_tls_renewal_failing" []
            "1 while the certificate's files have changed and cannot be used, else 0",
        ACCESS_DENIED: Counter "lookout_access_denied_total" [INTERFACE DENIAL]
            "Requests that access control refused",
        AUDIT_LOST: Counter "lookout_audit_lost_total" []
            "Entries of the audit log that were not written",
        LOG_LINES_LOST: Counter "lookout_log_lines_lost_total" []
            "Lines of the log that stderr did not take",
        INTERFACE_RESTARTS: Counter "lookout_interface_restarts_total" [INTERFACE]
            "Restarts of an interface after a failure or a panic",
    }
}

/// Returns every metric.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

impl Metric {
    /// Returns the unit, which the end of the name says.
    pub fn unit(&self) -> Unit {
        if self.name.ends_with("_seconds") {
            Unit::Seconds
        } else if self.name.ends_with("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        }
    }

    /// Registers the description that `/metrics` shows.
    pub fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit(), self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit(), self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.unit(), self.help),
        }
    }

    /// Returns the counter with these values of the labels, in the order of the table.
    pub fn counter<const N: usize>(&self, values: [&str; N]) -> Counter {
        counter!(self.name, self.labels(values))
    }

    /// Returns the gauge with these values of the labels, in the order of the table.
    pub fn gauge<const N: usize>(&self, values: [&str; N]) -> Gauge {
        gauge!(self.name, self.labels(values))
    }

    /// Returns the histogram with these values of the labels, in the order of the table.
    pub fn histogram<const N: usize>(&self, values: [&str; N]) -> Histogram {
        histogram!(self.name, self.labels(values))
    }

    fn labels<const N: usize>(&self, values: [&str; N]) -> Vec<metrics::Label> {
        debug_assert_eq!(self.labels.len(), N, "{}: number of labels", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs
            .map(|(label, value)| {
                debug_assert!(label.allows(value), "{}: {} = {value}", self.name, label.name);
                metrics::Label::new(label.name, value.to_owned())
            })
            .collect()
    }
}
