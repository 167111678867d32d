//! What was asked and answered before, of which window: pure rules.
//!
//! At most `most` conversations are remembered, each for `age` after its last answer; the one that
//! was last spoken in longest ago leaves first. Frames are remembered by name, not by their tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::{FrameId, Span};

/// Earlier questions that are told with the next; older ones are forgotten.
const TURNS: usize = 8;

/// A camera's part of a conversation: one name may be asked of several cameras.
pub type Key = (String, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation<T> {
    pub window: Span,
    /// Those that the model saw; `None`: more than one look was taken, and a further question has
    /// one look at all of the window.
    pub frames: Option<Vec<FrameId>>,
    pub turns: Vec<T>,
}

pub struct Conversations<T> {
    /// The one that was spoken in last is the last.
    held: VecDeque<(Key, Instant, Conversation<T>)>,
    most: usize,
    age: Duration,
}

impl<T: Clone> Conversations<T> {
    pub fn new(most: usize, age: Duration) -> Conversations<T> {
        Conversations { held: VecDeque::new(), most, age }
    }

    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Conversation<T>> {
        self.forget(now);
        self.held
            .iter()
            .find(|(held, ..)| held == key)
            .map(|(.., conversation)| conversation.clone())
    }

    /// Something was answered: the conversation as it is now.
    pub fn put(&mut self, key: Key, mut conversation: Conversation<T>, now: Instant) {
        self.forget(now);
        self.held.retain(|(held, ..)| *held != key);
        let too_many = conversation.turns.len().saturating_sub(TURNS);
        conversation.turns.drain(..too_many);
        self.held.push_back((key, now, conversation));
        while self.held.len() > self.most {
            self.held.pop_front();
        }
    }

    fn forget(&mut self, now: Instant) {
        let age = self.age;
        self.held.retain(|(_, spoken, _)| now.saturating_duration_since(*spoken) <= age);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn said(turns: usize) -> Conversation<usize> {
        let at = SystemTime::UNIX_EPOCH;
        Conversation {
            window: Span { from: at, to: at },
            frames: None,
            turns: (0..turns).collect(),
        }
    }

    fn key(name: &str, camera: &str) -> Key {
        (name.into(), camera.into())
    }

    #[test]
    fn the_longest_silent_is_forgotten_first() {
        let mut held = Conversations::new(2, Duration::from_secs(60));
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        held.put(key("a", "gate"), said(1), start);
        held.put(key("b", "gate"), said(1), later(1));
        held.put(key("a", "gate"), said(2), later(2));
        held.put(key("c", "gate"), said(1), later(3));
        let known = |held: &mut Conversations<usize>, name, at| {
            held.get(&key(name, "gate"), at).map(|known| known.turns.len())
        };
        assert_eq!(known(&mut held, "a", later(3)), Some(2));
        assert_eq!(known(&mut held, "b", later(3)), None);
        assert_eq!(held.get(&key("a", "yard"), later(3)), None);
        assert_eq!(known(&mut held, "a", later(62)), Some(2));
        assert_eq!(known(&mut held, "a", later(63)), None);
        assert_eq!(known(&mut held, "c", later(63)), Some(1));
        held.put(key("c", "gate"), said(TURNS + 3), later(63));
        assert_eq!(held.get(&key("c", "gate"), later(63)).map(|c| c.turns[0]), Some(3));
    }
}
