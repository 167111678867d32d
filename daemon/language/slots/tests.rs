//! The rules of the batch as examples. Prompts are read in chunks of 10 ms; a token takes 4 ms.

use proptest::prelude::*;

use super::*;

const CHUNK: Duration = Duration::from_millis(10);
const TOKEN: Duration = Duration::from_millis(4);

/// A sequence of a test: its prompt takes `chunks` steps, of which the first `prefix_chunks` read
/// the prefix of `window`.
#[derive(Clone, Debug)]
struct Asked {
    name: &'static str,
    urgency: Urgency,
    window: Option<u32>,
    chunks: usize,
    prefix_chunks: usize,
    read: usize,
}

impl Prompt for Asked {
    fn urgency(&self) -> Urgency {
        self.urgency
    }

    fn is_started(&self) -> bool {
        self.read > 0
    }

    fn shares_prefix_read_by(&self, other: &Asked) -> bool {
        self.window.is_some() && self.window == other.window && other.read < other.prefix_chunks
    }
}

fn question(name: &'static str, chunks: usize) -> Asked {
    Asked { name, urgency: Urgency::Now, window: None, chunks, prefix_chunks: 0, read: 0 }
}

fn caption(name: &'static str, chunks: usize) -> Asked {
    Asked { urgency: Urgency::Later, ..question(name, chunks) }
}

fn background(name: &'static str, chunks: usize) -> Asked {
    Asked { urgency: Urgency::Background, ..question(name, chunks) }
}

fn about(window: u32, asked: Asked) -> Asked {
    Asked { window: Some(window), prefix_chunks: asked.chunks - 1, ..asked }
}

fn admit(slots: &mut Slots<Asked>, asked: Asked) -> SequenceId {
    slots.free_slot().expect("a free slot").admit(asked)
}

/// Runs one step. Returns "name" for a chunk of a prompt, "*" for a token of every answer, and ""
/// if there is nothing to do.
fn step(slots: &mut Slots<Asked>) -> &'static str {
    let Some(step) = slots.next() else { return "" };
    let Step::Prefill(slot) = step else {
        slots.ran(step, TOKEN);
        return "*";
    };
    slots[slot].read += 1;
    let asked = slots[slot].clone();
    if asked.read == asked.chunks {
        slots.prefilled(slot);
    }
    slots.ran(step, CHUNK);
    asked.name
}

fn steps(slots: &mut Slots<Asked>, count: usize) -> String {
    (0..count).map(|_| step(slots)).collect()
}

fn names(slots: &Slots<Asked>) -> Vec<&'static str> {
    slots.iter().map(|asked| asked.name).collect()
}

#[test]
fn an_empty_batch_has_nothing_to_do_and_room_for_anything() {
    for count in [1, 8] {
        let slots: Slots<Asked> = Slots::new(count);
        assert_eq!((slots.next(), slots.room()), (None, Room::Any));
    }
}

#[test]
fn a_prompt_is_read_to_its_end_and_then_generates() {
    let mut slots = Slots::new(2);
    admit(&mut slots, question("q", 3));
    assert_eq!(steps(&mut slots, 6), "qqq***");
    slots.remove(0);
    assert_eq!(step(&mut slots), "");
}

#[test]
fn the_last_free_slot_is_for_a_question() {
    let mut slots = Slots::new(3);
    for (name, room) in [("a", Room::Any), ("b", Room::Question), ("c", Room::Nothing)] {
        admit(&mut slots, question(name, 1));
        step(&mut slots);
        assert_eq!(slots.room(), room, "after {name}");
    }
    assert!(slots.free_slot().is_none());
    slots.remove(1);
    assert_eq!(slots.room(), Room::Question);
}

#[test]
fn a_prompt_in_the_background_is_read_only_while_nothing_else_has_work() {
    let mut slots = Slots::new(3);
    admit(&mut slots, background("b", 4));
    assert_eq!(steps(&mut slots, 1), "b");
    assert_eq!(slots.room(), Room::Any, "it does not count");
    admit(&mut slots, caption("c", 2));
    assert_eq!(slots.room(), Room::Question, "the caption counts");
    assert_eq!(steps(&mut slots, 5), "cc***");
    admit(&mut slots, question("q", 2));
    assert_eq!(slots.room(), Room::Question, "one slot is left for the others");
    assert!(slots.free_slot().is_none(), "the one in the background is to be cancelled for it");
    // A token costs less than half of a chunk, and the chunk of the question is paid back.
    assert_eq!(steps(&mut slots, 5), "q***q");
    for name in ["c", "q"] {
        let slot = slots.iter().position(|asked| asked.name == name).expect(name);
        slots.remove(slot);
    }
    assert_eq!(steps(&mut slots, 2), "bb");
}

#[test]
fn while_a_prompt_is_unread_only_questions_are_admitted() {
    let mut slots = Slots::new(8);
    admit(&mut slots, caption("c", 2));
    assert_eq!(slots.room(), Room::Question, "the prompt waits");
    step(&mut slots);
    assert_eq!(slots.room(), Room::Question, "the prompt is half read");
    step(&mut slots);
    assert_eq!(slots.room(), Room::Any, "the prompt is read");
}

#[test]
fn a_single_slot_takes_anything_when_it_is_free() {
    let mut slots = Slots::new(1);
    admit(&mut slots, caption("c", 1));
    assert_eq!(slots.room(), Room::Nothing);
    slots.remove(0);
    assert_eq!(slots.room(), Room::Any);
}

