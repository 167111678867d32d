//! Converts the daemon's values to protobuf. The opposite direction, for clients, is `decode.rs`.

mod alert;
mod trial;

use std::time::SystemTime;

use prost::Message;

use crate::event::{
    Answer, AnswerPart, Body, CameraState, CameraStatus, Caption, Coverage, Devices, Event,
    EventId, EventKind, FinishReason, FrameReference, Gap, GapCause, Inference, Placement,
    SummaryMethod, Timing, Unchanged, Usage,
};
use crate::frame::{Clock, FrameId, Span, clamped};
use crate::proto;
use crate::service::CameraInfo;

pub use alert::{clip, rule};
pub use trial::{trial_item, trial_request};

pub fn event(event: &Event) -> proto::Event {
    proto::Event {
        id: Some(event_id(event.id)),
        uuid: event.uuid.to_string(),
        published_at: time(event.published_at),
        camera: event.camera.to_string(),
        kept: event.kept,
        body: Some(match &event.body {
            Body::Caption(from) => proto::event::Body::Caption(caption(from)),
            Body::Answer(from) => proto::event::Body::Answer(answer(from)),
            Body::CameraStatus(from) => proto::event::Body::CameraStatus(camera_status(from)),
            Body::Alert(from) => proto::event::Body::Alert(alert::alert(from)),
            Body::RuleStatus(from) => proto::event::Body::RuleStatus(alert::rule_status(from)),
        }),
    }
}

/// Encodes an event as the message `lookout.v1.Event`.
pub fn event_bytes(from: &Event) -> Vec<u8> {
    event(from).encode_to_vec()
}

pub fn event_id(EventId { run, sequence }: EventId) -> proto::EventId {
    proto::EventId { run: Some(run), sequence }
}

pub fn frame_id(FrameId { run, number }: FrameId) -> proto::FrameId {
    proto::FrameId { run: Some(run), number }
}

fn caption(from: &Caption) -> proto::Caption {
    proto::Caption {
        inference: Some(inference(&from.inference)),
        skipped_windows: from.skipped_windows,
        unchanged: from.unchanged.as_ref().map(unchanged),
    }
}

fn unchanged(from: &Unchanged) -> proto::Unchanged {
    proto::Unchanged { since: time(from.since), event: Some(event_id(from.event)) }
}

fn answer(from: &Answer) -> proto::Answer {
    proto::Answer {
        inference: Some(inference(&from.inference)),
        question_id: from.question_id.clone(),
        conversation: from.conversation.clone(),
        earlier_turns: from.earlier_turns,
        parts: from.parts.iter().map(part).collect(),
        summary_method: match from.summary_method {
            None => proto::SummaryMethod::Unspecified,
            Some(SummaryMethod::YesNo) => proto::SummaryMethod::YesNo,
            Some(SummaryMethod::Same) => proto::SummaryMethod::Same,
            Some(SummaryMethod::Model) => proto::SummaryMethod::Model,
            Some(SummaryMethod::List) => proto::SummaryMethod::List,
        }
        .into(),
        yes_score: from.yes_score,
        schema_sha256: from.schema_sha256.as_deref().map(Into::into),
    }
}

fn inference(from: &Inference) -> proto::Inference {
    proto::Inference {
        prompt: from.prompt.clone(),
        text: from.text.clone(),
        window: Some(span(from.window)),
        coverage: Some(coverage(&from.coverage)),
        frames: from.frames.iter().map(frame_reference).collect(),
        model: from.model.clone(),
        devices: Some(devices(&from.devices)),
        finish_reason: finish_reason(from.finish_reason).into(),
        usage: Some(usage(from.usage)),
        timing: Some(timing(from.timing)),
    }
}

fn finish_reason(from: FinishReason) -> proto::FinishReason {
    match from {
        FinishReason::Stop => proto::FinishReason::Stop,
        FinishReason::Length => proto::FinishReason::Length,
    }
}

fn devices(from: &Devices) -> proto::Devices {
    let placement = |Placement { device, reason }: &Placement| proto::Placement {
        device: device.clone(),
        reason: reason.clone(),
    };
    proto::Devices {
        vision: Some(placement(&from.vision)),
        language: Some(placement(&from.language)),
    }
}

