//! Judges captions and answers of the demo model against a window, subject by subject. The rules
//! are those of `models/demo/truth.py`; the wordings of questions come from
//! `models/demo/questions.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::truth::{Colour, Direction, Event, Kind, Name, Order, Part, Window};

/// The subjects that are counted, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Objects,
    Colours,
    Direction,
    Events,
    Count,
    Order,
    Emptiness,
    Movement,
    /// The whole caption: right if nothing in it is wrong.
    Caption,
}

impl Subject {
    pub const ALL: [Subject; 9] = [
        Subject::Objects,
        Subject::Colours,
        Subject::Direction,
        Subject::Events,
        Subject::Count,
        Subject::Order,
        Subject::Emptiness,
        Subject::Movement,
        Subject::Caption,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Subject::Objects => "objects",
            Subject::Colours => "colours",
            Subject::Direction => "direction",
            Subject::Events => "events",
            Subject::Count => "count",
            Subject::Order => "order",
            Subject::Emptiness => "emptiness",
            Subject::Movement => "movement",
            Subject::Caption => "caption",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    NotJudged,
}

pub type Verdicts = BTreeMap<Subject, Verdict>;

fn verdict(right: bool) -> Verdict {
    if right { Verdict::Right } else { Verdict::Wrong }
}

fn judged(right: Option<bool>) -> Verdict {
    right.map_or(Verdict::NotJudged, verdict)
}

// ---- reading text ------------------------------------------------------------------------------

/// An actor as a caption names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub name: Name,
    pub event: Event,
    pub direction: Option<Direction>,
}

/// Returns the actors that a caption names, in its order, and true if it says that one came after
/// the other.
pub fn read(text: &str) -> (Vec<Said>, bool) {
    let text = text.to_lowercase();
    let mut nouns: Vec<(String, Name)> = vec![("dog".into(), (Kind::Dog, None))];
    for colour in Colour::ALL {
        nouns.push((format!("{} jacket", colour.word()), (Kind::Person, Some(colour))));
        nouns.push((format!("{} car", colour.word()), (Kind::Car, Some(colour))));
    }
    let mut found: Vec<(usize, usize, Name)> = nouns
        .iter()
        .flat_map(|(noun, name)| {
            text.match_indices(noun.as_str()).map(|(at, _)| (at, at + noun.len(), *name))
        })
        .collect();
    found.sort();
    let ends = found.iter().skip(1).map(|f| f.0).chain([text.len()]);
    let said = found
        .iter()
        .zip(ends)
        .map(|((_, after, name), end)| {
            let (event, direction) = event(&text[*after..end]);
            Said { name: *name, event, direction }
        })
        .collect();
    (said, ["first ", "after that", ", then "].iter().any(|mark| text.contains(mark)))
}

fn event(clause: &str) -> (Event, Option<Direction>) {
    let says = |words: &[&str]| words.iter().any(|word| clause.contains(word));
    let event = if says(&["stop"]) {
        Event::Stops
    } else if says(&["sets off", "setting off", "leaves"]) {
        Event::SetsOff
    } else if says(&["stand", "parked"]) {
        return (Event::Stands, None);
    } else {
        Event::Passes
    };
    (event, direction(clause))
}

fn direction(clause: &str) -> Option<Direction> {
    [
        ("left to right", Direction::Right),
        ("right to left", Direction::Left),
        ("from the left", Direction::Right),
        ("from the right", Direction::Left),
        ("to the right", Direction::Right),
        ("to the left", Direction::Left),
    ]
    .into_iter()
    .find(|(words, _)| clause.contains(words))
    .map(|(_, way)| way)
}

// ---- captions ----------------------------------------------------------------------------------

