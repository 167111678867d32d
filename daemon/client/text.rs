//! Formats events and cameras as lines for people and as JSON for programs.

pub mod evaluation;
mod rules;
pub mod trial;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::event::{
    AlertPhase, Answer, AnswerPart, Body, CameraState, CameraStatus, Caption, Coverage, Event,
    EventId, FinishReason, Gap, GapCause, Inference, Unchanged,
};
use crate::service::CameraInfo;

pub use rules::rule_table;

/// Minimum width of the camera's name, which aligns the texts.
const NAME_WIDTH: usize = 8;

/// Formats an event as one line, without a line end.
pub fn event_line(event: &Event) -> String {
    let camera = &event.camera;
    match &event.body {
        Body::Caption(caption) => {
            let Inference { window, text, .. } = &caption.inference;
            let (time, text) = (clock_time(window.to), one_line(text));
            format!("{time}  {camera:NAME_WIDTH$}  {text}   [{}]", caption_basis(caption))
        }
        Body::Answer(answer) => {
            let Inference { window, prompt, text, .. } = &answer.inference;
            let (time, prompt, text) = (clock_time(window.to), one_line(prompt), one_line(text));
            let basis = answer_basis(answer);
            format!("{time}  {camera:NAME_WIDTH$}  {prompt} → {text}   [{basis}]")
        }
        Body::CameraStatus(status) => {
            let (time, state) = (clock_time(status.since), state(status));
            format!("{time}  {camera:NAME_WIDTH$}  camera {state}")
        }
        Body::Alert(alert) => {
            let (time, text) = (clock_time(moment(event)), rules::alert(alert));
            format!("{time}  {camera:NAME_WIDTH$}  {text}")
        }
        Body::RuleStatus(status) => {
            let (time, text) = (clock_time(moment(event)), rules::rule_status(status));
            format!("{time}  {camera:NAME_WIDTH$}  {text}")
        }
    }
}

/// Formats an event as one line with its date and its name, without a line end.
pub fn dated_event_line(event: &Event) -> String {
    let EventId { run, sequence } = event.id;
    let (date, line) = (date(moment(event)), event_line(event));
    format!("{date} {line}   [event {sequence} of run {run}]")
}

/// Returns the time that an event is about.
fn moment(event: &Event) -> SystemTime {
    match &event.body {
        Body::Caption(Caption { inference, .. }) | Body::Answer(Answer { inference, .. }) => {
            inference.window.to
        }
        Body::CameraStatus(status) => status.since,
        Body::Alert(alert) => match alert.acknowledgement {
            Some(acknowledgement) if alert.phase == AlertPhase::Acknowledged => acknowledgement.at,
            _ => alert.ended_at.unwrap_or(alert.window.to),
        },
        Body::RuleStatus(_) => event.published_at,
    }
}

/// Formats a result of a search as one line, without a line end.
pub fn hit_line(event: &Event, snippet: &str) -> String {
    let time = moment(event);
    let (date, clock, snippet) = (date(time), clock_time(time), one_line(snippet));
    let EventId { run, sequence } = event.id;
    let camera = &event.camera;
    format!("{date} {clock}  {camera:NAME_WIDTH$}  {snippet}   [event {sequence} of run {run}]")
}

/// Formats the basis of an answer: frames, time, device, parts, every gap with its cause.
pub fn answer_basis(answer: &Answer) -> String {
    let mut line = basis(&answer.inference);
    if let Some(score) = answer.yes_score {
        line = format!("score {score:.3}, {line}");
    }
    if answer.schema_sha256.is_some() && answer.inference.finish_reason == FinishReason::Length {
        line += ", cut at the maximum number of tokens";
    }
    if !answer.parts.is_empty() {
        line += &format!(", in {} parts", answer.parts.len());
    }
    line + &gaps(&answer.inference)
}

fn caption_basis(caption: &Caption) -> String {
    let mut line = basis(&caption.inference) + &gaps(&caption.inference);
    if let Some(Unchanged { since, event }) = &caption.unchanged {
        line += &format!(", unchanged since {} (event {})", clock_time(*since), event.sequence);
    }
    match caption.skipped_windows {
        0 => {}
        1 => line += ", 1 window before it skipped",
        more => line += &format!(", {more} windows before it skipped"),
    }
    line
}

fn basis(inference: &Inference) -> String {
    let Coverage { frames_used, frames_expected, .. } = inference.coverage;
    let seconds = inference.timing.total_seconds;
    let (device, reason) = (inference.devices.device(), inference.devices.reason());
    let device = one_line(&device);
    let mut line = format!("{frames_used}/{frames_expected} frames, {seconds:.2} s, {device}");
    if !reason.is_empty() {
        line += &format!(" ({})", one_line(&reason));
    }
    line
}

