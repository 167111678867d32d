//! Tests that decoding is the inverse of encoding.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::decode::{UnexpectedReply, event};
use super::encode;
use crate::config::Thresholds;
use crate::event::{
    Acknowledgement, Alert, AlertClip, AlertPhase, AlertUpdate, Answer, AnswerPart, Body,
    CameraState, CameraStatus, Caption, ClipState, Coverage, Description, Devices, EndReason,
    Event, EventId, FinishReason, FrameReference, Gap, GapCause, Inference, Placement, RuleStatus,
    ScorePoint, Severity, Sight, SummaryMethod, Timing, Unchanged, Usage,
};
use crate::frame::{Clock, FrameId, Span};
use crate::proto;
use crate::service::{RuleInfo, RuleState, Trial, TrialItem, TriedResult, TriedWindow};

fn times() -> impl Strategy<Value = SystemTime> {
    (0u64..4_000_000_000, 0u32..1_000_000_000)
        .prop_map(|(s, n)| SystemTime::UNIX_EPOCH + Duration::new(s, n))
}

fn spans() -> impl Strategy<Value = Span> {
    (times(), times()).prop_map(|(from, to)| Span { from, to })
}

fn texts() -> impl Strategy<Value = String> {
    ".{0,9}"
}

fn event_ids() -> impl Strategy<Value = EventId> {
    any::<(u64, u64)>().prop_map(|(run, sequence)| EventId { run, sequence })
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
        GapCause::Deleted,
    ]);
    let gaps = (spans(), causes).prop_map(|(span, cause)| Gap { span, cause });
    (
        any::<(u32, u32)>(),
        prop::option::of(spans()),
        prop::collection::vec(gaps, 0..3),
        prop::sample::select(vec![Clock::Camera, Clock::Host]),
    )
        .prop_map(|(frames, covered_span, gaps, clock_source)| Coverage {
            frames_expected: frames.0,
            frames_used: frames.1,
            covered_span,
            gaps,
            clock_source,
        })
}

fn placements() -> impl Strategy<Value = Placement> {
    (texts(), texts()).prop_map(|(device, reason)| Placement { device, reason })
}

fn frames() -> impl Strategy<Value = FrameReference> {
    (any::<(u64, u64, bool)>(), times()).prop_map(|((run, number, slow), time)| FrameReference {
        id: FrameId { run, number },
        captured_at: time,
        slow,
    })
}

fn inferences() -> impl Strategy<Value = Inference> {
    let timings =
        prop::array::uniform5(0.0f64..1e6).prop_map(|[wait, encode, prefill, decode, total]| {
            Timing {
                wait_seconds: wait,
                encode_seconds: encode,
                prefill_seconds: prefill,
                decode_seconds: decode,
                total_seconds: total,
            }
        });
    let usages =
        any::<[u32; 4]>().prop_map(|[video_tokens, text_tokens, new_tokens, cached_tokens]| {
            Usage { video_tokens, text_tokens, new_tokens, cached_tokens }
        });
    (
        prop::array::uniform3(texts()),
        spans(),
        coverages(),
        prop::collection::vec(frames(), 0..4),
        (placements(), placements()),
        prop::sample::select(vec![FinishReason::Stop, FinishReason::Length]),
        usages,
        timings,
    )
        .prop_map(
            |(
                [prompt, text, model],
                window,
                coverage,
                frames,
                devices,
                finish_reason,
                usage,
                timing,
            )| {
                Inference {
                    prompt,
                    text,
                    window,
                    coverage,
                    frames,
                    model,
                    devices: Devices { vision: devices.0, language: devices.1 },
                    finish_reason,
                    usage,
                    timing,
                }
            },
        )
}

fn captions() -> impl Strategy<Value = Caption> {
    let unchanged = (times(), event_ids()).prop_map(|(since, event)| Unchanged { since, event });
    (inferences(), any::<u32>(), prop::option::of(unchanged)).prop_map(
        |(inference, skipped_windows, unchanged)| Caption { inference, skipped_windows, unchanged },
    )
}

