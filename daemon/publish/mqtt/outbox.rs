//! Tracks the messages on their way to the broker and what the broker has taken. Plain values, no
//! network.
//!
//! ```text
//!  journal ─► waiting ─► handed (to the client) ─► in flight (has a packet id) ─► acknowledged
//!              ≤ WINDOW entries │        handed + in flight ≤ WINDOW messages
//! ```
//!
//! One event is an *entry* of several messages. It is done when the broker has acknowledged or
//! refused all of them. [`Outbox::done`] advances only over consecutive done entries: a new
//! connection replays from the entry after it. An entry may have no messages, for events that are
//! lost or left out.

use std::collections::VecDeque;
use std::sync::Arc;

use super::blame::Origin;
use super::message::Message;
use crate::event::{Event, EventId};

/// Maximum number of unacknowledged messages, and of entries that are not done.
pub const WINDOW: usize = 16;

/// A message without an entry (a refusal) is dropped if this many messages are waiting.
const NOTES: usize = 64;

pub struct Outbox {
    window: usize,
    waiting: VecDeque<(Message, Tag)>,
    handed: VecDeque<Origin>,
    /// Messages by packet id, in the order of sending.
    in_flight: VecDeque<(u16, Origin)>,
    /// Entries in the order of the journal. The first one is never done.
    entries: VecDeque<Entry>,
    done: EventId,
}

/// The entry that a message belongs to.
type Tag = Option<EventId>;

struct Entry {
    /// The event, or the position before the event that follows the lost ones.
    id: EventId,
    event: Option<Arc<Event>>,
    unacknowledged: usize,
}

/// A message that the broker has acknowledged or refused.
#[derive(Debug, PartialEq)]
pub struct Answered {
    pub origin: Origin,
    /// The event that is done with this message.
    pub event: Option<Arc<Event>>,
}

impl Outbox {
    /// Creates an outbox. The broker already has every event up to `done`. At most `window` messages
    /// are unacknowledged at a time.
    pub fn new(done: EventId, window: usize) -> Outbox {
        Outbox {
            window,
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            in_flight: VecDeque::new(),
            entries: VecDeque::new(),
            done,
        }
    }

    /// Resets the window to [`WINDOW`].
    pub fn widen(&mut self) {
        self.window = WINDOW;
    }

    /// Returns the event up to which every event is with the broker, or was counted as lost or left
    /// out.
    pub fn done(&self) -> EventId {
        self.done
    }

