//! Stores earlier questions and answers, and the window that they are about. Pure rules.
//!
//! Limits: at most `most` conversations are kept, each for `age` after its last answer. The least
//! recently used one is removed first. Frames are stored by their ids, not by their tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::{FrameId, Span};

/// Maximum number of earlier questions kept for the next one. Older ones are forgotten.
const TURNS: usize = 8;

/// A camera's part of a conversation. Questions to several cameras may share one name.
pub type Key = (String, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation<T> {
    pub window: Span,
    /// The frames that the model saw. `None` if the answer took more than one pass; a further
    /// question then takes one pass over the whole window.
    pub frames: Option<Vec<FrameId>>,
    pub turns: Vec<T>,
}

pub struct Conversations<T> {
    /// Conversations in order of their last answer, the latest last.
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

    /// Adds an answer. `known` is the conversation at the time of the question; turns added since
    /// then are kept. An answer about another window than the conversation's is not added as a
    /// turn. This happens if two first questions arrive together: the one answered first begins the
    /// conversation.
    pub fn add(&mut self, key: Key, known: Conversation<T>, turn: T, now: Instant) {
        self.forget(now);
        let at = self.held.iter().position(|(held, ..)| *held == key);
        let held = at.and_then(|at| self.held.remove(at)).map(|(.., held)| held);
        let mut conversation = match held {
            Some(held) => {
                let is_turn = held.window == known.window;
                let Conversation { window, frames, mut turns } = held;
                turns.extend(is_turn.then_some(turn));
                let frames = if is_turn { known.frames.or(frames) } else { frames };
                Conversation { window, frames, turns }
            }
            None => {
                let turns = known.turns.into_iter().chain([turn]).collect();
                Conversation { turns, ..known }
            }
        };
        let too_many = conversation.turns.len().saturating_sub(TURNS);
        conversation.turns.drain(..too_many);
        self.held.push_back((key, now, conversation));
        while self.held.len() > self.most {
            self.held.pop_front();
        }
    }

    /// Removes the conversations about a camera.
    pub fn remove(&mut self, camera: &str) {
        self.held.retain(|((_, about), ..)| **about != *camera);
    }

    /// Removes the conversations about a camera's span of time.
    pub fn forget_span(&mut self, camera: &str, span: Span) {
        let overlaps = |window: Span| window.to > span.from && window.from < span.to;
        self.held.retain(|((_, about), _, held)| **about != *camera || !overlaps(held.window));
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

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn known(turns: usize) -> Conversation<usize> {
        let window = Span { from: at(0), to: at(9) };
        Conversation { window, frames: None, turns: (0..turns).collect() }
    }

    fn key(name: &str, camera: &str) -> Key {
        (name.into(), camera.into())
    }

    #[test]
    fn the_longest_unused_conversation_is_dropped_first() {
        let mut held = Conversations::new(2, Duration::from_secs(60));
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        held.add(key("a", "gate"), known(0), 0, start);
        held.add(key("b", "gate"), known(0), 0, later(1));
        held.add(key("a", "gate"), known(1), 1, later(2));
        held.add(key("c", "gate"), known(0), 0, later(3));
        let turns = |held: &mut Conversations<usize>, name, at| {
            held.get(&key(name, "gate"), at).map(|known| known.turns.len())
        };
        assert_eq!(turns(&mut held, "a", later(3)), Some(2));
        assert_eq!(turns(&mut held, "b", later(3)), None);
        assert_eq!(held.get(&key("a", "yard"), later(3)), None);
        assert_eq!(turns(&mut held, "a", later(62)), Some(2));
        assert_eq!(turns(&mut held, "a", later(63)), None);
        assert_eq!(turns(&mut held, "c", later(63)), Some(1));
        for turn in 1..TURNS + 3 {
            held.add(key("c", "gate"), known(0), turn, later(63));
        }
        assert_eq!(held.get(&key("c", "gate"), later(63)).map(|c| c.turns[0]), Some(3));
    }

    #[test]
    fn answers_added_in_the_meantime_are_kept() {
        let mut held = Conversations::new(2, Duration::from_secs(60));
        let (now, name) = (Instant::now(), key("a", "gate"));
        held.add(name.clone(), known(0), 0, now);
        // Two questions at once, both asked after the first turn.
        held.add(name.clone(), known(1), 7, now);
        held.add(name.clone(), known(1), 8, now);
        assert_eq!(held.get(&name, now).map(|c| c.turns), Some(vec![0, 7, 8]));
        // The conversation was forgotten while the answer was generated.
        let late = now + Duration::from_secs(61);
        held.add(name.clone(), known(3), 9, late);
        assert_eq!(held.get(&name, late).map(|c| c.turns), Some(vec![0, 1, 2, 9]));
    }

    #[test]
    fn the_first_answered_question_sets_the_conversations_window() {
        let mut held = Conversations::new(2, Duration::from_secs(60));
        let (now, name) = (Instant::now(), key("a", "gate"));
        held.add(name.clone(), known(0), 0, now);
        let window = Span { from: at(1), to: at(10) };
        held.add(name.clone(), Conversation { window, ..known(0) }, 1, now);
        assert_eq!(held.get(&name, now), Some(Conversation { turns: vec![0], ..known(0) }));
    }
}
