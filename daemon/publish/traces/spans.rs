//! Makes the spans of an event from the times that it has.
//!
//! The trace's ID is the event's UUID, unless a client's trace is continued: so that an event is
//! found by its trace, and a trace by its event. The names of attributes begin with `gen_ai.` where
//! OpenTelemetry's semantic conventions for generative AI have one, else with `lookout.`.
//!
//! Guarantees: no span has a frame. Prompts and texts are in it only if the config says so.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use serde_json::json;

use crate::event::{Alert, AlertPhase, Answer, Body, Caption, Coverage, Event, FinishReason};
use crate::event::{Inference, Timing};
use crate::frame::{Span, rfc3339};
use crate::interface::Interface;
use crate::trace_parent::TraceParent;

/// Bits of a trace's ID that are random, by W3C Trace Context.
const RANDOM_BITS: u32 = 56;

/// Makes the spans of events.
pub struct Tracer {
    scope: InstrumentationScope,
    /// Number of traces that are recorded, of 2^56.
    sampled: u64,
    has_content: bool,
}

impl Tracer {
    /// Records a share of the traces, from 0 to 1. `has_content` adds prompts and texts.
    pub fn new(sample_ratio: f64, has_content: bool) -> Tracer {
        let scope =
            InstrumentationScope::builder("lookout").with_version(env!("CARGO_PKG_VERSION"));
        // A float has no value between the greatest ones, so that 1.0 records everything.
        let sampled = (sample_ratio * (1u64 << RANDOM_BITS) as f64) as u64;
        Tracer { scope: scope.build(), sampled, has_content }
    }

    /// Returns the spans of an event, the root first. There are none for an event that has no
    /// trace, or is not sampled. `stored_at` is the time at which readers saw the event.
    pub fn trace(&self, event: &Event, stored_at: SystemTime) -> Vec<SpanData> {
        let Some(mut trace) = self.begin(event) else { return Vec::new() };
        let total_seconds = match (&event.body, event.body.inference()) {
            (Body::Alert(alert), _) => {
                let since = event.published_at.duration_since(alert.window.to);
                since.unwrap_or_default().as_secs_f64()
            }
            (_, inference) => inference.map_or(0.0, |made| made.timing.total_seconds),
        };
        let started = before(event.published_at, total_seconds);
        // A clock that was set must not make a span of negative length.
        let ended = stored_at.max(event.published_at).max(started);
        let (name, kind, attributes) = self.root(event);
        let root = trace.add_root(name, kind, (started, ended), attributes);
        if let Some(inference) = event.body.inference() {
            let is_unchanged =
                matches!(&event.body, Body::Caption(caption) if caption.unchanged.is_some());
            if !is_unchanged {
                self.model(&mut trace, root, started, inference);
            }
        }
        let stored = (event.published_at.min(ended), ended);
        trace.add(root, "store", SpanKind::Internal, stored, Vec::new());
        trace.spans
    }

    /// Returns the span of an event that a receiver of this interface accepted at `accepted_at`, or
    /// `None` if the event has no trace or is not sampled.
    pub fn publish(
        &self,
        event: &Event,
        interface: Interface,
        target: Option<&str>,
        accepted_at: SystemTime,
    ) -> Option<SpanData> {
        let mut trace = self.begin(event)?;
        let mut attributes = vec![text("lookout.interface", interface.name())];
        attributes.extend(target.map(|target| text("lookout.target", target)));
        let took = (event.published_at, accepted_at.max(event.published_at));
        trace.add(trace.root, "publish", SpanKind::Producer, took, attributes);
        trace.spans.pop()
    }

