//! Converts protobuf to the daemon's values: the inverse of `encode.rs`.
//!
//! A reply that lacks a field the daemon always sets, or contains an unknown value, comes from
//! another version. The error names the field.

mod alert;
mod trial;

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message;

use crate::event::{
    Answer, AnswerPart, Body, CameraState, CameraStatus, Caption, Coverage, Devices, Event,
    EventId, FinishReason, FrameReference, Gap, GapCause, Inference, Placement, SummaryMethod,
    Timing, Unchanged, Usage,
};
use crate::frame::{Clock, FrameId, Span};
use crate::proto;
use crate::service::CameraInfo;

pub use alert::{clip, rule};
pub use trial::trial_item;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("unexpected reply: field {0} is missing or unknown (different daemon version?)")]
pub struct UnexpectedReply(pub &'static str);

type Read<T> = Result<T, UnexpectedReply>;

/// Decodes an event from the message `lookout.v1.Event`.
pub fn event_bytes(bytes: &[u8]) -> Read<Event> {
    event(proto::Event::decode(bytes).map_err(|_| UnexpectedReply("event"))?)
}

pub fn event(from: proto::Event) -> Read<Event> {
    Ok(Event {
        id: event_id(from.id, "id")?,
        uuid: from.uuid.parse().map_err(|_| UnexpectedReply("uuid"))?,
        published_at: time(from.published_at, "published_at")?,
        camera: from.camera.into(),
        kept: from.kept,
        body: match from.body.ok_or(UnexpectedReply("body"))? {
            proto::event::Body::Caption(from) => Body::Caption(caption(from)?),
            proto::event::Body::Answer(from) => Body::Answer(answer(from)?),
            proto::event::Body::CameraStatus(from) => Body::CameraStatus(camera_status(from)?),
            proto::event::Body::Alert(from) => Body::Alert(alert::alert(from)?),
            proto::event::Body::RuleStatus(from) => Body::RuleStatus(alert::rule_status(from)?),
        },
    })
}

fn event_id(from: Option<proto::EventId>, field: &'static str) -> Read<EventId> {
    match from {
        Some(proto::EventId { run: Some(run), sequence }) => Ok(EventId { run, sequence }),
        _ => Err(UnexpectedReply(field)),
    }
}

fn caption(from: proto::Caption) -> Read<Caption> {
    Ok(Caption {
        inference: inference(from.inference)?,
        skipped_windows: from.skipped_windows,
        unchanged: from.unchanged.map(unchanged).transpose()?,
    })
}

fn unchanged(from: proto::Unchanged) -> Read<Unchanged> {
    Ok(Unchanged { since: time(from.since, "since")?, event: event_id(from.event, "event")? })
}

fn answer(from: proto::Answer) -> Read<Answer> {
    Ok(Answer {
        summary_method: match from.summary_method() {
            proto::SummaryMethod::Unspecified => None,
            proto::SummaryMethod::YesNo => Some(SummaryMethod::YesNo),
            proto::SummaryMethod::Same => Some(SummaryMethod::Same),
            proto::SummaryMethod::Model => Some(SummaryMethod::Model),
            proto::SummaryMethod::List => Some(SummaryMethod::List),
        },
        inference: inference(from.inference)?,
        question_id: from.question_id,
        conversation: from.conversation,
        earlier_turns: from.earlier_turns,
        parts: from.parts.into_iter().map(part).collect::<Read<_>>()?,
        yes_score: from.yes_score,
        schema_sha256: from.schema_sha256.map(Into::into),
        trace_parent: None,
    })
}

fn inference(from: Option<proto::Inference>) -> Read<Inference> {
    let from = from.ok_or(UnexpectedReply("inference"))?;
    Ok(Inference {
        finish_reason: finish_reason(from.finish_reason())?,
        prompt: from.prompt,
        text: from.text,
        window: span(from.window, "window")?,
        coverage: coverage(from.coverage)?,
        frames: from.frames.into_iter().map(frame_reference).collect::<Read<_>>()?,
        model: from.model,
        devices: devices(from.devices)?,
        usage: usage(from.usage.ok_or(UnexpectedReply("usage"))?),
        timing: timing(from.timing.ok_or(UnexpectedReply("timing"))?),
    })
}

fn finish_reason(from: proto::FinishReason) -> Read<FinishReason> {
    match from {
        proto::FinishReason::Stop => Ok(FinishReason::Stop),
        proto::FinishReason::Length => Ok(FinishReason::Length),
        proto::FinishReason::Unspecified => Err(UnexpectedReply("finish_reason")),
    }
}

fn devices(from: Option<proto::Devices>) -> Read<Devices> {
    let from = from.ok_or(UnexpectedReply("devices"))?;
    let placement = |from: Option<proto::Placement>, field| {
        let proto::Placement { device, reason } = from.ok_or(UnexpectedReply(field))?;
        Ok(Placement { device, reason })
    };
    Ok(Devices {
        vision: placement(from.vision, "vision")?,
        language: placement(from.language, "language")?,
    })
}

pub fn part(from: proto::AnswerPart) -> Read<AnswerPart> {
    Ok(AnswerPart {
        window: span(from.window, "window")?,
        text: from.text,
        coverage: coverage(from.coverage)?,
    })
}

pub fn camera(from: proto::Camera) -> Read<CameraInfo> {
    Ok(CameraInfo {
        name: Arc::from(from.name),
        source: from.source,
        status: camera_status(from.status.ok_or(UnexpectedReply("status"))?)?,
        buffer_frames: from.buffer_frames,
        buffer_bytes: from.buffer_bytes,
        disk_bytes: from.disk_bytes,
        oldest_frame_at: optional_time(from.oldest_frame_at, "oldest_frame_at")?,
    })
}

pub fn time(from: Option<prost_types::Timestamp>, field: &'static str) -> Read<SystemTime> {
    from.and_then(|time| time.try_into().ok()).ok_or(UnexpectedReply(field))
}

pub fn optional_time(
    from: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Read<Option<SystemTime>> {
    from.map(|from| time(Some(from), field)).transpose()
}

pub fn span(from: Option<proto::Span>, field: &'static str) -> Read<Span> {
    let from = from.ok_or(UnexpectedReply(field))?;
    Ok(Span { from: time(from.from, field)?, to: time(from.to, field)? })
}

fn coverage(from: Option<proto::Coverage>) -> Read<Coverage> {
    let from = from.ok_or(UnexpectedReply("coverage"))?;
    Ok(Coverage {
        clock_source: match from.clock_source() {
            proto::ClockSource::Camera => Clock::Camera,
            proto::ClockSource::Host => Clock::Host,
            proto::ClockSource::Unspecified => return Err(UnexpectedReply("clock_source")),
        },
        frames_expected: from.frames_expected,
        frames_used: from.frames_used,
        covered_span: from.covered_span.map(|from| span(Some(from), "covered_span")).transpose()?,
        gaps: from.gaps.into_iter().map(gap).collect::<Read<_>>()?,
    })
}

fn gap(from: proto::Gap) -> Read<Gap> {
    Ok(Gap { cause: gap_cause(from.cause())?, span: span(from.span, "span")? })
}

fn gap_cause(cause: proto::GapCause) -> Read<GapCause> {
    Ok(match cause {
        proto::GapCause::CameraDown => GapCause::CameraDown,
        proto::GapCause::Overload => GapCause::Overload,
        proto::GapCause::Evicted => GapCause::Evicted,
        proto::GapCause::BeforeStart => GapCause::BeforeStart,
        proto::GapCause::Clock => GapCause::Clock,
        proto::GapCause::Corrupt => GapCause::Corrupt,
        proto::GapCause::ModelFailed => GapCause::ModelFailed,
        proto::GapCause::Deleted => GapCause::Deleted,
        proto::GapCause::Unspecified => return Err(UnexpectedReply("cause")),
    })
}

pub fn frame_reference(from: proto::FrameReference) -> Read<FrameReference> {
    let Some(proto::FrameId { run: Some(run), number }) = from.id else {
        return Err(UnexpectedReply("frames.id"));
    };
    Ok(FrameReference {
        id: FrameId { run, number },
        captured_at: time(from.captured_at, "captured_at")?,
        slow: from.slow,
    })
}

fn usage(from: proto::Usage) -> Usage {
    let proto::Usage { video_tokens, text_tokens, new_tokens, cached_tokens } = from;
    Usage { video_tokens, text_tokens, new_tokens, cached_tokens }
}

fn timing(from: proto::Timing) -> Timing {
    let proto::Timing {
        wait_seconds,
        encode_seconds,
        prefill_seconds,
        decode_seconds,
        total_seconds,
    } = from;
    Timing { wait_seconds, encode_seconds, prefill_seconds, decode_seconds, total_seconds }
}

fn camera_status(from: proto::CameraStatus) -> Read<CameraStatus> {
    Ok(CameraStatus {
        state: match from.state() {
            proto::CameraState::Connecting => CameraState::Connecting,
            proto::CameraState::Live => CameraState::Live,
            proto::CameraState::Stalled => CameraState::Stalled,
            proto::CameraState::Lost => CameraState::Lost,
            proto::CameraState::Refused => CameraState::Refused,
            proto::CameraState::Paused => CameraState::Paused,
            proto::CameraState::Unspecified => return Err(UnexpectedReply("state")),
        },
        since: time(from.since, "since")?,
        reason: from.reason,
        last_frame_at: optional_time(from.last_frame_at, "last_frame_at")?,
        reconnects: from.reconnects,
        decoder: from.decoder,
    })
}
