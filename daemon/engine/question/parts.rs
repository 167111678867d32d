//! Splits a range that is too long for one pass, and combines the answers of its parts. Pure rules,
//! no model.
//!
//! One pass samples the plan's frames over the whole range. If they would lie more than [`FAIR`]
//! times as far apart as the camera's own frames, events between them are missed. The range is then
//! answered in parts: as many as are needed to leave out no frame, at most [`MAX_PARTS`].

use std::time::Duration;

use crate::event::{AnswerPart, Gap, GapCause, SummaryMethod};
use crate::frame::Span;

/// Maximum number of frames in the range per sampled frame. The paper's own benchmarks sample one
/// to three minutes with 50 frames, one to four seconds apart.
pub const FAIR: usize = 4;

/// Maximum number of parts. Each part is read like a window; more parts would block the model for
/// all others.
pub const MAX_PARTS: usize = 16;

/// Returns true if one pass that samples `sampled` of the range's `frames` frames is enough.
pub fn one_pass_is_enough(frames: usize, sampled: usize) -> bool {
    frames <= FAIR * sampled
}

/// Splits the span into equal parts, in order and at most [`MAX_PARTS`]. Each is short enough for
/// `sampled` frames of the period to leave out none, unless that limit is reached.
pub fn split(span: Span, period: Duration, sampled: usize) -> Vec<Span> {
    let look = period.as_secs_f64() * sampled as f64;
    let count = (span.length().as_secs_f64() / look).ceil().clamp(1.0, MAX_PARTS as f64) as u32;
    let part = span.length() / count;
    let edge = |i: u32| if i == count { span.to } else { span.from + part * i };
    (0..count).map(|i| Span { from: edge(i), to: edge(i + 1) }).collect()
}

/// Combines the answers of the parts without a model. Returns `None` if that requires
/// understanding.
///
/// If every part is yes or no, the combined answer is yes if any part is, and it names those parts.
/// It is therefore also literally true for a question about the whole time.
pub fn combine(parts: &[AnswerPart]) -> Option<(String, SummaryMethod)> {
    let first = parts.first()?;
    let verdicts: Option<Vec<bool>> = parts.iter().map(|part| verdict(&part.text)).collect();
    if let Some(verdicts) = verdicts {
        let dated = is_dated(parts);
        let mut spans: Vec<(usize, Span)> = Vec::new();
        let yes = parts.iter().enumerate().zip(&verdicts).filter(|(_, yes)| **yes);
        for ((at, part), _) in yes {
            match spans.last_mut() {
                Some((last, span)) if *last + 1 == at => (*last, span.to) = (at, part.window.to),
                _ => spans.push((at, part.window)),
            }
        }
        let count = verdicts.iter().filter(|yes| **yes).count();
        let all = parts.len();
        let text = match count {
            0 => format!("No, in none of {all} parts."),
            _ if count == all => format!("Yes, in all of {all} parts."),
            _ => {
                let times: Vec<_> = spans.iter().map(|(_, span)| span.clock(dated)).collect();
                format!("Yes, in {count} of {all} parts: {} UTC.", times.join(", "))
            }
        };
        return Some((text, SummaryMethod::YesNo));
    }
    let same = parts.iter().all(|part| part.text == first.text);
    same.then(|| (first.text.clone(), SummaryMethod::Same))
}