#[test]
fn questions_are_read_before_captions_and_equals_in_the_order_of_admission() {
    let mut slots = Slots::new(4);
    for asked in [caption("c", 2), question("q", 1), caption("d", 1), question("r", 1)] {
        admit(&mut slots, asked);
    }
    // What is read generates; the answers get 10 ms, three tokens of 4 ms, after each chunk.
    assert_eq!(steps(&mut slots, 17), "q***r***c***c***d");
}

#[test]
fn a_question_interrupts_a_caption_that_is_being_read() {
    let mut slots = Slots::new(4);
    admit(&mut slots, caption("c", 3));
    assert_eq!(steps(&mut slots, 1), "c");
    admit(&mut slots, question("q", 2));
    assert_eq!(steps(&mut slots, 3), "qq*");
}

#[test]
fn reading_and_generating_each_get_half_of_the_time() {
    let mut slots = Slots::new(2);
    admit(&mut slots, question("a", 1));
    step(&mut slots);
    admit(&mut slots, question("b", 50));
    let ran = steps(&mut slots, 100);
    let chunks = CHUNK * ran.matches('b').count() as u32;
    let tokens = TOKEN * ran.matches('*').count() as u32;
    assert!(chunks.abs_diff(tokens) <= CHUNK + TOKEN * 25, "{ran}");
    assert!(!ran.contains("bb") && !ran.contains("****"), "neither starves: {ran}");
}

#[test]
fn time_that_was_owed_to_answers_ends_with_the_last_answer() {
    let mut slots = Slots::new(2);
    admit(&mut slots, question("a", 1));
    step(&mut slots);
    admit(&mut slots, question("b", 3));
    assert_eq!(steps(&mut slots, 4), "***b");
    slots.remove(0);
    assert_eq!(steps(&mut slots, 3), "bb*");
}

#[test]
fn a_prefix_that_is_being_read_is_finished_for_a_question_that_needs_it() {
    let mut slots = Slots::new(4);
    admit(&mut slots, about(1, caption("c", 3)));
    step(&mut slots);
    admit(&mut slots, about(1, question("q", 3)));
    // The prefix has two chunks. After it the question is first.
    assert_eq!(steps(&mut slots, 2), "cq");
}

#[test]
fn another_prefix_and_an_unstarted_caption_do_not_delay_a_question() {
    for caption in [about(2, caption("c", 3)), caption("c", 3)] {
        let mut slots = Slots::new(4);
        admit(&mut slots, caption);
        step(&mut slots);
        admit(&mut slots, about(1, question("q", 3)));
        assert_eq!(step(&mut slots), "q");
    }
    let mut slots = Slots::new(4);
    admit(&mut slots, about(1, caption("c", 3)));
    admit(&mut slots, about(1, question("q", 3)));
    assert_eq!(step(&mut slots), "q");
}

#[test]
fn a_removed_sequence_leaves_no_gap() {
    let mut slots = Slots::new(5);
    for asked in [question("a", 1), question("b", 1), question("c", 2), question("d", 2)] {
        admit(&mut slots, asked);
    }
    while slots.generating() < 2 {
        step(&mut slots);
    }
    assert_eq!(names(&slots), ["a", "b", "c", "d"]);
    let (removed, swaps) = slots.remove(0);
    // "b" takes the first slot, and "d" the slot between the generating and the unread ones.
    assert_eq!((removed.name, swaps), ("a", [(0, 1), (1, 3)]));
    assert_eq!((names(&slots), slots.generating()), (vec!["b", "d", "c"], 1));
    let (removed, swaps) = slots.remove(2);
    assert_eq!((removed.name, swaps), ("c", [(2, 2), (2, 2)]));
    assert_eq!((names(&slots), slots.unread()), (vec!["b", "d"], 1));
}

proptest! {
    /// Sequences come and go in any order: the swaps describe every move, ids stay valid, and each
    /// prompt is read to its end.
    #[test]
    fn the_swaps_move_the_cache_as_the_sequences_move(
        actions in prop::collection::vec((0u8..4, 0usize..8, 1usize..4), 1..200),
    ) {
        let mut slots: Slots<Asked> = Slots::new(4);
        // The ids, moved only by the reported swaps.
        let mut cache = Vec::new();
        for (action, at, chunks) in actions {
            match action {
                0 => if let Some(slot) = slots.free_slot() {
                    cache.push(slot.admit(question("q", chunks)));
                },
                1 if !slots.is_empty() => {
                    let (_, swaps) = slots.remove(at % slots.len());
                    swaps.into_iter().for_each(|(a, b)| cache.swap(a, b));
                    cache.pop();
                }
                _ => if let Some(step) = slots.next() {
                    if let Step::Prefill(slot) = step {
                        slots[slot].read += 1;
                        if slots[slot].read == slots[slot].chunks {
                            let (a, b) = slots.prefilled(slot);
                            cache.swap(a, b);
                        }
                    }
                    slots.ran(step, TOKEN);
                },
            }
            let ids: Vec<SequenceId> = (0..slots.len()).map(|slot| slots.id(slot)).collect();
            prop_assert_eq!(&ids, &cache);
            prop_assert!(ids.iter().enumerate().all(|(slot, id)| slots.slot(*id) == Some(slot)));
            for (slot, asked) in slots.iter().enumerate() {
                prop_assert_eq!(asked.read == asked.chunks, slot < slots.generating());
            }
            prop_assert_eq!(slots.room() == Room::Nothing, slots.len() == slots.count());
        }
    }
}