/// Formats every gap with its cause, each with a comma before it.
fn gaps(inference: &Inference) -> String {
    let gap = |Gap { span, cause }: &Gap| {
        let cause = match cause {
            GapCause::CameraDown => "camera down",
            GapCause::Overload => "overload",
            GapCause::Evicted => "no longer in the buffer",
            GapCause::BeforeStart => "before the start",
            GapCause::Clock => "a clock was set",
            GapCause::Corrupt => "unusable frames",
            GapCause::ModelFailed => "the model failed",
            GapCause::Deleted => "deleted",
        };
        format!(", gap {}–{} ({cause})", clock_time(span.from), clock_time(span.to))
    };
    inference.coverage.gaps.iter().map(gap).collect()
}

/// Formats the answer of one part, without a line end.
pub fn part(part: &AnswerPart) -> String {
    let (from, to) = (clock_time(part.window.from), clock_time(part.window.to));
    format!("  {from}–{to}  {}", one_line(&part.text))
}

/// Formats a table with a header; lines end with `\n`.
pub fn camera_table(cameras: &[CameraInfo], now: SystemTime) -> String {
    let head = ["CAMERA", "STATE", "SINCE", "LAST FRAME", "BUFFER", "RECONNECTS", "SOURCE"];
    let row = |camera: &CameraInfo| {
        let status = &camera.status;
        let last_frame_at = match status.last_frame_at {
            Some(time) => format!("{} ago", short(now, time)),
            None => "never".into(),
        };
        let mut buffer = match camera.oldest_frame_at {
            Some(oldest) => format!("{}, ", short(now, oldest)),
            None => String::new(),
        };
        buffer += &bytesize::ByteSize(camera.buffer_bytes).to_string();
        if camera.disk_bytes > 0 {
            buffer += &format!(", {} on disk", bytesize::ByteSize(camera.disk_bytes));
        }
        [
            camera.name.to_string(),
            status.state.name().to_owned(),
            short(now, status.since),
            last_frame_at,
            buffer,
            status.reconnects.to_string(),
            camera.source.clone(),
        ]
    };
    // The reason has a line of its own, because it may be a long sentence.
    let reason = |at: usize| {
        let reason = cameras.get(at).map(|camera| one_line(&camera.status.reason));
        reason.filter(|reason| !reason.is_empty())
    };
    table(head, cameras.iter().map(row), reason)
}

/// Formats rows as a table. `note` returns the text of a further line after a row.
fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    note: impl Fn(usize) -> Option<String>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(String::from)).chain(rows).collect();
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut table = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        table += cells.collect::<Vec<_>>().join("  ").trim_end();
        table.push('\n');
        if let Some(note) = number.checked_sub(1).and_then(&note) {
            table += &format!("  {note}\n");
        }
    }
    table
}

/// Formats the line printed where events are missing, without a line end.
pub fn missed_events(count: Option<u64>) -> String {
    match count {
        Some(count) => format!("{count} events missed: read too slowly"),
        None => "the daemon was restarted: events may be missing".into(),
    }
}

/// The JSON line printed where events are missing.
#[derive(Serialize)]
pub struct MissedEventsJson {
    pub kind: &'static str,
    /// Number of missing events; `null` if unknown because the daemon was restarted.
    pub count: Option<u64>,
}

/// Formats hours, minutes and seconds in the reader's time zone.
fn clock_time(time: SystemTime) -> String {
    let Some(local) = local_time(time) else { return "--:--:--".into() };
    format!("{:02}:{:02}:{:02}", local.tm_hour, local.tm_min, local.tm_sec)
}

/// Formats the date in the reader's time zone.
fn date(time: SystemTime) -> String {
    let Some(local) = local_time(time) else { return "----------".into() };
    format!("{:04}-{:02}-{:02}", local.tm_year + 1900, local.tm_mon + 1, local.tm_mday)
}

fn local_time(time: SystemTime) -> Option<libc::tm> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX);
    // SAFETY: all zeros is a valid `tm` (integers, and a pointer that may be null); localtime_r
    // reads the one pointer and writes the other, and both outlive the call.
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        (!libc::localtime_r(&seconds, &mut local).is_null()).then_some(local)
    }
}

fn state(status: &CameraStatus) -> String {
    match (status.state, status.reason.as_str()) {
        (CameraState::Live, _) if !status.decoder.is_empty() => {
            format!("live ({})", status.decoder)
        }
        (state, "") => state.name().to_owned(),
        (state, reason) => format!("{}: {}", state.name(), one_line(reason)),
    }
}

fn short(now: SystemTime, time: SystemTime) -> String {
    let whole = Duration::from_secs(now.duration_since(time).unwrap_or_default().as_secs());
    let text = humantime::format_duration(whole).to_string();
    // Two units are enough: "2h 5m" of "2h 5m 13s".
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Removes line ends and control characters, which model text and camera reasons may contain, so
/// that none reaches a terminal.
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
