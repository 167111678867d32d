//! The metrics' labels: their names, and the values that a label can have.

/// A label of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    pub name: &'static str,
    values: Values,
}

#[derive(Clone, Copy, Debug)]
enum Values {
    /// Any value of this description.
    Described(&'static str),
    /// One of these values, each with its meaning.
    Listed(&'static [(&'static str, &'static str)]),
}

impl Label {
    const fn described(name: &'static str, about: &'static str) -> Label {
        Label { name, values: Values::Described(about) }
    }

    const fn listed(name: &'static str, values: &'static [(&'static str, &'static str)]) -> Label {
        Label { name, values: Values::Listed(values) }
    }

    /// Returns true if the label can have this value.
    pub fn allows(&self, value: &str) -> bool {
        match self.values {
            Values::Described(_) => true,
            Values::Listed(values) => values.iter().any(|(known, _)| *known == value),
        }
    }

    /// Returns the label's description, if its values are not listed.
    pub fn description(&self) -> Option<&'static str> {
        match self.values {
            Values::Described(about) => Some(about),
            Values::Listed(_) => None,
        }
    }

    /// Returns the values with their meanings, or nothing if they are not listed.
    pub fn values(&self) -> &'static [(&'static str, &'static str)] {
        match self.values {
            Values::Described(_) => &[],
            Values::Listed(values) => values,
        }
    }
}

pub const CAMERA: Label = Label::described("camera", "the camera's name in the config");
pub const RULE: Label = Label::described("rule", "the rule's name in the config");
pub const TARGET: Label = Label::described("target", "the target's name in the config");
pub const SERVER: Label =
    Label::described("server", "the server's address in `language.endpoints`");
pub const TOOL: Label = Label::described("tool", "the tool's name");
pub const MODEL: Label = Label::described("model", "the package's name");
pub const DEVICE: Label = Label::described("device", "the device that runs the model");
pub const DEVICE_REASON: Label =
    Label::described("device_reason", "the reason why this device was chosen");
pub const INTERFACE: Label = Label::listed(
    "interface",
    &[
        ("grpc", "gRPC"),
        ("http", "HTTP"),
        ("mqtt", "MQTT; an event is published with its PubAck"),
        ("webhook", "webhooks; an alert is published when its target has accepted it"),
        ("ntfy", "ntfy, in the same way"),
        ("otlp", "traces for an OpenTelemetry collector"),
    ],
);
pub const COMPONENT: Label = Label::listed(
    "component",
    &[("vision", "the vision encoder"), ("language", "the language model")],
);
pub const DIRECTION: Label =
    Label::listed("direction", &[("in", "read: video and text"), ("out", "generated")]);
pub const RESULT: Label = Label::listed(
    "result",
    &[("hit", "the prefix was in the cache"), ("miss", "the prefix had to be read")],
);
pub const REFUSAL: Label = Label::listed(
    "reason",
    &[
        ("camera_not_found", "no camera has this name"),
        ("no_frames", "the buffer has no frame of the range"),
        ("queue_full", "too many questions were waiting"),
        ("too_many_questions", "the token had asked as often as it may"),
        ("invalid_question", "the question was not valid"),
        ("stopping", "the daemon was stopping"),
        ("model_failed_temporarily", "the model failed on this question"),
        ("model_failed", "the model failed"),
    ],
);
pub const DENIAL: Label = Label::listed(
    "reason",
    &[
        ("no_token", "the request had no token"),
        ("wrong_token", "the token was unknown, expired or revoked"),
        ("too_many_failures", "its address had sent too many wrong tokens"),
        ("role_too_low", "the token's role does not permit it"),
    ],
);
pub const SET_ASIDE: Label = Label::listed(
    "reason",
    &[("unreadable", "it cannot be read"), ("undeletable", "it cannot be deleted")],
);

/// Defines an enum whose variants are the values of a label, and the label.
macro_rules! label_values {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident, $label:ident = $label_name:literal {
            $($(#[doc = $doc:literal])+ $variant:ident = $value:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// Returns the label's value.
            pub fn value(self) -> &'static str {
                match self {
                    $($name::$variant => $value,)+
                }
            }
        }

        pub const $label: Label =
            Label::listed($label_name, &[$(($value, concat!($($doc),+)),)+]);
    };
}

label_values! {
    /// Results of an attempt to deliver an alert.
    pub enum DeliveryResult, DELIVERY_RESULT = "result" {
        /// The target accepted the alert.
        Delivered = "delivered",
        /// The target refused the alert, which is dropped.
        Refused = "refused",
        /// The attempt failed and will be repeated.
        Failed = "failed",
    }
}

