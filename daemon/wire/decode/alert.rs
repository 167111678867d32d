//! Converts the protobuf of rules and alerts to the daemon's values.

use super::{
    Read, UnexpectedReply, coverage, devices, finish_reason, frame_reference, optional_time, span,
    time, timing, usage,
};
use crate::event::{
    Acknowledgement, Alert, AlertClip, AlertPhase, AlertUpdate, ClipState, Description, EndReason,
    RuleStatus, ScorePoint, Severity, Sight,
};
use crate::proto;
use crate::service::{RuleInfo, RuleState};

pub fn rule(from: proto::Rule) -> Read<RuleInfo> {
    let scored_at = optional_time(from.scored_at, "scored_at")?;
    Ok(RuleInfo {
        state: match from.state() {
            proto::RuleState::Idle => RuleState::Idle,
            proto::RuleState::Pending => RuleState::Pending,
            proto::RuleState::Active => RuleState::Active,
            proto::RuleState::Cooldown => RuleState::Cooldown,
            proto::RuleState::OffSchedule => RuleState::OffSchedule,
            proto::RuleState::Unspecified => return Err(UnexpectedReply("state")),
        },
        severity: severity(from.severity())?,
        name: from.name.into(),
        camera: from.camera.into(),
        question: from.question.into(),
        is_blind: from.blind,
        score: from.score,
        scored_at,
        alert_id: Some(from.alert_id).filter(|id| !id.is_empty()).map(Into::into),
        alerts_today: from.alerts_today,
        false_alarms_today: from.false_alarms_today,
    })
}

pub fn alert(from: proto::Alert) -> Read<Alert> {
    Ok(Alert {
        severity: severity(from.severity())?,
        phase: match from.phase() {
            proto::AlertPhase::New => AlertPhase::New,
            proto::AlertPhase::Update => AlertPhase::Update,
            proto::AlertPhase::End => AlertPhase::End,
            proto::AlertPhase::Acknowledged => AlertPhase::Acknowledged,
            proto::AlertPhase::Unspecified => return Err(UnexpectedReply("phase")),
        },
        end_reason: match from.end_reason() {
            proto::EndReason::Unspecified => None,
            proto::EndReason::Cleared => Some(EndReason::Cleared),
            proto::EndReason::OffSchedule => Some(EndReason::OffSchedule),
            proto::EndReason::Removed => Some(EndReason::Removed),
        },
        update: match from.update() {
            proto::AlertUpdate::Unspecified => None,
            proto::AlertUpdate::Scores => Some(AlertUpdate::Scores),
            proto::AlertUpdate::Description => Some(AlertUpdate::Description),
            proto::AlertUpdate::Clip => Some(AlertUpdate::Clip),
        },
        alert_id: from.alert_id.into(),
        rule: from.rule.into(),
        question: from.question.into(),
        score: from.score,
        peak_score: from.peak_score,
        window: span(from.window, "window")?,
        coverage: coverage(from.coverage)?,
        frames: from.frames.into_iter().map(frame_reference).collect::<Read<_>>()?,
        started_at: time(from.started_at, "started_at")?,
        ended_at: optional_time(from.ended_at, "ended_at")?,
        scored_windows: from.scored_windows,
        unknown_windows: from.unknown_windows,
        curve: from.curve.into_iter().map(score_point).collect::<Read<_>>()?,
        acknowledgement: from.acknowledgement.map(acknowledgement).transpose()?,
        description: from.description.map(description).transpose()?,
        clip: from.clip.map(clip).transpose()?,
    })
}

fn description(from: proto::Description) -> Read<Description> {
    Ok(Description {
        finish_reason: finish_reason(from.finish_reason())?,
        prompt: from.prompt,
        text: from.text,
        window: span(from.window, "window")?,
        model: from.model,
        devices: devices(from.devices)?,
        usage: usage(from.usage.ok_or(UnexpectedReply("usage"))?),
        timing: timing(from.timing.ok_or(UnexpectedReply("timing"))?),
    })
}

pub fn clip(from: proto::AlertClip) -> Read<AlertClip> {
    Ok(AlertClip {
        state: match from.state() {
            proto::ClipState::Pending => ClipState::Pending,
            proto::ClipState::Ready => ClipState::Ready,
            proto::ClipState::Missing => ClipState::Missing,
            proto::ClipState::Unspecified => return Err(UnexpectedReply("clip.state")),
        },
        span: from.span.map(|from| span(Some(from), "clip.span")).transpose()?,
        codec: from.codec,
        bytes: from.bytes,
        reason: from.reason,
    })
}

pub fn rule_status(from: proto::RuleStatus) -> Read<RuleStatus> {
    Ok(RuleStatus {
        sight: match from.sight() {
            proto::Sight::Blind => Sight::Blind,
            proto::Sight::Seeing => Sight::Seeing,
            proto::Sight::Unspecified => return Err(UnexpectedReply("sight")),
        },
        rule: from.rule.into(),
        since: time(from.since, "since")?,
    })
}

fn severity(from: proto::Severity) -> Read<Severity> {
    match from {
        proto::Severity::Info => Ok(Severity::Info),
        proto::Severity::Warning => Ok(Severity::Warning),
        proto::Severity::Critical => Ok(Severity::Critical),
        proto::Severity::Unspecified => Err(UnexpectedReply("severity")),
    }
}

fn score_point(from: proto::ScorePoint) -> Read<ScorePoint> {
    Ok(ScorePoint { at: time(from.at, "curve.at")?, score: from.score })
}

fn acknowledgement(from: proto::Acknowledgement) -> Read<Acknowledgement> {
    let at = time(from.at, "acknowledgement.at")?;
    Ok(Acknowledgement { at, false_alarm: from.false_alarm })
}