    /// Begins the trace of an event. Returns `None` for an event that has no trace, or is not
    /// sampled.
    fn begin(&self, event: &Event) -> Option<Trace<'_>> {
        let client = match &event.body {
            Body::Caption(_) => None,
            Body::Answer(answer) => answer.trace_parent,
            Body::Alert(alert) if alert.phase != AlertPhase::Acknowledged => None,
            Body::Alert(_) | Body::CameraStatus(_) | Body::RuleStatus(_) => return None,
        };
        let uuid = event.uuid.as_u128();
        let trace_id = client.map_or(uuid, |client| client.trace_id);
        let random = trace_id as u64 & ((1 << RANDOM_BITS) - 1);
        let is_sampled = client.map_or(random < self.sampled, |client| client.is_sampled);
        // The span of a delivery, which comes later, finds its parent by the event.
        let root = SpanId::from((uuid as u64 ^ (uuid >> 64) as u64).max(1));
        let trace_id = TraceId::from(trace_id);
        is_sampled.then_some(Trace { scope: &self.scope, trace_id, root, client, spans: vec![] })
    }

    /// Adds the spans of the model: the wait, with the encoding of frames, and the generation, with
    /// its two phases.
    fn model(&self, trace: &mut Trace, root: SpanId, started: SystemTime, inference: &Inference) {
        let Timing { wait_seconds, encode_seconds, prefill_seconds, decode_seconds, .. } =
            inference.timing;
        let internal = SpanKind::Internal;
        let generation = after(started, wait_seconds);
        let encoding = (started, after(started, encode_seconds.min(wait_seconds)));
        let prefilled = after(generation, prefill_seconds);
        let decoded = after(prefilled, decode_seconds);
        let waiting = (started, generation);
        let wait = trace.add(root, "wait", internal.clone(), waiting, Vec::new());
        if encode_seconds > 0.0 {
            let device = vec![text("lookout.device", &inference.devices.vision.device)];
            trace.add(wait, "encode frames", internal.clone(), encoding, device);
        }
        let name = format!("generate_content {}", inference.model);
        let attributes = self.generation(inference);
        let generate = trace.add(root, name, internal.clone(), (generation, decoded), attributes);
        let prefill = (generation, prefilled);
        trace.add(generate, "prefill", internal.clone(), prefill, Vec::new());
        trace.add(generate, "decode", internal, (prefilled, decoded), Vec::new());
    }

    /// Returns the name, the kind and the attributes of the first span.
    fn root(&self, event: &Event) -> (&'static str, SpanKind, Vec<KeyValue>) {
        let mut attributes = vec![
            text("lookout.camera", &event.camera),
            text("lookout.event.id", event.id.to_string()),
            text("lookout.event.uuid", event.uuid.to_string()),
        ];
        let (name, kind) = match &event.body {
            Body::Caption(Caption { inference, skipped_windows, unchanged }) => {
                attributes.extend(seen(inference.window, &inference.coverage));
                attributes.push(number("lookout.skipped_windows", *skipped_windows));
                attributes.push(KeyValue::new("lookout.unchanged", unchanged.is_some()));
                ("caption", SpanKind::Internal)
            }
            Body::Answer(answer) => {
                attributes.extend(seen(answer.inference.window, &answer.inference.coverage));
                attributes.extend(of_question(answer));
                ("answer", SpanKind::Server)
            }
            Body::Alert(alert) => {
                attributes.extend(seen(alert.window, &alert.coverage));
                attributes.extend(of_rule(alert));
                ("alert", SpanKind::Internal)
            }
            Body::CameraStatus(_) | Body::RuleStatus(_) => ("event", SpanKind::Internal),
        };
        (name, kind, attributes)
    }

    /// Returns the attributes of a run of the model.
    fn generation(&self, inference: &Inference) -> Vec<KeyValue> {
        let usage = inference.usage;
        let reason = match inference.finish_reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        let reasons = Value::Array(vec![StringValue::from(reason)].into());
        let mut attributes = vec![
            text("gen_ai.operation.name", "generate_content"),
            text("gen_ai.provider.name", "lookout"),
            text("gen_ai.request.model", &inference.model),
            text("gen_ai.response.model", &inference.model),
            KeyValue::new("gen_ai.response.finish_reasons", reasons),
            number("gen_ai.usage.input_tokens", usage.video_tokens + usage.text_tokens),
            number("gen_ai.usage.output_tokens", usage.new_tokens),
            number("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
            number("lookout.usage.video_tokens", usage.video_tokens),
            text("lookout.device", &inference.devices.language.device),
        ];
        if self.has_content {
            let part = |text: &str| json!([{ "type": "text", "content": text }]);
            let input = json!([{ "role": "user", "parts": part(&inference.prompt) }]);
            let output = json!([{
                "role": "assistant", "parts": part(&inference.text), "finish_reason": reason,
            }]);
            attributes.push(text("gen_ai.input.messages", input.to_string()));
            attributes.push(text("gen_ai.output.messages", output.to_string()));
        }
        attributes
    }
}