/// Returns a verdict for each subject of a caption.
pub fn caption(window: &Window, text: &str) -> Verdicts {
    let (said, after) = read(text);
    let empty = ["empty", "nobody"].iter().any(|word| text.to_lowercase().contains(word));
    let sure: Vec<&Part> = window.parts.iter().filter(|part| part.sure).collect();
    let all: Vec<&Part> = window.parts.iter().collect();
    let (direction, events) = events(window, &said);
    let mut verdicts = Verdicts::from([
        (Subject::Objects, {
            let named: BTreeSet<Kind> = said.iter().map(|s| s.name.0).collect();
            let kinds = |parts: &[&Part]| parts.iter().map(|p| p.name.0).collect::<BTreeSet<_>>();
            verdict(kinds(&sure).is_subset(&named) && named.is_subset(&kinds(&all)))
        }),
        (Subject::Colours, {
            let coloured = |names: &mut dyn Iterator<Item = Name>| {
                names.filter(|name| name.0 != Kind::Dog).collect::<BTreeSet<_>>()
            };
            let named = coloured(&mut said.iter().map(|s| s.name));
            let must = coloured(&mut sure.iter().map(|p| p.name));
            let may = coloured(&mut all.iter().map(|p| p.name));
            let right = must.is_subset(&named) && named.is_subset(&may);
            judged((!may.is_empty() || !named.is_empty()).then_some(right))
        }),
        (Subject::Direction, direction),
        (Subject::Events, events),
        (Subject::Count, {
            let people = said.iter().filter(|s| s.name.0 == Kind::Person).count();
            let number =
                |parts: &[&Part]| parts.iter().filter(|p| p.name.0 == Kind::Person).count();
            verdict((number(&sure)..=number(&all)).contains(&people))
        }),
        (Subject::Order, judged(order(window, &said, after))),
        (Subject::Emptiness, {
            let wanted =
                if !sure.is_empty() { Some(false) } else { all.is_empty().then_some(true) };
            judged(wanted.map(|wanted| wanted == empty))
        }),
    ]);
    let whole = verdicts.values().all(|v| *v != Verdict::Wrong) && said.len() <= all.len();
    verdicts.insert(Subject::Caption, verdict(whole));
    verdicts
}

/// Judges direction and event of the actors that are shown and named. Missing actors are judged
/// under other subjects.
fn events(window: &Window, said: &[Said]) -> (Verdict, Verdict) {
    let (mut ways, mut events) = (Vec::new(), Vec::new());
    for part in window.parts.iter().filter(|part| part.sure) {
        let same: Vec<&Said> = said.iter().filter(|s| s.name == part.name).collect();
        let alone = window.parts.iter().filter(|p| p.name == part.name).count() == 1;
        let ([said], true) = (&same[..], alone) else { continue };
        events.push(part.events.iter().any(|(event, _)| *event == said.event));
        if let Some(way @ Some(_)) = only_direction(part) {
            ways.push(said.direction == way);
        }
    }
    let all = |rights: Vec<bool>| judged((!rights.is_empty()).then(|| rights.iter().all(|r| *r)));
    (all(ways), all(events))
}

/// Returns the direction (or its absence) on which all permitted statements about the actor agree.
fn only_direction(part: &Part) -> Option<Option<Direction>> {
    let (_, first) = part.events.first()?;
    part.events.iter().all(|(_, way)| way == first).then_some(*first)
}

fn order(window: &Window, said: &[Said], after: bool) -> Option<bool> {
    if !window.all_sure() {
        return None;
    }
    Some(match window.order()? {
        Order::Together => !after,
        Order::After => {
            after && said.iter().map(|s| s.name).eq(window.parts.iter().map(|p| p.name))
        }
    })
}

// ---- questions ---------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Happening,
    Present(Kind),
    /// Is there one of this kind and colour?
    Coloured(Kind, Colour),
    Colour(Kind),
    Direction(Kind),
    Count,
    First,
    Last,
    Empty,
    Moving,
}

/// Origin of a wording: part of the training data, or held out from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wording {
    Trained,
    HeldOut,
}

/// A question and its text.
#[derive(Clone, Debug)]
pub struct Asked {
    pub question: Question,
    pub wording: Wording,
    pub text: String,
}

/// Returns every question that can be judged, in every wording of `models/demo/questions.json`.
pub fn questions() -> Vec<Asked> {
    const FILE: &str = include_str!("../../../models/demo/questions.json");
    let file: Value = serde_json::from_str(FILE).expect("questions.json is JSON");
    let mut asked = Vec::new();
    for question in Question::all() {
        for (list, wording) in [("trained", Wording::Trained), ("held_out", Wording::HeldOut)] {
            let wordings = file[question.about()][list].as_array().into_iter().flatten();
            asked.extend(wordings.filter_map(Value::as_str).map(|words| Asked {
                question,
                wording,
                text: question.fill(words),
            }));
        }
    }
    asked
}