pub fn part(from: &AnswerPart) -> proto::AnswerPart {
    proto::AnswerPart {
        window: Some(span(from.window)),
        text: from.text.clone(),
        coverage: Some(coverage(&from.coverage)),
    }
}

pub fn camera(from: &CameraInfo) -> proto::Camera {
    proto::Camera {
        name: from.name.to_string(),
        source: from.source.clone(),
        status: Some(camera_status(&from.status)),
        buffer_frames: from.buffer_frames,
        buffer_bytes: from.buffer_bytes,
        disk_bytes: from.disk_bytes,
        oldest_frame_at: from.oldest_frame_at.and_then(time),
    }
}

pub fn kind(kind: EventKind) -> proto::EventKind {
    match kind {
        EventKind::Caption => proto::EventKind::Caption,
        EventKind::Answer => proto::EventKind::Answer,
        EventKind::CameraStatus => proto::EventKind::CameraStatus,
        EventKind::Alert => proto::EventKind::Alert,
        EventKind::RuleStatus => proto::EventKind::RuleStatus,
    }
}

pub fn time(time: SystemTime) -> Option<prost_types::Timestamp> {
    // The conversion of `prost_types` panics for extreme system times.
    Some(clamped(time).into())
}

pub fn span(from: Span) -> proto::Span {
    proto::Span { from: time(from.from), to: time(from.to) }
}

fn coverage(from: &Coverage) -> proto::Coverage {
    proto::Coverage {
        frames_expected: from.frames_expected,
        frames_used: from.frames_used,
        covered_span: from.covered_span.map(span),
        gaps: from.gaps.iter().map(gap).collect(),
        clock_source: match from.clock_source {
            Clock::Camera => proto::ClockSource::Camera,
            Clock::Host => proto::ClockSource::Host,
        }
        .into(),
    }
}

fn gap(from: &Gap) -> proto::Gap {
    proto::Gap { span: Some(span(from.span)), cause: gap_cause(from.cause).into() }
}

fn gap_cause(cause: GapCause) -> proto::GapCause {
    match cause {
        GapCause::CameraDown => proto::GapCause::CameraDown,
        GapCause::Overload => proto::GapCause::Overload,
        GapCause::Evicted => proto::GapCause::Evicted,
        GapCause::BeforeStart => proto::GapCause::BeforeStart,
        GapCause::Clock => proto::GapCause::Clock,
        GapCause::Corrupt => proto::GapCause::Corrupt,
        GapCause::ModelFailed => proto::GapCause::ModelFailed,
        GapCause::Deleted => proto::GapCause::Deleted,
    }
}

pub fn frame_reference(from: &FrameReference) -> proto::FrameReference {
    proto::FrameReference {
        id: Some(frame_id(from.id)),
        captured_at: time(from.captured_at),
        slow: from.slow,
    }
}

fn usage(from: Usage) -> proto::Usage {
    let Usage { video_tokens, text_tokens, new_tokens, cached_tokens } = from;
    proto::Usage { video_tokens, text_tokens, new_tokens, cached_tokens }
}

fn timing(from: Timing) -> proto::Timing {
    let Timing { wait_seconds, encode_seconds, prefill_seconds, decode_seconds, total_seconds } =
        from;
    proto::Timing { wait_seconds, encode_seconds, prefill_seconds, decode_seconds, total_seconds }
}

fn camera_status(from: &CameraStatus) -> proto::CameraStatus {
    let state = match from.state {
        CameraState::Connecting => proto::CameraState::Connecting,
        CameraState::Live => proto::CameraState::Live,
        CameraState::Stalled => proto::CameraState::Stalled,
        CameraState::Lost => proto::CameraState::Lost,
        CameraState::Refused => proto::CameraState::Refused,
        CameraState::Paused => proto::CameraState::Paused,
    };
    proto::CameraStatus {
        state: state.into(),
        since: time(from.since),
        reason: from.reason.clone(),
        last_frame_at: from.last_frame_at.and_then(time),
        reconnects: from.reconnects,
        decoder: from.decoder.clone(),
    }
}
