//! Reads the arguments that several tools have: times, cameras and events.

use std::time::SystemTime;

use crate::event::EventId;
use crate::frame::rfc3339;
use crate::journal::EventFilter;
use crate::moment;
use crate::publish::http::refusal::Refusal;
use crate::question::{self, Draft, QuestionError, Range, RawLength, RawTime, start_of};
use crate::service::{AskError, Service};

pub const CAMERAS: &str = "Names of the cameras. Default: all cameras.";
pub const LAST: &str = "A length of time up to now, such as \"10m\" or \"1h 30m\". Not together \
                        with from and to.";
pub const FROM: &str = "Start of the time: RFC 3339 such as \"2026-03-01T14:05:00Z\", or a \
                        duration before now such as \"15m\".";
pub const TO: &str = "End of the time, written as the start is. Default: now.";

/// A range of time as an agent writes it. Each tool's arguments repeat the three fields: with
/// `serde(flatten)`, unknown arguments would not be refused.
#[derive(Default)]
pub struct RangeText {
    pub last: Option<String>,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl RangeText {
    /// Returns the draft of a question about the range.
    pub fn draft(self) -> Result<Draft, Refusal> {
        let time = |field, text| {
            let time = time(field, text)?;
            Ok::<_, Refusal>(time.map(|time| RawTime::Text(rfc3339::format(time))))
        };
        Ok(Draft {
            last: self.last.map(RawLength::Text),
            from: time("from", self.from)?,
            to: time("to", self.to)?,
            ..Draft::default()
        })
    }

    /// Returns the range of a camera's frames. The default is the newest window.
    pub fn range(self) -> Result<Range, Refusal> {
        question::range(&self.draft()?).map_err(refused)
    }

    /// Returns the filter of events that were published in the range. The default is any time.
    pub fn filter(self) -> Result<EventFilter, Refusal> {
        let (since, until) = match self {
            RangeText { last: Some(last), from: None, to: None } => {
                let wrong = |why| Refusal::invalid("last", format!("last is {last:?}; {why}"));
                (Some(moment::ago(&last).map_err(wrong)?), None)
            }
            RangeText { last: None, from, to } => (time("from", from)?, time("to", to)?),
            _ => return Err(Refusal::invalid("last", "wanted one range: last, or from and to")),
        };
        Ok(EventFilter { since, until, ..EventFilter::default() })
    }
}

fn time(field: &str, text: Option<String>) -> Result<Option<SystemTime>, Refusal> {
    let wrong = |text: &str, why| {
        Refusal::invalid(field, format!("{field} is {:?}; {why}", start_of(text)))
    };
    text.map(|text| moment::parse(&text).map_err(|why| wrong(&text, why))).transpose()
}

/// Returns the refusal of a question or a range.
pub fn refused(error: QuestionError) -> Refusal {
    AskError::from(error).into()
}

/// Reads the ID of an event, `RUN.SEQUENCE`.
pub fn event_id(text: &str) -> Result<EventId, Refusal> {
    start_of(text).parse().map_err(|why| Refusal::invalid("event", format!("event is {why}")))
}

/// Returns the names of the cameras, or of all if none is named.
pub fn cameras(service: &dyn Service, names: Option<Vec<String>>) -> Vec<String> {
    match names {
        Some(names) if !names.is_empty() => names,
        _ => service.cameras().into_iter().map(|camera| camera.name.to_string()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(last: &str, from: &str, to: &str) -> RangeText {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        RangeText { last: some(last), from: some(from), to: some(to) }
    }

    #[test]
    fn a_range_is_written_as_people_say_it() {
        let range = |last, from, to| text(last, from, to).range();
        assert_eq!(range("", "", ""), Ok(Range::Recent));
        assert!(matches!(range("10m", "", ""), Ok(Range::Last(length)) if length.as_secs() == 600));
        let Ok(Range::Between { from, to: Some(to) }) = range("", "12m", "8m") else { panic!() };
        let length = to.duration_since(from).expect("a range");
        assert!((239..=241).contains(&length.as_secs()), "{length:?}");
        let offset = range("", "2026-03-01T15:05:00+01:00", "2026-03-01T14:06:00Z");
        assert_eq!(offset, range("", "2026-03-01T14:05:00Z", "2026-03-01T14:06:00Z"));
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_field() {
        for (refused, field) in [
            (text("soon", "", "").range().map(drop), "last"),
            (text("", "noon", "").range().map(drop), "from"),
            (text("", "", "1m").range().map(drop), "from"),
            (text("", "1m", "2m").range().map(drop), "to"),
            (text("1m", "2m", "").range().map(drop), "range"),
            (text("1m", "2m", "").filter().map(drop), "last"),
            (text("soon", "", "").filter().map(drop), "last"),
            (text("", "1m", "noon").filter().map(drop), "to"),
            (event_id("7").map(drop), "event"),
        ] {
            assert_eq!(refused.expect_err("a refusal").field.as_deref(), Some(field));
        }
    }
}