/// Returns [`questions`] in mixed order: neighbours ask about different subjects, and every sort of
/// question is equally frequent.
pub fn mixed() -> Vec<Asked> {
    let mut sorts: Vec<Vec<Asked>> = Vec::new();
    for asked in questions() {
        match sorts.iter_mut().find(|sort| sort[0].question.about() == asked.question.about()) {
            Some(sort) => sort.push(asked),
            None => sorts.push(vec![asked]),
        }
    }
    let longest = sorts.iter().map(Vec::len).max().unwrap_or_default();
    // The step through each list is prime, so that even a short run covers every subject and
    // wording.
    let turn = |round: usize| sorts.iter().map(move |sort| sort[round * 37 % sort.len()].clone());
    (0..longest).flat_map(turn).collect()
}

impl Question {
    pub fn all() -> Vec<Question> {
        let mut all = vec![
            Question::Happening,
            Question::Count,
            Question::First,
            Question::Last,
            Question::Empty,
            Question::Moving,
        ];
        all.extend(Kind::ALL.map(Question::Present));
        all.extend(Kind::ALL.map(Question::Direction));
        for kind in [Kind::Person, Kind::Car] {
            all.push(Question::Colour(kind));
            all.extend(Colour::ALL.map(|colour| Question::Coloured(kind, colour)));
        }
        all
    }

    /// Returns its key in questions.json.
    pub fn about(self) -> &'static str {
        match self {
            Question::Happening => "happening",
            Question::Present(_) => "present",
            Question::Coloured(..) => "coloured",
            Question::Colour(_) => "colour",
            Question::Direction(_) => "direction",
            Question::Count => "count",
            Question::First => "first",
            Question::Last => "last",
            Question::Empty => "empty",
            Question::Moving => "moving",
        }
    }

    fn fill(self, words: &str) -> String {
        let wears = |kind| if kind == Kind::Car { "car" } else { "jacket" };
        match self {
            Question::Present(kind) | Question::Direction(kind) => {
                words.replace("{thing}", kind.word())
            }
            Question::Colour(kind) => words.replace("{wears}", wears(kind)),
            Question::Coloured(kind, colour) => {
                let colour = colour.word();
                let one = match kind {
                    Kind::Car => format!("{colour} car"),
                    _ => format!("person in a {colour} jacket"),
                };
                words.replace("{one}", &one)
            }
            _ => words.into(),
        }
    }
}

pub fn answer(window: &Window, question: Question, text: &str) -> Verdicts {
    let lower = text.to_lowercase();
    let (subject, right) = match question {
        Question::Happening => return caption(window, text),
        Question::Present(kind) => (Subject::Objects, present(window, kind, None, &lower)),
        Question::Coloured(kind, colour) => {
            (Subject::Colours, present(window, kind, Some(colour), &lower))
        }
        Question::Colour(kind) => (Subject::Colours, colour(window, kind, &lower)),
        Question::Direction(kind) => (Subject::Direction, which_way(window, kind, &lower)),
        Question::Count => (Subject::Count, count(window, &lower)),
        Question::First => (Subject::Order, came(window, 0, &lower)),
        Question::Last => (Subject::Order, came(window, 1, &lower)),
        Question::Empty => {
            let sure = window.parts.iter().any(|part| part.sure);
            let wanted = if sure { Some(false) } else { window.parts.is_empty().then_some(true) };
            (Subject::Emptiness, yes_or_no(wanted, &lower))
        }
        Question::Moving => (Subject::Movement, yes_or_no(moving(window), &lower)),
    };
    Verdicts::from([(subject, judged(right))])
}

fn yes_or_no(wanted: Option<bool>, text: &str) -> Option<bool> {
    wanted.map(|wanted| text.starts_with(if wanted { "yes" } else { "no" }))
}

fn present(window: &Window, kind: Kind, colour: Option<Colour>, text: &str) -> Option<bool> {
    let mut there =
        window.of_kind(kind).filter(|p| colour.is_none() || p.name.1 == colour).peekable();
    let wanted =
        if there.peek().is_none() { Some(false) } else { there.any(|p| p.sure).then_some(true) };
    yes_or_no(wanted, text)
}

