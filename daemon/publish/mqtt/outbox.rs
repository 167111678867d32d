//! What is on its way to the broker, and what the broker has taken: plain values, no network.
//!
//! ```text
//!  journal ─► waiting ─► handed (to the client) ─► in flight (has a packet id) ─► acknowledged
//!              ≤ WINDOW entries │        handed + in flight ≤ WINDOW messages
//! ```
//!
//! One event is an *entry* of several messages. It is done when the broker acknowledged them all,
//! and [`Outbox::done`] moves only over entries without a hole: what a new connection must replay
//! begins right behind it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::event::Event;

/// Messages unacknowledged, and entries not done, at most.
pub const WINDOW: usize = 16;

/// Messages that belong to no entry (errors to questioners) and wait, at most.
const NOTES: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

pub struct Outbox {
    waiting: VecDeque<(Message, Tag)>,
    handed: VecDeque<Tag>,
    in_flight: HashMap<u16, Tag>,
    /// In the order of the journal; the first is never done.
    entries: VecDeque<Entry>,
    done: u64,
}

/// The sequence of the entry that a message belongs to.
type Tag = Option<u64>;

struct Entry {
    event: Arc<Event>,
    unacknowledged: usize,
}

impl Outbox {
    /// Every event up to the sequence `done` is with the broker already.
    pub fn new(done: u64) -> Outbox {
        Outbox {
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            in_flight: HashMap::new(),
            entries: VecDeque::new(),
            done,
        }
    }

    /// Every event up to this sequence is with the broker, or was lost and counted as such.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Whether another event of the journal may enter.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.entries.len() < WINDOW
    }

    /// Nothing waits and nothing is unacknowledged.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.in_flight.is_empty()
    }

    /// `messages` is not empty.
    pub fn enter(&mut self, event: Arc<Event>, messages: Vec<Message>) {
        debug_assert!(!messages.is_empty(), "an entry of no messages would never be done");
        debug_assert!(event.sequence > self.done);
        let tag = Some(event.sequence);
        self.entries.push_back(Entry { event, unacknowledged: messages.len() });
        self.waiting.extend(messages.into_iter().map(|message| (message, tag)));
    }

    /// A message that no event stands behind and that must arrive.
    pub fn post(&mut self, message: Message) {
        self.waiting.push_back((message, None));
    }

    /// A message that may be dropped: false if so many wait that it was.
    #[must_use]
    pub fn note(&mut self, message: Message) -> bool {
        let room = self.waiting.len() < NOTES;
        if room {
            self.post(message);
        }
        room
    }

    /// The next message for the client, while the window is open.
    pub fn hand(&mut self) -> Option<Message> {
        if self.handed.len() + self.in_flight.len() >= WINDOW {
            return None;
        }
        let (message, tag) = self.waiting.pop_front()?;
        self.handed.push_back(tag);
        Some(message)
    }

    /// The client sent the oldest handed message under this packet id.
    pub fn sent(&mut self, packet: u16) {
        if let Some(tag) = self.handed.pop_front() {
            self.in_flight.insert(packet, tag);
        }
    }

    /// The broker took a message; returns the event that is done by it.
    pub fn acknowledged(&mut self, packet: u16) -> Option<Arc<Event>> {
        let sequence = self.in_flight.remove(&packet)??;
        let entry = self.entries.iter_mut().find(|entry| entry.event.sequence == sequence)?;
        entry.unacknowledged = entry.unacknowledged.saturating_sub(1);
        let event = (entry.unacknowledged == 0).then(|| entry.event.clone());
        while let Some(first) = self.entries.front()
            && first.unacknowledged == 0
        {
            self.done = first.event.sequence;
            self.entries.pop_front();
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{Body, CameraStatus, Phase};

    fn event(sequence: u64) -> Arc<Event> {
        let body = Body::Camera(CameraStatus {
            phase: Phase::Live,
            since: SystemTime::UNIX_EPOCH,
            reason: String::new(),
            last_frame: None,
            reconnects: 0,
            decoder: String::new(),
        });
        let published_at = SystemTime::UNIX_EPOCH;
        Arc::new(Event { run: 1, sequence, published_at, camera: "gate".into(), body })
    }

    fn message() -> Message {
        Message { topic: "t".into(), payload: Vec::new(), retain: false }
    }

    #[test]
    fn an_entry_is_done_with_its_last_message() {
        let mut outbox = Outbox::new(0);
        outbox.enter(event(1), vec![message(), message()]);
        while outbox.hand().is_some() {}
        outbox.sent(1);
        outbox.sent(2);
        assert_eq!(outbox.acknowledged(1), None);
        assert_eq!(outbox.done(), 0);
        assert_eq!(outbox.acknowledged(2).map(|e| e.sequence), Some(1));
        assert_eq!(outbox.done(), 1);
        assert!(outbox.is_idle());
    }

    #[test]
    fn a_hole_holds_done_back() {
        let mut outbox = Outbox::new(4);
        outbox.enter(event(5), vec![message()]);
        outbox.enter(event(9), vec![message()]);
        while outbox.hand().is_some() {}
        outbox.sent(1);
        outbox.sent(2);
        outbox.acknowledged(2);
        assert_eq!(outbox.done(), 4);
        outbox.acknowledged(1);
        assert_eq!(outbox.done(), 9);
    }

    #[test]
    fn notes_are_dropped_when_too_many_wait() {
        let mut outbox = Outbox::new(0);
        for _ in 0..NOTES {
            assert!(outbox.note(message()));
        }
        assert!(!outbox.note(message()));
    }

    proptest! {
        /// Whatever the order of acknowledgements: the window holds, and `done` never passes an
        /// entry that the broker did not take.
        #[test]
        fn done_never_runs_ahead(choices in prop::collection::vec((0u8..3, 0usize..16), 0..400)) {
            let mut outbox = Outbox::new(0);
            let (mut next, mut packet) = (1, 0u16);
            let mut flying: Vec<(u16, u64)> = Vec::new();
            let mut queued: VecDeque<u64> = VecDeque::new();
            let mut unacknowledged: HashMap<u64, usize> = HashMap::new();
            for (choice, which) in choices {
                match choice {
                    0 if outbox.has_room() => {
                        let messages = vec![message(); which % 3 + 1];
                        unacknowledged.insert(next, messages.len());
                        queued.extend(std::iter::repeat_n(next, messages.len()));
                        outbox.enter(event(next), messages);
                        next += 1;
                    }
                    1 if outbox.hand().is_some() => {
                        packet += 1;
                        outbox.sent(packet);
                        flying.push((packet, queued.pop_front().unwrap()));
                    }
                    2 if !flying.is_empty() => {
                        let (packet, sequence) = flying.remove(which % flying.len());
                        *unacknowledged.get_mut(&sequence).unwrap() -= 1;
                        outbox.acknowledged(packet);
                    }
                    _ => {}
                }
                prop_assert!(flying.len() <= WINDOW);
                let wanted = (1..next).take_while(|s| unacknowledged[s] == 0).last().unwrap_or(0);
                prop_assert_eq!(outbox.done(), wanted);
            }
        }
    }
}
