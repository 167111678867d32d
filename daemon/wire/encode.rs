//! Converts the daemon's values to protobuf. The opposite direction, for clients, is `decode.rs`.

use std::time::SystemTime;

use crate::event::{
    AnswerPart, Body, CameraState, CameraStatus, Coverage, Description, Event, EventKind,
    FinishReason, FrameReference, Gap, GapCause, SummaryMethod, Timing, Usage,
};
use crate::frame::{Clock, Span, clamped};
use crate::proto;
use crate::service::CameraInfo;

pub fn event(event: &Event) -> proto::Event {
    proto::Event {
        run: event.run,
        sequence: event.sequence,
        published_at: time(event.published_at),
        camera: event.camera.to_string(),
        body: Some(match &event.body {
            Body::Caption(words) => proto::event::Body::Caption(description(words)),
            Body::Answer(words) => proto::event::Body::Answer(description(words)),
            Body::Camera(status) => proto::event::Body::Status(camera_status(status)),
        }),
    }
}

pub fn description(from: &Description) -> proto::Description {
    proto::Description {
        id: from.id.clone(),
        prompt: from.prompt.clone(),
        text: from.text.clone(),
        window: Some(span(from.window)),
        coverage: Some(coverage(&from.coverage)),
        frames: from.frames.iter().map(frame_ref).collect(),
        model: from.model.clone(),
        device: from.device.clone(),
        device_reason: from.device_reason.clone(),
        skipped: from.skipped,
        unchanged: from.unchanged.as_ref().map(|unchanged| proto::Unchanged {
            since: time(unchanged.since),
            sequence: unchanged.sequence,
        }),
        finish: match from.finish {
            FinishReason::Stop => proto::Finish::Stop,
            FinishReason::Length => proto::Finish::Length,
        }
        .into(),
        usage: Some(usage(from.usage)),
        timing: Some(timing(from.timing)),
        conversation: from.conversation.clone(),
        earlier_turns: from.earlier_turns,
        parts: from.parts.iter().map(part).collect(),
        summary: match from.summary {
            None => proto::Summary::Unspecified,
            Some(SummaryMethod::YesNo) => proto::Summary::YesNo,
            Some(SummaryMethod::Same) => proto::Summary::Same,
            Some(SummaryMethod::Model) => proto::Summary::Model,
            Some(SummaryMethod::List) => proto::Summary::List,
        }
        .into(),
    }
}

pub fn part(from: &AnswerPart) -> proto::Part {
    let AnswerPart { window, text, coverage: of_it } = from;
    let (window, text) = (Some(span(*window)), text.clone());
    proto::Part { window, text, coverage: Some(coverage(of_it)) }
}

pub fn camera(from: &CameraInfo) -> proto::Camera {
    proto::Camera {
        name: from.name.to_string(),
        source: from.source.clone(),
        status: Some(camera_status(&from.status)),
        buffer_frames: from.buffer_frames,
        buffer_bytes: from.buffer_bytes,
        disk_bytes: from.disk_bytes,
        oldest_frame: from.oldest_frame.and_then(time),
    }
}

pub fn kind(kind: EventKind) -> proto::Kind {
    match kind {
        EventKind::Caption => proto::Kind::Caption,
        EventKind::Answer => proto::Kind::Answer,
        EventKind::Camera => proto::Kind::Camera,
    }
}

pub fn time(time: SystemTime) -> Option<prost_types::Timestamp> {
    // The conversion of `prost_types` panics for extreme system times.
    Some(clamped(time).into())
}

fn span(from: Span) -> proto::Span {
    proto::Span { from: time(from.from), to: time(from.to) }
}

fn coverage(from: &Coverage) -> proto::Coverage {
    proto::Coverage {
        frames_wanted: from.frames_expected,
        frames_used: from.frames_used,
        covered: from.covered.map(span),
        gaps: from.gaps.iter().map(gap).collect(),
        clock: match from.clock {
            Clock::Camera => proto::Clock::Camera,
            Clock::Host => proto::Clock::Host,
        }
        .into(),
    }
}

fn gap(from: &Gap) -> proto::Gap {
    let cause = match from.cause {
        GapCause::CameraDown => proto::GapCause::CameraDown,
        GapCause::Overload => proto::GapCause::Overload,
        GapCause::Evicted => proto::GapCause::Evicted,
        GapCause::BeforeStart => proto::GapCause::BeforeStart,
        GapCause::Clock => proto::GapCause::Clock,
        GapCause::Corrupt => proto::GapCause::Corrupt,
        GapCause::ModelFailed => proto::GapCause::ModelFailed,
    };
    proto::Gap { from: time(from.span.from), to: time(from.span.to), cause: cause.into() }
}

fn frame_ref(from: &FrameReference) -> proto::FrameRef {
    let FrameReference { run, number, captured_at, slow } = *from;
    proto::FrameRef { run, number, captured_at: time(captured_at), slow }
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
        CameraState::Connecting => proto::Phase::Connecting,
        CameraState::Live => proto::Phase::Live,
        CameraState::Stalled => proto::Phase::Stalled,
        CameraState::Lost => proto::Phase::Lost,
        CameraState::Refused => proto::Phase::Refused,
    };
    proto::CameraStatus {
        phase: state.into(),
        since: time(from.since),
        reason: from.reason.clone(),
        last_frame: from.last_frame.and_then(time),
        reconnects: from.reconnects,
        decoder: from.decoder.clone(),
    }
}
