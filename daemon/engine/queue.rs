//! What the language worker does next: pure rules, no model.
//!
//! - Questions come before captions, and in the order asked.
//! - At most `capacity` questions wait; one more is refused.
//! - At most one caption waits for a camera: a newer window replaces an older one.
//! - The camera whose caption was least recently taken is next.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

pub struct Queue<C, Q, P> {
    questions: VecDeque<Q>,
    capacity: usize,
    /// The waiting caption of each camera, with the order in which it came.
    captions: HashMap<C, (u64, P)>,
    /// For each camera, the turn in which its caption was last taken.
    served: HashMap<C, u64>,
    clock: u64,
}

#[derive(Debug, PartialEq)]
pub enum Next<C, Q, P> {
    Question(Q),
    Caption(C, P),
}

impl<C: Clone + Eq + Hash, Q, P> Queue<C, Q, P> {
    pub fn new(capacity: usize) -> Self {
        Queue {
            questions: VecDeque::new(),
            capacity,
            captions: HashMap::new(),
            served: HashMap::new(),
            clock: 0,
        }
    }

    /// Gives the question back when the queue is full.
    pub fn ask(&mut self, question: Q) -> Result<(), Q> {
        if self.questions.len() >= self.capacity {
            return Err(question);
        }
        self.questions.push_back(question);
        Ok(())
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets questions that nobody waits for any more.
    pub fn retain(&mut self, waited_for: impl FnMut(&Q) -> bool) {
        self.questions.retain(waited_for);
    }

    /// Returns the older caption of this camera that will not be made.
    pub fn caption(&mut self, camera: C, caption: P) -> Option<P> {
        self.clock += 1;
        self.captions.insert(camera, (self.clock, caption)).map(|(_, older)| older)
    }

    pub fn next(&mut self) -> Option<Next<C, Q, P>> {
        if let Some(question) = self.next_question() {
            return Some(Next::Question(question));
        }
        let turn = |camera: &C| self.served.get(camera).copied().unwrap_or(0);
        let camera = self
            .captions
            .iter()
            .min_by_key(|(c, (came, _))| (turn(c), *came))
            .map(|(c, _)| c)?
            .clone();
        self.clock += 1;
        self.served.insert(camera.clone(), self.clock);
        let (_, caption) = self.captions.remove(&camera)?;
        Some(Next::Caption(camera, caption))
    }

    /// Where there is room for a question only.
    pub fn next_question(&mut self) -> Option<Q> {
        self.questions.pop_front()
    }

    /// Questions and captions that wait.
    pub fn waiting(&self) -> usize {
        self.questions.len() + self.captions.len()
    }

    pub fn questions(&self) -> usize {
        self.questions.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions_first_then_the_camera_that_waited_longest_for_a_turn() {
        let mut queue = Queue::new(2);
        assert_eq!(queue.caption("a", 1), None);
        assert_eq!(queue.caption("b", 2), None);
        assert_eq!(queue.caption("a", 3), Some(1));
        assert_eq!(queue.ask("q1"), Ok(()));
        assert_eq!(queue.ask("q2"), Ok(()));
        assert_eq!(queue.ask("q3"), Err("q3"));
        assert_eq!(queue.next(), Some(Next::Question("q1")));
        assert_eq!(queue.next(), Some(Next::Question("q2")));
        assert_eq!(queue.next(), Some(Next::Caption("b", 2)));
        assert_eq!(queue.caption("b", 4), None);
        assert_eq!(queue.next(), Some(Next::Caption("a", 3)));
        assert_eq!(queue.next(), Some(Next::Caption("b", 4)));
        assert_eq!(queue.next(), None);
    }

    proptest! {
        /// Every camera always has a caption waiting: turns differ by at most one.
        #[test]
        fn turns_are_fair(cameras in 1usize..12, rounds in 1usize..200) {
            let mut queue: Queue<usize, (), ()> = Queue::new(1);
            let mut taken = vec![0usize; cameras];
            for _ in 0..rounds {
                for camera in 0..cameras {
                    queue.caption(camera, ());
                }
                if let Some(Next::Caption(camera, ())) = queue.next() {
                    taken[camera] += 1;
                }
                let (least, most) = (taken.iter().min(), taken.iter().max());
                prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
            }
        }

        /// What goes in comes out once, is replaced once, or is refused.
        #[test]
        fn nothing_is_lost_or_doubled(steps in prop::collection::vec((0usize..4, 0u8..3), 0..200)) {
            let mut queue = Queue::new(3);
            let (mut inside, mut out, mut replaced, mut refused) = (0, 0, 0, 0);
            for (camera, step) in steps {
                match step {
                    0 => { inside += 1; replaced += usize::from(queue.caption(camera, ()).is_some()); }
                    1 => { inside += 1; refused += usize::from(queue.ask(()).is_err()); }
                    _ => out += usize::from(queue.next().is_some()),
                }
                prop_assert_eq!(inside, out + replaced + refused + queue.waiting());
            }
        }
    }
}