/// The spans of a trace.
struct Trace<'a> {
    scope: &'a InstrumentationScope,
    trace_id: TraceId,
    /// The ID of the first span.
    root: SpanId,
    /// The client's span, which is the parent of the first one.
    client: Option<TraceParent>,
    spans: Vec<SpanData>,
}

impl Trace<'_> {
    /// Adds the first span.
    fn add_root(
        &mut self,
        name: &'static str,
        kind: SpanKind,
        times: (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) -> SpanId {
        let parent = self.client.map_or(SpanId::INVALID, |client| SpanId::from(client.span_id));
        self.push(self.root, parent, name.into(), kind, times, attributes)
    }

    /// Adds a span below another one.
    fn add(
        &mut self,
        parent: SpanId,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        times: (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) -> SpanId {
        let id = SpanId::from(rand::random_range(1..=u64::MAX));
        self.push(id, parent, name.into(), kind, times, attributes)
    }

    fn push(
        &mut self,
        span_id: SpanId,
        parent_span_id: SpanId,
        name: Cow<'static, str>,
        span_kind: SpanKind,
        (start_time, end_time): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) -> SpanId {
        let (flags, state) = (TraceFlags::SAMPLED, TraceState::default());
        self.spans.push(SpanData {
            span_context: SpanContext::new(self.trace_id, span_id, flags, false, state),
            parent_span_id,
            parent_span_is_remote: span_id == self.root && self.client.is_some(),
            span_kind,
            name,
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        });
        span_id
    }
}

/// Returns the attributes of a window and of how much of it the model saw.
fn seen(window: Span, coverage: &Coverage) -> [KeyValue; 5] {
    [
        text("lookout.window.from", rfc3339::format(window.from)),
        text("lookout.window.to", rfc3339::format(window.to)),
        number("lookout.frames.expected", coverage.frames_expected),
        number("lookout.frames.used", coverage.frames_used),
        KeyValue::new("lookout.gaps", coverage.gaps.len() as i64),
    ]
}

fn of_question(answer: &Answer) -> [KeyValue; 4] {
    [
        text("lookout.question.id", &answer.question_id),
        text("gen_ai.conversation.id", &answer.conversation),
        number("lookout.question.earlier_turns", answer.earlier_turns),
        KeyValue::new("lookout.question.parts", answer.parts.len() as i64),
    ]
}

fn of_rule(alert: &Alert) -> [KeyValue; 4] {
    [
        text("lookout.rule", &alert.rule),
        text("lookout.alert.id", &alert.alert_id),
        text("lookout.alert.phase", alert.phase.name()),
        KeyValue::new("lookout.alert.score", alert.score),
    ]
}

fn text(name: &'static str, value: impl AsRef<str>) -> KeyValue {
    KeyValue::new(name, value.as_ref().to_owned())
}

fn number(name: &'static str, value: u32) -> KeyValue {
    KeyValue::new(name, i64::from(value))
}

/// Returns the time this many seconds later.
fn after(time: SystemTime, seconds: f64) -> SystemTime {
    let length = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    time.checked_add(length).unwrap_or(time)
}

/// Returns the time this many seconds earlier.
fn before(time: SystemTime, seconds: f64) -> SystemTime {
    let length = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    time.checked_sub(length).unwrap_or(time)
}