label_values! {
    /// Results of a window for a rule.
    pub enum WindowResult, WINDOW_RESULT = "result" {
        /// The window was scored.
        Scored = "scored",
        /// The window could not be scored, or less than half of it was seen.
        Unknown = "unknown",
    }
}

label_values! {
    /// Reasons for dropping a frame.
    pub enum DropReason, DROP_REASON = "reason" {
        /// Encoding is too slow, and the inbox is full.
        Inbox = "inbox_full",
        /// The frame is not usable, or has no time.
        Corrupt = "corrupt",
        /// The model's run ended with an error.
        Failed = "model_failed",
        /// The model's features were not finite.
        NotFinite = "not_finite",
    }
}

label_values! {
    /// Reasons for skipping a window's caption.
    pub enum SkipReason, SKIP_REASON = "reason" {
        /// The caption would have been published after its deadline.
        Late = "late",
        /// The camera's next window closed before this one had its turn.
        Replaced = "replaced",
        /// No frame of the window was left in the hot tier.
        Gone = "evicted",
        /// The model cannot process the window's prompt.
        Refused = "prompt_refused",
        /// The model's run ended with an error.
        Failed = "model_failed",
        /// The model's logits were not finite.
        NotFinite = "not_finite",
        /// No language server gave a reply.
        Server = "server_failed",
    }
}

label_values! {
    /// Reasons for not writing a frame to disk.
    pub enum NotWritten, NOT_WRITTEN = "reason" {
        /// Too many frames are waiting: the disk is too slow.
        Queue = "queue_full",
        /// The disk is full, read-only or broken.
        Disk = "disk_failing",
    }
}

label_values! {
    /// Reasons for not storing a JPEG with its event.
    pub enum JpegLoss, JPEG_LOSS = "reason" {
        /// Too many JPEGs are waiting: the disk is too slow or failing.
        Queue = "queue_full",
        /// The event left memory before it could be stored.
        Event = "event_not_stored",
    }
}

label_values! {
    /// Kinds of model failures.
    pub enum FailureKind, FAILURE_KIND = "kind" {
        /// A run ended with an error.
        Run = "run",
        /// A result was not finite.
        NotFinite = "not_finite",
        /// No language server gave a reply.
        Server = "server_failed",
    }
}

label_values! {
    /// Ends of an attempt on a language server.
    pub enum ServerResult, SERVER_RESULT = "result" {
        /// It gave a reply.
        Answered = "answered",
        /// It could not be reached, or its reply was unusable. The next server was tried.
        Failed = "failed",
        /// It refused the request, or no server could have answered it.
        Refused = "refused",
    }
}

label_values! {
    /// A stage on the way to a caption, an answer or an alert, to which its time is attributed.
    pub enum Stage, STAGE = "stage" {
        /// Per frame: from its arrival to the decoded frame (jitter buffer, decoding, conversion).
        Decode = "decode_frame",
        /// Per frame: running the vision encoder.
        Encode = "encode_frame",
        /// Per caption or answer: waiting for frames and for a turn.
        Wait = "wait",
        /// Per caption or answer: reading the prompt.
        Prefill = "prefill",
        /// Per caption or answer: generating the text.
        DecodeTokens = "decode_tokens",
        /// Per window with rules: from its close until the rules' questions are read. Includes
        /// running the vision encoder for its last frame.
        RulesWait = "rules_wait",
        /// Per window with rules: reading the questions.
        RulesScore = "rules_score",
        /// Per window with rules: from the scores until their alerts are in the journal.
        RulesPublish = "rules_publish",
    }
}

label_values! {
    /// A tier of the rolling buffer.
    pub enum BufferTier, TIER = "tier" {
        /// Frames with their tokens and JPEGs in memory.
        Hot = "hot",
        /// Frames with their JPEGs in memory.
        Warm = "warm",
        /// Frames on disk, including those that are still in memory.
        Disk = "disk",
    }
}

label_values! {
    /// Results of making a clip.
    pub enum ClipResult, CLIP_RESULT = "result" {
        /// The clip is stored.
        Ready = "ready",
        /// There is no clip. The alert's event has the reason.
        Missing = "missing",
    }
}

label_values! {
    /// Results of a call of a tool by MCP.
    pub enum McpResult, MCP_RESULT = "result" {
        /// The tool returned its result.
        Ok = "ok",
        /// The tool refused the call.
        Refused = "refused",
        /// The client cancelled the call or went away.
        Cancelled = "cancelled",
        /// The tool panicked.
        Failed = "failed",
    }
}

label_values! {
    /// Results of a span of a trace.
    pub enum SpanResult, SPAN_RESULT = "result" {
        /// The collector accepted the span.
        Exported = "exported",
        /// Too many spans wait: the collector is too slow or away.
        Queue = "queue_full",
        /// The collector refused the span, or was not reachable.
        Failed = "export_failed",
    }
}
