//! Converts the values of rules and alerts to protobuf.

use super::{coverage, devices, finish_reason, frame_reference, span, time, timing, usage};
use crate::event::{
    Acknowledgement, Alert, AlertClip, AlertPhase, AlertUpdate, ClipState, Description, EndReason,
    RuleStatus, ScorePoint, Severity, Sight,
};
use crate::proto;
use crate::service::{RuleInfo, RuleState};

pub fn rule(from: &RuleInfo) -> proto::Rule {
    let state = match from.state {
        RuleState::Idle => proto::RuleState::Idle,
        RuleState::Pending => proto::RuleState::Pending,
        RuleState::Active => proto::RuleState::Active,
        RuleState::Cooldown => proto::RuleState::Cooldown,
        RuleState::OffSchedule => proto::RuleState::OffSchedule,
    };
    proto::Rule {
        name: from.name.to_string(),
        camera: from.camera.to_string(),
        question: from.question.to_string(),
        severity: severity(from.severity).into(),
        state: state.into(),
        blind: from.is_blind,
        score: from.score,
        scored_at: from.scored_at.and_then(time),
        alert_id: from.alert_id.as_deref().unwrap_or_default().to_owned(),
        alerts_today: from.alerts_today,
        false_alarms_today: from.false_alarms_today,
    }
}

pub fn alert(from: &Alert) -> proto::Alert {
    let phase = match from.phase {
        AlertPhase::New => proto::AlertPhase::New,
        AlertPhase::Update => proto::AlertPhase::Update,
        AlertPhase::End => proto::AlertPhase::End,
        AlertPhase::Acknowledged => proto::AlertPhase::Acknowledged,
    };
    let end_reason = match from.end_reason {
        None => proto::EndReason::Unspecified,
        Some(EndReason::Cleared) => proto::EndReason::Cleared,
        Some(EndReason::OffSchedule) => proto::EndReason::OffSchedule,
        Some(EndReason::Removed) => proto::EndReason::Removed,
    };
    let update = match from.update {
        None => proto::AlertUpdate::Unspecified,
        Some(AlertUpdate::Scores) => proto::AlertUpdate::Scores,
        Some(AlertUpdate::Description) => proto::AlertUpdate::Description,
        Some(AlertUpdate::Clip) => proto::AlertUpdate::Clip,
    };
    proto::Alert {
        alert_id: from.alert_id.to_string(),
        rule: from.rule.to_string(),
        severity: severity(from.severity).into(),
        phase: phase.into(),
        question: from.question.to_string(),
        score: from.score,
        peak_score: from.peak_score,
        window: Some(span(from.window)),
        coverage: Some(coverage(&from.coverage)),
        frames: from.frames.iter().map(frame_reference).collect(),
        started_at: time(from.started_at),
        ended_at: from.ended_at.and_then(time),
        end_reason: end_reason.into(),
        scored_windows: from.scored_windows,
        unknown_windows: from.unknown_windows,
        curve: from.curve.iter().map(score_point).collect(),
        acknowledgement: from.acknowledgement.as_ref().map(acknowledgement),
        update: update.into(),
        description: from.description.as_ref().map(description),
        clip: from.clip.as_ref().map(clip),
    }
}

fn description(from: &Description) -> proto::Description {
    proto::Description {
        prompt: from.prompt.clone(),
        text: from.text.clone(),
        window: Some(span(from.window)),
        model: from.model.clone(),
        devices: Some(devices(&from.devices)),
        finish_reason: finish_reason(from.finish_reason).into(),
        usage: Some(usage(from.usage)),
        timing: Some(timing(from.timing)),
    }
}

pub fn clip(from: &AlertClip) -> proto::AlertClip {
    let state = match from.state {
        ClipState::Pending => proto::ClipState::Pending,
        ClipState::Ready => proto::ClipState::Ready,
        ClipState::Missing => proto::ClipState::Missing,
    };
    proto::AlertClip {
        state: state.into(),
        span: from.span.map(span),
        codec: from.codec.clone(),
        bytes: from.bytes,
        reason: from.reason.clone(),
    }
}

pub fn rule_status(from: &RuleStatus) -> proto::RuleStatus {
    let sight = match from.sight {
        Sight::Blind => proto::Sight::Blind,
        Sight::Seeing => proto::Sight::Seeing,
    };
    proto::RuleStatus { rule: from.rule.to_string(), sight: sight.into(), since: time(from.since) }
}

fn severity(from: Severity) -> proto::Severity {
    match from {
        Severity::Info => proto::Severity::Info,
        Severity::Warning => proto::Severity::Warning,
        Severity::Critical => proto::Severity::Critical,
    }
}

fn score_point(from: &ScorePoint) -> proto::ScorePoint {
    proto::ScorePoint { at: time(from.at), score: from.score }
}

fn acknowledgement(from: &Acknowledgement) -> proto::Acknowledgement {
    proto::Acknowledgement { at: time(from.at), false_alarm: from.false_alarm }
}
