//! Decides what the log reports about the broker: changes only. So the log is not filled by a
//! broker that is gone for a night, nor by one that drops every connection. Plain values, no log
//! access.

use std::time::Duration;

/// Duration after which a connection counts as good.
pub const GOOD: Duration = Duration::from_secs(10);

/// Number of consecutive short connections that are not an accident.
const SEVERAL: u32 = 3;

#[derive(Debug, PartialEq)]
pub enum Line {
    Connected,
    Away(String),
    /// The connection was lost soon after it was made, for the third time in a row. Nothing more is
    /// logged until a connection is good.
    AgainAndAgain(String),
}

#[derive(Debug, Default)]
pub struct Losses {
    /// Number of consecutive connections that were lost before they were good.
    quick: u32,
    /// The last line that was returned.
    said: Option<Line>,
}

impl Losses {
    pub fn connected(&mut self) -> Option<Line> {
        if self.quick >= SEVERAL { None } else { self.say(Line::Connected) }
    }

    /// Records that the connection has held for [`GOOD`].
    pub fn is_good(&mut self) -> Option<Line> {
        self.quick = 0;
        self.say(Line::Connected)
    }

    /// Records a lost connection. `lasted` is its duration, or `None` if there was no connection.
    pub fn lost(&mut self, why: &str, lasted: Option<Duration>) -> Option<Line> {
        match lasted {
            Some(lasted) if lasted >= GOOD => self.quick = 0,
            Some(_) => self.quick += 1,
            None => {}
        }
        if lasted.is_some() && self.quick >= SEVERAL {
            let again = self.quick == SEVERAL;
            return if again { self.say(Line::AgainAndAgain(why.into())) } else { None };
        }
        self.say(Line::Away(why.into()))
    }

    fn say(&mut self, line: Line) -> Option<Line> {
        let news = self.said.as_ref() != Some(&line);
        let copy = match &line {
            Line::Connected => Line::Connected,
            Line::Away(why) => Line::Away(why.clone()),
            Line::AgainAndAgain(why) => Line::AgainAndAgain(why.clone()),
        };
        self.said = Some(copy);
        news.then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_secs(2));

    #[test]
    fn a_long_broker_outage_is_logged_once() {
        let mut losses = Losses::default();
        assert_eq!(losses.connected(), Some(Line::Connected));
        assert_eq!(losses.is_good(), None);
        assert_eq!(losses.lost("closed", Some(GOOD)), Some(Line::Away("closed".into())));
        assert_eq!(losses.lost("no route", None), Some(Line::Away("no route".into())));
        for _ in 0..1000 {
            assert_eq!(losses.lost("no route", None), None);
        }
        assert_eq!(losses.connected(), Some(Line::Connected));
    }

    #[test]
    fn the_third_quick_loss_is_logged_once_until_a_connection_holds() {
        let mut losses = Losses::default();
        for _ in 0..2 {
            assert_eq!(losses.connected(), Some(Line::Connected));
            assert_eq!(losses.lost("closed", SOON), Some(Line::Away("closed".into())));
        }
        losses.connected();
        assert_eq!(losses.lost("closed", SOON), Some(Line::AgainAndAgain("closed".into())));
        for _ in 0..1000 {
            assert_eq!(losses.connected(), None);
            assert_eq!(losses.lost("closed", SOON), None);
        }
        assert_eq!(losses.connected(), None);
        assert_eq!(losses.is_good(), Some(Line::Connected));
        assert_eq!(losses.lost("closed", SOON), Some(Line::Away("closed".into())));
    }
}
