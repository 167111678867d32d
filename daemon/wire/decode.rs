//! Converts protobuf to the daemon's values: the inverse of `encode.rs`.
//!
//! A reply that lacks a field the daemon always sets, or contains an unknown value, comes from
//! another version. The error names the field.

use std::sync::Arc;
use std::time::SystemTime;

use crate::event::{
    AnswerPart, Body, CameraState, CameraStatus, Coverage, Description, Event, FinishReason,
    FrameReference, Gap, GapCause, SummaryMethod, Timing, Unchanged, Usage,
};
use crate::frame::{Clock, Span};
use crate::proto;
use crate::service::CameraInfo;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("field {0} of the daemon's reply is missing or unknown; is it of another version?")]
pub struct Unreadable(pub &'static str);

type Read<T> = Result<T, Unreadable>;

pub fn event(from: proto::Event) -> Read<Event> {
    Ok(Event {
        run: from.run,
        sequence: from.sequence,
        published_at: time(from.published_at, "published_at")?,
        camera: from.camera.into(),
        body: match from.body.ok_or(Unreadable("body"))? {
            proto::event::Body::Caption(words) => Body::Caption(description(words)?),
            proto::event::Body::Answer(words) => Body::Answer(description(words)?),
            proto::event::Body::Status(status) => Body::Camera(camera_status(status)?),
        },
    })
}

pub fn description(from: proto::Description) -> Read<Description> {
    Ok(Description {
        finish: match from.finish() {
            proto::Finish::Stop => FinishReason::Stop,
            proto::Finish::Length => FinishReason::Length,
            proto::Finish::Unspecified => return Err(Unreadable("finish")),
        },
        summary: match from.summary() {
            proto::Summary::Unspecified => None,
            proto::Summary::YesNo => Some(SummaryMethod::YesNo),
            proto::Summary::Same => Some(SummaryMethod::Same),
            proto::Summary::Model => Some(SummaryMethod::Model),
            proto::Summary::List => Some(SummaryMethod::List),
        },
        id: from.id,
        prompt: from.prompt,
        text: from.text,
        window: span(from.window, "window")?,
        coverage: coverage(from.coverage.ok_or(Unreadable("coverage"))?)?,
        frames: from.frames.into_iter().map(frame_ref).collect::<Read<_>>()?,
        model: from.model,
        device: from.device,
        device_reason: from.device_reason,
        skipped: from.skipped,
        unchanged: from.unchanged.map(unchanged).transpose()?,
        usage: usage(from.usage.ok_or(Unreadable("usage"))?),
        timing: timing(from.timing.ok_or(Unreadable("timing"))?),
        conversation: from.conversation,
        earlier_turns: from.earlier_turns,
        parts: from.parts.into_iter().map(part).collect::<Read<_>>()?,
    })
}

pub fn part(from: proto::Part) -> Read<AnswerPart> {
    Ok(AnswerPart {
        window: span(from.window, "window")?,
        text: from.text,
        coverage: coverage(from.coverage.ok_or(Unreadable("coverage"))?)?,
    })
}

pub fn camera(from: proto::Camera) -> Read<CameraInfo> {
    Ok(CameraInfo {
        name: Arc::from(from.name),
        source: from.source,
        status: camera_status(from.status.ok_or(Unreadable("status"))?)?,
        buffer_frames: from.buffer_frames,
        buffer_bytes: from.buffer_bytes,
        disk_bytes: from.disk_bytes,
        oldest_frame: match from.oldest_frame {
            None => None,
            time_of_it => Some(time(time_of_it, "oldest_frame")?),
        },
    })
}

pub fn time(from: Option<prost_types::Timestamp>, field: &'static str) -> Read<SystemTime> {
    from.and_then(|time| time.try_into().ok()).ok_or(Unreadable(field))
}

fn span(from: Option<proto::Span>, field: &'static str) -> Read<Span> {
    let from = from.ok_or(Unreadable(field))?;
    Ok(Span { from: time(from.from, field)?, to: time(from.to, field)? })
}

fn coverage(from: proto::Coverage) -> Read<Coverage> {
    Ok(Coverage {
        clock: match from.clock() {
            proto::Clock::Camera => Clock::Camera,
            proto::Clock::Host => Clock::Host,
            proto::Clock::Unspecified => return Err(Unreadable("clock")),
        },
        frames_expected: from.frames_wanted,
        frames_used: from.frames_used,
        covered: from.covered.map(|covered| span(Some(covered), "covered")).transpose()?,
        gaps: from.gaps.into_iter().map(gap).collect::<Read<_>>()?,
    })
}

fn unchanged(from: proto::Unchanged) -> Read<Unchanged> {
    Ok(Unchanged { since: time(from.since, "since")?, sequence: from.sequence })
}

fn gap(from: proto::Gap) -> Read<Gap> {
    Ok(Gap {
        cause: match from.cause() {
            proto::GapCause::CameraDown => GapCause::CameraDown,
            proto::GapCause::Overload => GapCause::Overload,
            proto::GapCause::Evicted => GapCause::Evicted,
            proto::GapCause::BeforeStart => GapCause::BeforeStart,
            proto::GapCause::Clock => GapCause::Clock,
            proto::GapCause::Corrupt => GapCause::Corrupt,
            proto::GapCause::ModelFailed => GapCause::ModelFailed,
            proto::GapCause::Unspecified => return Err(Unreadable("cause")),
        },
        span: Span { from: time(from.from, "gap")?, to: time(from.to, "gap")? },
    })
}

fn frame_ref(from: proto::FrameRef) -> Read<FrameReference> {
    let captured_at = time(from.captured_at, "captured_at")?;
    Ok(FrameReference { run: from.run, number: from.number, captured_at, slow: from.slow })
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
        state: match from.phase() {
            proto::Phase::Connecting => CameraState::Connecting,
            proto::Phase::Live => CameraState::Live,
            proto::Phase::Stalled => CameraState::Stalled,
            proto::Phase::Lost => CameraState::Lost,
            proto::Phase::Refused => CameraState::Refused,
            proto::Phase::Unspecified => return Err(Unreadable("phase")),
        },
        since: time(from.since, "since")?,
        reason: from.reason,
        last_frame: match from.last_frame {
            None => None,
            time_of_it => Some(time(time_of_it, "last_frame")?),
        },
        reconnects: from.reconnects,
        decoder: from.decoder,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::encode;

    fn times() -> impl Strategy<Value = SystemTime> {
        (0u64..4_000_000_000, 0u32..1_000_000_000)
            .prop_map(|(s, n)| SystemTime::UNIX_EPOCH + Duration::new(s, n))
    }

    fn spans() -> impl Strategy<Value = Span> {
        (times(), times()).prop_map(|(from, to)| Span { from, to })
    }

    fn coverages() -> impl Strategy<Value = Coverage> {
        let causes = prop::sample::select(vec![
            GapCause::CameraDown,
            GapCause::Overload,
            GapCause::Evicted,
            GapCause::BeforeStart,
            GapCause::Clock,
            GapCause::Corrupt,
            GapCause::ModelFailed,
        ]);
        let gaps = (spans(), causes).prop_map(|(span, cause)| Gap { span, cause });
        (
            any::<(u32, u32)>(),
            prop::option::of(spans()),
            prop::collection::vec(gaps, 0..3),
            prop::sample::select(vec![Clock::Camera, Clock::Host]),
        )
            .prop_map(|((frames_expected, frames_used), covered, gaps, clock)| Coverage {
                frames_expected,
                frames_used,
                covered,
                gaps,
                clock,
            })
    }

    fn descriptions() -> impl Strategy<Value = Description> {
        let frames = (any::<[u64; 2]>(), times(), any::<bool>()).prop_map(
            |([run, number], captured_at, slow)| FrameReference { run, number, captured_at, slow },
        );
        let finish = prop::sample::select(vec![FinishReason::Stop, FinishReason::Length]);
        let part = (spans(), ".{0,9}", coverages())
            .prop_map(|(window, text, coverage)| AnswerPart { window, text, coverage });
        let summaries = [
            None,
            Some(SummaryMethod::YesNo),
            Some(SummaryMethod::Same),
            Some(SummaryMethod::Model),
        ];
        let summary = prop::sample::select([&summaries[..], &[Some(SummaryMethod::List)]].concat());
        let more = (".{0,9}", any::<u32>(), prop::collection::vec(part, 0..3), summary);
        (
            prop::array::uniform6(".{0,9}"),
            spans(),
            coverages(),
            prop::collection::vec(frames, 0..4),
            finish,
            any::<[u32; 5]>(),
            prop::array::uniform5(0.0f64..1e6),
            more,
        )
            .prop_map(
                |(words, window, coverage, frames, finish, numbers, seconds, more)| {
                    let (conversation, earlier_turns, parts, summary) = more;
                    let [id, prompt, text, model, device, device_reason] = words;
                    let [video_tokens, text_tokens, new_tokens, cached_tokens, skipped] = numbers;
                    let [wait, encode, prefill, decode, total] = seconds;
                    Description {
                        id,
                        prompt,
                        text,
                        window,
                        coverage,
                        frames,
                        model,
                        device,
                        device_reason,
                        finish,
                        usage: Usage { video_tokens, text_tokens, new_tokens, cached_tokens },
                        timing: Timing {
                            wait_seconds: wait,
                            encode_seconds: encode,
                            prefill_seconds: prefill,
                            decode_seconds: decode,
                            total_seconds: total,
                        },
                        skipped,
                        unchanged: (skipped % 2 == 1)
                            .then(|| Unchanged { since: window.from, sequence: skipped.into() }),
                        conversation,
                        earlier_turns,
                        parts,
                        summary,
                    }
                },
            )
    }

    fn statuses() -> impl Strategy<Value = CameraStatus> {
        (
            prop::sample::select(CameraState::ALL.to_vec()),
            times(),
            prop::option::of(times()),
            any::<u64>(),
            prop::array::uniform2(".{0,9}"),
        )
            .prop_map(|(state, since, last_frame, reconnects, [reason, decoder])| {
                CameraStatus { state, since, reason, last_frame, reconnects, decoder }
            })
    }

    proptest! {
        #[test]
        fn messages_survive_a_round_trip(
            run: u64,
            sequence: u64,
            published_at in times(),
            camera in "[a-z]{1,9}",
            body in prop_oneof![
                descriptions().prop_map(Body::Caption),
                descriptions().prop_map(Body::Answer),
                statuses().prop_map(Body::Camera),
            ],
        ) {
            let sent = Event { run, sequence, published_at, camera: camera.into(), body };
            prop_assert_eq!(event(encode::event(&sent)), Ok(sent));
        }
    }

    #[test]
    fn a_reply_of_another_version_is_reported() {
        assert_eq!(event(proto::Event::default()), Err(Unreadable("published_at")));
    }
}