/// Lists the answers of the parts, one per line.
pub fn list(parts: &[AnswerPart]) -> String {
    let dated = is_dated(parts);
    let line = |part: &AnswerPart| format!("{} UTC: {}", part.window.clock(dated), part.text);
    parts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the gaps of the whole range, and the gaps of parts whose frames were available when the
/// question was asked but not at the part's turn, or on which the model failed.
pub fn gaps(whole: &[Gap], parts: impl IntoIterator<Item = Gap>) -> Vec<Gap> {
    let within =
        |gap: &Gap, outer: &Gap| outer.span.from <= gap.span.from && gap.span.to <= outer.span.to;
    let is_reported = |gap: &Gap| whole.iter().any(|outer| within(gap, outer));
    let at_its_turn = |gap: &Gap| matches!(gap.cause, GapCause::Evicted | GapCause::ModelFailed);
    let more = parts.into_iter().filter(|gap| at_its_turn(gap) && !is_reported(gap));
    let mut more: Vec<Gap> = more.collect();
    more.sort_by_key(|gap| gap.span.from);
    more.dedup_by(|next, gap| {
        let joins = next.cause == gap.cause && next.span.from <= gap.span.to;
        if joins {
            gap.span.to = gap.span.to.max(next.span.to);
        }
        joins
    });
    let mut gaps = [whole, &more].concat();
    gaps.sort_by_key(|gap| gap.span.from);
    gaps
}

/// Builds the prompt for a summary: the first `max_characters` characters of each part's answer, then the
/// question. The model sees it with a sparse pass over the whole range.
pub fn prompt(parts: &[AnswerPart], max_characters: usize, question: &str) -> String {
    let dated = is_dated(parts);
    let line = |part: &AnswerPart| {
        let words: String = part.text.chars().take(max_characters).collect();
        format!("{}: {}\n", part.window.clock(dated), words.replace('\n', " "))
    };
    format!(
        "These notes tell of the video's parts in order, each with its time:\n{}Going by the notes \
         and the video, answer briefly for the whole time: {question}",
        parts.iter().map(line).collect::<String>()
    )
}

fn is_dated(parts: &[AnswerPart]) -> bool {
    let ends = parts.first().zip(parts.last());
    ends.is_some_and(|(first, last)| {
        Span { from: first.window.from, to: last.window.to }.is_over_days()
    })
}

/// Detects a yes or a no: the text is that word, alone or followed by a punctuation mark or a new
/// line. "No." and "Yes, a dog." match, but not "No people are there.", "No-one came." or "No. 5
/// stops."
fn verdict(text: &str) -> Option<bool> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let yes = match word.to_lowercase().as_str() {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    let behind = rest.trim_start_matches([' ', '\t']);
    let mut marks = behind.chars();
    let ends = match (marks.next(), marks.as_str()) {
        (None | Some('\n' | '\r' | ',' | ';' | ':' | '!' | '?' | '–' | '—' | '…'), _) => true,
        (Some('.'), more) => !more.trim_start().starts_with(|c: char| c.is_ascii_digit()),
        // A dash, not a hyphen.
        (Some('-'), more) => behind.len() < rest.len() && more.starts_with([' ', '-']),
        _ => false,
    };
    ends.then_some(yes)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::event::Coverage;
    use crate::frame::Clock;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Creates parts of 50 s, starting at 14:00.
    fn parts(texts: &[&str]) -> Vec<AnswerPart> {
        let part = |(i, text): (usize, &&str)| {
            let from = at(14 * 3600 + 50 * i as u64);
            AnswerPart {
                window: Span { from, to: from + Duration::from_secs(50) },
                text: text.to_string(),
                coverage: Coverage {
                    frames_expected: 0,
                    frames_used: 0,
                    covered_span: None,
                    gaps: Vec::new(),
                    clock_source: Clock::Host,
                },
            }
        };
        texts.iter().enumerate().map(part).collect()
    }

    fn combined(texts: &[&str]) -> Option<String> {
        combine(&parts(texts)).map(|(text, _)| text)
    }

    #[test]
    fn one_yes_makes_the_answer_yes_with_its_time() {
        assert_eq!(
            combined(&["No.", "Yes.", "yes, a dog", "No", "Yes."]).as_deref(),
            Some("Yes, in 3 of 5 parts: 14:00:50–14:02:30, 14:03:20–14:04:10 UTC.")
        );
        assert_eq!(combined(&["No.", "no"]).as_deref(), Some("No, in none of 2 parts."));
        assert_eq!(combined(&["Yes.", "Yes."]).as_deref(), Some("Yes, in all of 2 parts."));
    }

    #[test]
    fn yes_and_no_are_matched_as_whole_words() {
        for yes in
            ["Yes", " yes.", "YES!", "Yes, a man came.", "Yes: two.", "Yes\nA dog.", "Yes - a dog"]
        {
            assert_eq!(verdict(yes), Some(true), "{yes}");
        }
        for no in
            ["No", "no.", "No, nobody.", "No; it is shut.", "No.\nNobody.", "No… ", "No — none"]
        {
            assert_eq!(verdict(no), Some(false), "{no}");
        }
        for neither in [
            "No people are visible.",
            "No one came.",
            "No-one came.",
            "No -one",
            "No. 5 stops at the gate.",
            "No.5",
            "Yes men stand there.",
            "Nothing.",
            "Noon.",
            "No's",
            "Yesterday a dog came.",
            "\"No\" is written on the door.",
            "",
        ] {
            assert_eq!(verdict(neither), None, "{neither}");
        }
        let counts = ["No people are visible.", "No people are visible in the yard."];
        assert_eq!(combined(&counts), None);
        assert_eq!(combined(&["No.", "No people are visible."]), None);
    }

    #[test]
    fn differing_answers_are_left_to_the_model() {
        assert_eq!(combined(&["No.", "Nothing is there."]), None);
        assert_eq!(combined(&["A dog runs.", "A car is parked."]), None);
        assert_eq!(combined(&["A dog.", "A dog."]).as_deref(), Some("A dog."));
        assert_eq!(combined(&[]), None);
        let parts = parts(&["A dog.", "A car\nstops."]);
        assert_eq!(
            list(&parts),
            "14:00:00–14:00:50 UTC: A dog.\n14:00:50–14:01:40 UTC: A car\nstops."
        );
        let prompt = prompt(&parts, 7, "What came?");
        assert!(prompt.contains("14:00:50–14:01:40: A car s\n"), "{prompt}");
        assert!(prompt.ends_with("What came?"), "{prompt}");
    }

    proptest! {
        #[test]
        fn parts_are_adjacent_and_cover_every_frame(
            length in 1u64..100_000,
            period in 10u64..5000,
            sampled in 1usize..60,
        ) {
            let span = Span { from: at(7), to: at(7) + Duration::from_millis(length) };
            let period = Duration::from_millis(period);
            let parts = split(span, period, sampled);
            prop_assert!(!parts.is_empty() && parts.len() <= MAX_PARTS);
            prop_assert_eq!(parts.first().map(|p| p.from), Some(span.from));
            prop_assert_eq!(parts.last().map(|p| p.to), Some(span.to));
            prop_assert!(parts.windows(2).all(|pair| pair[0].to == pair[1].from));
            let look = period.as_secs_f64() * sampled as f64;
            if parts.len() < MAX_PARTS {
                prop_assert!(parts.iter().all(|p| p.length().as_secs_f64() <= look * 1.001 + 1e-6));
            }
        }
    }
}