    /// Returns true if another event of the journal may enter.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.entries.len() < WINDOW
    }

    /// Returns true if no message waits and none is unacknowledged.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.in_flight.is_empty()
    }

    /// Adds an event and its messages. Without an event, `id` is the last of the lost events.
    pub fn enter(&mut self, id: EventId, event: Option<Arc<Event>>, messages: Vec<Message>) {
        debug_assert!(id >= self.done);
        self.entries.push_back(Entry { id, event, unacknowledged: messages.len() });
        self.waiting.extend(messages.into_iter().map(|message| (message, Some(id))));
        self.settle();
    }

    /// Adds a message that belongs to no event and must arrive.
    pub fn post(&mut self, message: Message) {
        self.waiting.push_back((message, None));
    }

    /// Adds a message that may be dropped. Returns false if too many messages wait and it was
    /// dropped.
    #[must_use]
    pub fn note(&mut self, message: Message) -> bool {
        let room = self.waiting.len() < NOTES;
        if room {
            self.post(message);
        }
        room
    }

    /// Returns the next message for the client, or `None` while the window is full or nothing
    /// waits.
    pub fn hand(&mut self) -> Option<Message> {
        if self.handed.len() + self.in_flight.len() >= self.window {
            return None;
        }
        let (message, event) = self.waiting.pop_front()?;
        let (topic, size) = (message.topic.clone(), message.payload.len());
        self.handed.push_back(Origin { event, topic, size });
        Some(message)
    }

    /// Records that the client sent the oldest handed message under this packet id.
    pub fn sent(&mut self, packet: u16) {
        if let Some(origin) = self.handed.pop_front() {
            self.in_flight.push_back((packet, origin));
        }
    }

    /// Returns the oldest message that was sent to the broker and has no answer.
    pub fn unanswered(&self) -> Option<&Origin> {
        self.in_flight.front().map(|(_, origin)| origin)
    }

    /// Records that the broker acknowledged or refused a message.
    pub fn answered(&mut self, packet: u16) -> Option<Answered> {
        let at = self.in_flight.iter().position(|(of, _)| *of == packet)?;
        let (_, origin) = self.in_flight.remove(at)?;
        let entry =
            origin.event.and_then(|id| self.entries.iter_mut().find(|entry| entry.id == id));
        let mut event = None;
        if let Some(entry) = entry {
            entry.unacknowledged = entry.unacknowledged.saturating_sub(1);
            event = entry.event.clone().filter(|_| entry.unacknowledged == 0);
        }
        self.settle();
        Some(Answered { origin, event })
    }

    fn settle(&mut self) {
        while let Some(first) = self.entries.front()
            && first.unacknowledged == 0
        {
            self.done = first.id;
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{Body, CameraStatus};

    fn id(sequence: u64) -> EventId {
        EventId { run: 1, sequence }
    }

    fn event(sequence: u64) -> Arc<Event> {
        let body = Body::CameraStatus(CameraStatus::connecting(SystemTime::UNIX_EPOCH));
        Arc::new(Event::new(id(sequence), SystemTime::UNIX_EPOCH, "gate".into(), body))
    }

    fn message() -> Message {
        Message::removal("t".into())
    }

    #[test]
    fn an_entry_is_done_with_its_last_message() {
        let mut outbox = Outbox::new(id(0), WINDOW);
        outbox.enter(id(1), Some(event(1)), vec![message(), message()]);
        while outbox.hand().is_some() {}
        outbox.sent(1);
        outbox.sent(2);
        let done = |answered: Option<Answered>| Some(answered?.event?.id.sequence);
        assert_eq!(done(outbox.answered(1)), None);
        assert_eq!(outbox.done(), id(0));
        assert_eq!(done(outbox.answered(2)), Some(1));
        assert_eq!(outbox.done(), id(1));
        assert!(outbox.is_idle());
    }

    #[test]
    fn an_unacknowledged_entry_holds_back_the_cursor() {
        let mut outbox = Outbox::new(id(4), WINDOW);
        outbox.enter(id(5), Some(event(5)), vec![message()]);
        outbox.enter(id(9), Some(event(9)), vec![message()]);
        while outbox.hand().is_some() {}
        outbox.sent(1);
        outbox.sent(2);
        outbox.answered(2);
        assert_eq!(outbox.done(), id(4));
        assert_eq!(outbox.unanswered().and_then(|origin| origin.event), Some(id(5)));
        outbox.answered(1);
        assert_eq!(outbox.done(), id(9));
    }

    #[test]
    fn lost_and_dropped_entries_are_done_in_order() {
        let mut outbox = Outbox::new(id(0), WINDOW);
        outbox.enter(id(40), None, Vec::new());
        assert_eq!(outbox.done(), id(40));
        outbox.enter(id(41), Some(event(41)), vec![message()]);
        outbox.enter(id(90), None, Vec::new());
        assert_eq!(outbox.done(), id(40));
        assert!(outbox.hand().is_some());
        outbox.sent(1);
        outbox.answered(1);
        assert_eq!(outbox.done(), id(90));
        assert!(outbox.is_idle());
    }

    #[test]
    fn with_a_window_of_one_the_next_message_waits_for_the_answer() {
        let mut outbox = Outbox::new(id(0), 1);
        outbox.enter(id(1), Some(event(1)), vec![message(), message(), message()]);
        assert!(outbox.hand().is_some() && outbox.hand().is_none());
        outbox.sent(1);
        assert!(outbox.hand().is_none());
        outbox.answered(1);
        assert!(outbox.hand().is_some() && outbox.hand().is_none());
        outbox.widen();
        assert!(outbox.hand().is_some());
    }

    #[test]
    fn notes_are_dropped_when_too_many_wait() {
        let mut outbox = Outbox::new(id(0), WINDOW);
        for _ in 0..NOTES {
            assert!(outbox.note(message()));
        }
        assert!(!outbox.note(message()));
    }

    proptest! {
        /// The window holds for any order of acknowledgements, and `done` never passes an entry
        /// that the broker did not take.
        #[test]
        fn the_cursor_never_runs_ahead(choices in prop::collection::vec((0u8..3, 0usize..16), 0..400)) {
            let mut outbox = Outbox::new(id(0), WINDOW);
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
                        outbox.enter(id(next), Some(event(next)), messages);
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
                        outbox.answered(packet);
                    }
                    _ => {}
                }
                prop_assert!(flying.len() <= WINDOW);
                let wanted = (1..next).take_while(|s| unacknowledged[s] == 0).last().unwrap_or(0);
                prop_assert_eq!(outbox.done(), id(wanted));
            }
        }
    }
}