fn colour(window: &Window, kind: Kind, text: &str) -> Option<bool> {
    let named = Colour::ALL.into_iter().filter(|c| text.contains(c.word()));
    let named: BTreeSet<Colour> = named.collect();
    let there: BTreeSet<Colour> = window.of_kind(kind).filter_map(|p| p.name.1).collect();
    window.of_kind(kind).all(|p| p.sure).then_some(named == there)
}

fn which_way(window: &Window, kind: Kind, text: &str) -> Option<bool> {
    let there: Vec<&Part> = window.of_kind(kind).collect();
    match there[..] {
        [] => Some(text.contains("no ") && direction(text).is_none()),
        [part] if part.sure => {
            let wanted = only_direction(part)?;
            Some(direction(text) == wanted && (wanted.is_some() || text.contains("not")))
        }
        _ => None,
    }
}

fn count(window: &Window, text: &str) -> Option<bool> {
    let people: Vec<&Part> = window.of_kind(Kind::Person).collect();
    let word = ["none", "one", "two", "three"][people.len().min(3)];
    people.iter().all(|p| p.sure).then(|| text.starts_with(word))
}

fn came(window: &Window, which: usize, text: &str) -> Option<bool> {
    if window.order() != Some(Order::After) || !window.all_sure() {
        return None;
    }
    let wanted = &window.parts[which];
    let (said, _) = read(text);
    let [said] = &said[..] else { return Some(false) };
    Some(said.name == wanted.name && wanted.events.contains(&(said.event, said.direction)))
}

fn moving(window: &Window) -> Option<bool> {
    let moves = |part: &Part| part.events.iter().any(|(_, way)| way.is_some());
    let surely = |part: &Part| part.sure && part.events.iter().all(|(_, way)| way.is_some());
    if window.parts.iter().any(surely) {
        return Some(true);
    }
    (!window.parts.iter().any(moves)).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::super::truth::Sidecar;
    use super::*;

    /// Compares with the windows, texts and verdicts that `models/demo/cases.py` wrote.
    #[test]
    fn verdicts_agree_with_the_trainers() {
        let file = include_str!("../../../models/demo/truth-cases.json");
        let file: Value = serde_json::from_str(file).expect("JSON");
        let sidecars: Vec<Sidecar> =
            serde_json::from_value(file["sidecars"].clone()).expect("sidecars");
        let asked = questions();
        let cases = file["cases"].as_array().expect("cases");
        assert!(cases.len() > 300);
        for case in cases {
            let sidecar = &sidecars[case[0].as_u64().expect("a number") as usize];
            let edge = |at: usize| case[at].as_f64().expect("seconds");
            let text = |at: usize| case[at].as_str().expect("words");
            let window = sidecar.window(edge(1), edge(2));
            let question = asked.iter().find(|asked| asked.text == text(3));
            let question = question.unwrap_or_else(|| panic!("{case}: an unknown question"));
            let verdicts: BTreeMap<&str, Option<bool>> =
                answer(&window, question.question, text(4))
                    .into_iter()
                    .map(|(subject, verdict)| match verdict {
                        Verdict::Right => (subject.word(), Some(true)),
                        Verdict::Wrong => (subject.word(), Some(false)),
                        Verdict::NotJudged => (subject.word(), None),
                    })
                    .collect();
            let wanted: BTreeMap<&str, Option<bool>> = case[5]
                .as_object()
                .expect("verdicts")
                .iter()
                .map(|(subject, verdict)| (subject.as_str(), verdict.as_bool()))
                .collect();
            assert_eq!(verdicts, wanted, "{case}: {window}");
        }
    }

    #[test]
    fn caption_claims_are_parsed() {
        let (said, after) = read(
            "First a person in a red jacket walks in from the left and stops, then a dog runs from right to left.",
        );
        let person = (Kind::Person, Some(Colour::Red));
        let (stops, passes) = (Event::Stops, Event::Passes);
        assert!(after);
        assert_eq!(
            said,
            [
                Said { name: person, event: stops, direction: Some(Direction::Right) },
                Said { name: (Kind::Dog, None), event: passes, direction: Some(Direction::Left) },
            ]
        );
        let (said, after) =
            read("There is a red car, parked, and a red car, setting off to the left.");
        assert!(!after);
        assert_eq!(said[0].event, Event::Stands);
        assert_eq!((said[1].event, said[1].direction), (Event::SetsOff, Some(Direction::Left)));
        assert_eq!(read("The yard is empty.").0, []);
    }
}
