//! Finds the message that the broker will not take: plain values, no network.
//!
//! A broker may end the connection at a message (too large, forbidden) and give no reason. After the
//! first such end, messages go out one at a time until none waits, so that the one at which the
//! connection ends is the cause. After [`TRIES`] ends at the same message it is left out, and what comes
//! after it arrives.

use std::collections::HashSet;

/// Connections that the broker ends at the same message before it is left out.
pub const TRIES: u32 = 3;

/// The most topics remembered as said, for clients choose the topics of answers.
const SAID: usize = 1000;

/// The name of a message over connections: its event, if there is one, its topic and its size.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub sequence: Option<u64>,
    pub topic: String,
    /// The payload's size in bytes.
    pub size: usize,
}

#[derive(Debug, Default)]
pub struct Blame {
    suspect: Option<(Origin, u32)>,
    careful: bool,
    left_out: HashSet<Origin>,
    /// The topics whose refusal was logged.
    said: HashSet<String>,
}

impl Blame {
    /// The broker ended a connection; `unanswered` is the oldest message that it had been sent and
    /// had not acknowledged. Returns whether that one is left out from now on.
    pub fn ended_at(&mut self, unanswered: &Origin) -> bool {
        self.careful = true;
        let times = match &self.suspect {
            Some((suspect, times)) if suspect == unanswered => times + 1,
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

    /// The broker answered for a message.
    pub fn answered(&mut self, origin: &Origin) {
        if self.suspect.as_ref().is_some_and(|(suspect, _)| suspect == origin) {
            self.suspect = None;
        }
    }

    /// True while messages go out one at a time.
    pub fn is_careful(&self) -> bool {
        self.careful
    }

    /// Ends the care: nothing waits any more, and the broker has answered for everything.
    pub fn relax(&mut self) {
        self.careful = false;
    }

    /// True for a message that was blamed, and for one of the same event that is as large, which would
    /// cost as many connections again.
    pub fn leaves_out(&self, origin: &Origin) -> bool {
        self.left_out.iter().any(|blamed| match origin.sequence {
            None => blamed.sequence.is_none() && blamed.topic == origin.topic,
            of => blamed.sequence == of && blamed.size <= origin.size,
        })
    }

    /// Forgets what was left out of events up to this sequence: they do not come again.
    pub fn done(&mut self, sequence: u64) {
        if !self.left_out.is_empty() {
            self.left_out.retain(|origin| origin.sequence.is_none_or(|of| of > sequence));
        }
    }

    /// True where a refusal under this topic is news for the log.
    pub fn may_say(&mut self, topic: &str) -> bool {
        self.said.len() < SAID && self.said.insert(topic.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(sequence: u64) -> Origin {
        Origin { sequence: Some(sequence), topic: "lookout/gate/caption".into(), size: 900 }
    }

    #[test]
    fn what_ends_connections_again_and_again_is_left_out() {
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
        blame.done(6);
        assert!(blame.leaves_out(&origin(7)));
        blame.done(7);
        assert!(!blame.leaves_out(&origin(7)));
    }

    #[test]
    fn what_is_taken_meanwhile_is_not_blamed() {
        let mut blame = Blame::default();
        for _ in 0..10 * TRIES {
            assert!(!blame.ended_at(&origin(7)));
            blame.answered(&origin(6));
            blame.answered(&origin(7));
        }
        // Nor is one of several at which connections end in turn.
        for _ in 0..TRIES {
            assert!(!blame.ended_at(&origin(7)));
            assert!(!blame.ended_at(&origin(8)));
        }
    }
}