fn answers() -> impl Strategy<Value = Answer> {
    let parts = (spans(), texts(), coverages()).prop_map(|(window, text, coverage)| AnswerPart {
        window,
        text,
        coverage,
    });
    let methods = prop::sample::select(vec![
        SummaryMethod::YesNo,
        SummaryMethod::Same,
        SummaryMethod::Model,
        SummaryMethod::List,
    ]);
    (
        inferences(),
        (texts(), texts()),
        any::<u32>(),
        prop::collection::vec(parts, 0..3),
        prop::option::of(methods),
        prop::option::of(0.0f64..=1.0),
        prop::option::of(texts()),
    )
        .prop_map(
            |(inference, names, earlier_turns, parts, summary_method, yes_score, hash)| Answer {
                inference,
                question_id: names.0,
                conversation: names.1,
                earlier_turns,
                parts,
                summary_method,
                yes_score,
                schema_sha256: hash.map(Into::into),
                trace_parent: None,
            },
        )
}

fn statuses() -> impl Strategy<Value = CameraStatus> {
    (
        prop::sample::select(CameraState::ALL.to_vec()),
        times(),
        prop::option::of(times()),
        any::<u64>(),
        prop::array::uniform2(texts()),
    )
        .prop_map(|(state, since, last_frame_at, reconnects, [reason, decoder])| {
            CameraStatus { state, since, reason, last_frame_at, reconnects, decoder }
        })
}

fn alerts() -> impl Strategy<Value = Alert> {
    let severities =
        prop::sample::select(vec![Severity::Info, Severity::Warning, Severity::Critical]);
    let phases = prop::sample::select(vec![
        AlertPhase::New,
        AlertPhase::Update,
        AlertPhase::End,
        AlertPhase::Acknowledged,
    ]);
    let reasons =
        prop::sample::select(vec![EndReason::Cleared, EndReason::OffSchedule, EndReason::Removed]);
    let points =
        (times(), prop::option::of(0.0..1.0f64)).prop_map(|(at, score)| ScorePoint { at, score });
    let acknowledgements =
        (times(), any::<bool>()).prop_map(|(at, false_alarm)| Acknowledgement { at, false_alarm });
    let updates = prop::sample::select(vec![
        AlertUpdate::Scores,
        AlertUpdate::Description,
        AlertUpdate::Clip,
    ]);
    let descriptions = inferences().prop_map(|from| Description {
        prompt: from.prompt,
        text: from.text,
        window: from.window,
        model: from.model,
        devices: from.devices,
        finish_reason: from.finish_reason,
        usage: from.usage,
        timing: from.timing,
    });
    (
        prop::array::uniform3(texts()),
        (severities, phases, prop::option::of(reasons), prop::option::of(updates)),
        prop::array::uniform2(0.0..1.0f64),
        (spans(), coverages(), prop::collection::vec(frames(), 0..3)),
        (times(), prop::option::of(times())),
        any::<[u32; 2]>(),
        prop::collection::vec(points, 0..4),
        prop::option::of(acknowledgements),
        (prop::option::of(descriptions), prop::option::of(clips())),
    )
        .prop_map(
            |(
                names,
                kinds,
                scores,
                window,
                times,
                windows,
                curve,
                acknowledgement,
                (description, clip),
            )| {
                let [alert_id, rule, question] = names.map(Into::into);
                Alert {
                    alert_id,
                    rule,
                    severity: kinds.0,
                    phase: kinds.1,
                    question,
                    score: scores[0],
                    peak_score: scores[1],
                    window: window.0,
                    coverage: window.1,
                    frames: window.2,
                    started_at: times.0,
                    ended_at: times.1,
                    end_reason: kinds.2,
                    scored_windows: windows[0],
                    unknown_windows: windows[1],
                    curve,
                    acknowledgement,
                    update: kinds.3,
                    description,
                    clip,
                }
            },
        )
}

