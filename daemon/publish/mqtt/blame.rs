//! Finds the message that the broker does not accept. Plain values, no network.
//!
//! A broker may end the connection at a message (too large, forbidden) without a reason. After the
//! first such end, messages are sent one at a time until none waits, so that the message at which
//! the connection ends is the cause. After [`TRIES`] ends at the same message it is left out, and
//! the messages after it arrive.

use std::collections::HashSet;

use crate::event::EventId;

/// Number of connections ended at the same message after which it is left out.
pub const TRIES: u32 = 3;

/// Maximum number of topics whose refusal was logged. Clients choose the topics, so the number
/// needs a limit.
const SAID: usize = 1000;

/// Identifies a message across connections by its event, if there is one, its topic and its size.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub event: Option<EventId>,
    pub topic: String,
    /// Size of the payload in bytes.
    pub size: usize,
}

impl Origin {
    /// Returns true for the same message. A message that belongs to no event is replaced by one of
    /// another size on the same topic, for example a camera's next frame.
    fn is_same_as(&self, other: &Origin) -> bool {
        let same = self.event == other.event && self.topic == other.topic;
        same && (self.event.is_none() || self.size == other.size)
    }
}

#[derive(Debug, Default)]
pub struct Blame {
    suspect: Option<(Origin, u32)>,
    careful: bool,
    left_out: HashSet<Origin>,
    /// Topics whose refusal was logged.
    said: HashSet<String>,
}

impl Blame {
    /// Records that the broker ended a connection. `unanswered` is the oldest message that was sent
    /// and not acknowledged. Returns true if it is left out from now on.
    pub fn ended_at(&mut self, unanswered: &Origin) -> bool {
        self.careful = true;
        let times = match &self.suspect {
            Some((suspect, times)) if suspect.is_same_as(unanswered) => times + 1,
            _ => 1,
        };
        let guilty = times >= TRIES;
        if guilty {
            self.suspect = None;
            self.left_out.insert(unanswered.clone());
        } else {
            self.suspect = Some((unanswered.clone(), times));
        }
        guilty
    }

    /// Records that the broker acknowledged or refused a message.
    pub fn answered(&mut self, origin: &Origin) {
        if self.suspect.as_ref().is_some_and(|(suspect, _)| suspect.is_same_as(origin)) {
            self.suspect = None;
        }
    }

    /// Returns true while messages are sent one at a time.
    pub fn is_careful(&self) -> bool {
        self.careful
    }

    /// Ends the sending of one message at a time, because none waits and all have been answered.
    pub fn relax(&mut self) {
        self.careful = false;
    }

    /// Returns true for a message that was blamed, and for one of the same event that is at least
    /// as large, which would cost as many connections again.
    pub fn leaves_out(&self, origin: &Origin) -> bool {
        self.left_out.iter().any(|blamed| match origin.event {
            None => blamed.event.is_none() && blamed.topic == origin.topic,
            of => blamed.event == of && blamed.size <= origin.size,
        })
    }

    /// Forgets the left-out messages of the events up to this one, because those events are not
    /// sent again.
    pub fn done(&mut self, up_to: EventId) {
        if !self.left_out.is_empty() {
            self.left_out.retain(|origin| origin.event.is_none_or(|of| of > up_to));
        }
    }

    /// Returns true if a refusal on this topic has not been logged yet.
    pub fn may_say(&mut self, topic: &str) -> bool {
        self.said.len() < SAID && self.said.insert(topic.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> EventId {
        EventId { run: 1, sequence }
    }

    fn origin(sequence: u64) -> Origin {
        Origin { event: Some(id(sequence)), topic: "lookout/gate/caption".into(), size: 900 }
    }

    #[test]
    fn a_message_that_repeatedly_ends_connections_is_dropped() {
        let mut blame = Blame::default();
        for _ in 1..TRIES {
            assert!(!blame.ended_at(&origin(7)));
            assert!(blame.is_careful() && !blame.leaves_out(&origin(7)));
        }
        assert!(blame.ended_at(&origin(7)));
        assert!(blame.leaves_out(&origin(7)) && !blame.leaves_out(&origin(8)));
        let of_it = |size| Origin { topic: "lookout/gate/state".into(), size, ..origin(7) };
        assert!(blame.leaves_out(&of_it(900)) && !blame.leaves_out(&of_it(255)));
        assert!(blame.is_careful());
        blame.relax();
        assert!(!blame.is_careful());
        blame.done(id(6));
        assert!(blame.leaves_out(&origin(7)));
        blame.done(id(7));
        assert!(!blame.leaves_out(&origin(7)));
    }

    #[test]
    fn messages_accepted_in_the_meantime_are_not_blamed() {
        let mut blame = Blame::default();
        for _ in 0..10 * TRIES {
            assert!(!blame.ended_at(&origin(7)));
            blame.answered(&origin(6));
            blame.answered(&origin(7));
        }
        // If connections end at two messages in turn, neither is blamed.
        for _ in 0..TRIES {
            assert!(!blame.ended_at(&origin(7)));
            assert!(!blame.ended_at(&origin(8)));
        }
    }

    #[test]
    fn frames_of_different_sizes_are_one_message() {
        let mut blame = Blame::default();
        let frame = |size| Origin { event: None, topic: "lookout/gate/last_frame".into(), size };
        for size in 1..TRIES as usize {
            assert!(!blame.ended_at(&frame(size)));
        }
        assert!(blame.ended_at(&frame(900)));
        assert!(blame.leaves_out(&frame(7)) && !blame.leaves_out(&origin(7)));
    }
}