fn clips() -> impl Strategy<Value = AlertClip> {
    let states =
        prop::sample::select(vec![ClipState::Pending, ClipState::Ready, ClipState::Missing]);
    let texts = prop::array::uniform2(texts());
    (states, prop::option::of(spans()), texts, any::<u64>()).prop_map(
        |(state, span, [codec, reason], bytes)| AlertClip { state, span, codec, bytes, reason },
    )
}

fn rule_statuses() -> impl Strategy<Value = RuleStatus> {
    let sights = prop::sample::select(vec![Sight::Blind, Sight::Seeing]);
    (texts(), sights, times()).prop_map(|(rule, sight, since)| RuleStatus {
        rule: rule.into(),
        sight,
        since,
    })
}

fn trial_items() -> impl Strategy<Value = TrialItem> {
    let durations = (0u64..1 << 40, 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n));
    let thresholds = (any::<[f64; 2]>(), any::<[u16; 2]>(), [durations.clone(), durations]);
    let thresholds = thresholds.prop_map(|([on, off], [needed, among], [cooldown, hold])| {
        let (needed, among) = (needed.into(), among.into());
        Thresholds { on, off, needed, among, cooldown, hold }
    });
    let started = (prop::array::uniform3(texts()), thresholds, any::<f64>(), spans(), any::<u32>());
    let started = started.prop_map(|(names, thresholds, temperature, span, windows)| {
        let [camera, rule, question] = names.map(Into::into);
        let trial = Trial { camera, rule, question, thresholds, temperature, span, windows };
        TrialItem::Started(Box::new(trial))
    });
    let result = prop_oneof![
        any::<f64>().prop_map(TriedResult::Score),
        prop::sample::select(vec![GapCause::CameraDown, GapCause::ModelFailed])
            .prop_map(TriedResult::Unknown),
        Just(TriedResult::OffSchedule),
    ];
    let window = (spans(), result);
    prop_oneof![
        started,
        window.prop_map(|(window, result)| TrialItem::Window(TriedWindow { window, result })),
        alerts().prop_map(|alert| TrialItem::Alert(Box::new(alert))),
    ]
}

proptest! {
    #[test]
    fn decoding_an_encoded_item_of_a_trial_returns_it(item in trial_items()) {
        let sent = encode::trial_item(&item).expect("a message");
        prop_assert_eq!(super::decode::trial_item(sent), Ok(item));
    }

    #[test]
    fn decoding_an_encoded_rule_returns_it(
        names in prop::array::uniform3(texts()),
        state in prop::sample::select(vec![
            RuleState::Idle,
            RuleState::Pending,
            RuleState::Active,
            RuleState::Cooldown,
            RuleState::OffSchedule,
        ]),
        is_blind: bool,
        score in prop::option::of(0.0..1.0f64),
        scored_at in prop::option::of(times()),
        alert_id in prop::option::of("[a-z]{1,9}"),
        counts: [u32; 2],
    ) {
        let [name, camera, question] = names.map(Into::into);
        let rule = RuleInfo {
            name,
            camera,
            question,
            severity: Severity::Critical,
            state,
            is_blind,
            score,
            scored_at,
            alert_id: alert_id.map(Into::into),
            alerts_today: counts[0],
            false_alarms_today: counts[1],
        };
        prop_assert_eq!(super::decode::rule(encode::rule(&rule)), Ok(rule));
    }

    #[test]
    fn decoding_an_encoded_event_returns_it(
        id in event_ids(),
        published_at in times(),
        camera in "[a-z]{1,9}",
        kept in any::<bool>(),
        body in prop_oneof![
            captions().prop_map(Body::Caption),
            answers().prop_map(Body::Answer),
            statuses().prop_map(Body::CameraStatus),
            alerts().prop_map(Body::Alert),
            rule_statuses().prop_map(Body::RuleStatus),
        ],
    ) {
        let new = Event::new(id, published_at, camera.into(), body);
        let sent = Event { kept, ..new };
        prop_assert_eq!(event(encode::event(&sent)), Ok(sent));
    }
}

#[test]
fn a_missing_field_is_named() {
    assert_eq!(event(proto::Event::default()), Err(UnexpectedReply("id")));
}
