//! Determines what a window of a demo clip shows, from the clip's sidecar.
//!
//! A sidecar gives for each actor when it is in the frame, and when it moves in which direction. An
//! actor is judged only where the window shows enough: one visible for less than a second may or
//! may not be named; one that moves or stands only briefly may or may not be said to do so.
//! `models/demo/truth.py` does the same in Python, for training; both are tested against
//! `models/demo/truth-cases.json`.

use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Seconds in a window after which an actor must be named.
const SEEN: f64 = 1.0;
/// Seconds of movement: less than the first must not be called moving; at least the second must be.
/// `STANDS` is the same for standing.
const MOVES: (f64, f64) = (0.25, 1.0);
const STANDS: (f64, f64) = (0.35, 1.25);
/// Seconds from the first actor's end to the second's start: at least this is one after the other,
/// at most `TOGETHER` is together.
const AFTER: f64 = 0.25;
const TOGETHER: f64 = -0.75;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Person,
    Car,
    Dog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    White,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Left,
    Right,
}

/// Kind and colour of an actor. Dogs have no colour.
pub type Name = (Kind, Option<Colour>);

#[derive(Clone, Debug, Deserialize)]
pub struct Sidecar {
    pub camera: String,
    /// Length of the clip, after which it repeats.
    pub seconds: f64,
    actors: Vec<Actor>,
}

#[derive(Clone, Debug, Deserialize)]
struct Actor {
    kind: Kind,
    colour: Option<Colour>,
    from: f64,
    to: f64,
    moves: Vec<Move>,
}

#[derive(Clone, Debug, Deserialize)]
struct Move {
    from: f64,
    to: f64,
    direction: Direction,
}

/// An actor's behaviour in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Passes,
    Stops,
    SetsOff,
    Stands,
}

/// One actor in a window; times in seconds.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: Name,
    pub since: f64,
    pub until: f64,
    /// True if the actor is visible long enough that it must be named.
    pub sure: bool,
    /// Permitted statements about the actor.
    pub events: Vec<(Event, Option<Direction>)>,
}

/// The content of a window: its actors in order of appearance.
#[derive(Clone, Debug)]
pub struct Window {
    pub parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    After,
    Together,
}

impl Sidecar {
    pub fn read(file: &Path) -> anyhow::Result<Sidecar> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let sidecar: Sidecar =
            serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        ensure!(sidecar.seconds > 0.0, "{}: seconds: {}", file.display(), sidecar.seconds);
        Ok(sidecar)
    }

    /// Returns what the window `[from, to]` shows, in seconds since 1970. A camera's position in
    /// its clip is that time modulo the clip's length.
    pub fn window(&self, from: f64, to: f64) -> Window {
        let start = from.rem_euclid(self.seconds);
        let end = start + (to - from);
        let rounds = (end / self.seconds) as i64 + 1;
        let mut parts: Vec<Part> = (-1..=rounds)
            .flat_map(|round| {
                let shift = round as f64 * self.seconds;
                self.actors.iter().filter_map(move |a| a.within(start - shift, end - shift, shift))
            })
            .collect();
        parts.sort_by(|a, b| a.since.total_cmp(&b.since));
        Window { parts }
    }
}

impl Actor {
    fn within(&self, start: f64, end: f64, shift: f64) -> Option<Part> {
        if self.from >= end || self.to <= start {
            return None;
        }
        let (since, until) = (self.from.max(start), self.to.min(end));
        let inside = |m: &Move| (m.to.min(until) - m.from.max(since)).max(0.0);
        // The first of the longest moves.
        let longest = self.moves.iter().reduce(|a, b| if inside(b) > inside(a) { b } else { a });
        let moved = longest.map_or(0.0, inside);
        let way = longest.map(|m| m.direction);
        let stood = (until - since - self.moves.iter().map(inside).sum::<f64>()).max(0.0);
        let moves_first = longest.is_some_and(|m| m.from <= since) || stood <= 0.0;
        let mut events = Vec::new();
        for moving in likely(moved, MOVES) {
            for standing in likely(stood, STANDS) {
                match (moving, standing) {
                    (true, true) if moves_first => events.push((Event::Stops, way)),
                    (true, true) => events.push((Event::SetsOff, way)),
                    (true, false) => events.push((Event::Passes, way)),
                    (false, true) => events.push((Event::Stands, None)),
                    (false, false) => {}
                }
            }
        }
        // Too short for any statement: use what the actor does most.
        if events.is_empty() {
            let moving = moved >= stood;
            events.push(if moving { (Event::Passes, way) } else { (Event::Stands, None) });
        }
        Some(Part {
            name: (self.kind, self.colour),
            since: since + shift,
            until: until + shift,
            sure: until - since >= SEEN,
            events,
        })
    }
}

/// Returns the permitted answers for a duration; both between the two borders, the likelier first.
fn likely(seconds: f64, border: (f64, f64)) -> Vec<bool> {
    match seconds {
        s if s >= border.1 => vec![true],
        s if s < border.0 => vec![false],
        s if s >= (border.0 + border.1) / 2.0 => vec![true, false],
        _ => vec![false, true],
    }
}

impl Window {
    /// Returns the order of two actors: one after the other or both at once. Returns `None` if
    /// either is permitted or there are not two.
    pub fn order(&self) -> Option<Order> {
        let [first, second] = &self.parts[..] else { return None };
        match second.since - first.until {
            gap if gap >= AFTER => Some(Order::After),
            gap if gap <= TOGETHER => Some(Order::Together),
            _ => None,
        }
    }

    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.name.0 == kind)
    }

    /// Returns true if every actor is visible long enough that it must be named.
    pub fn all_sure(&self) -> bool {
        self.parts.iter().all(|part| part.sure)
    }
}

/// Formats the window for people: "red car passes to the right; then dog stands".
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("nobody");
        }
        for (at, part) in self.parts.iter().enumerate() {
            let between = match (at, self.order()) {
                (0, _) => "",
                (_, Some(Order::After)) => "; then ",
                _ => "; ",
            };
            f.write_str(between)?;
            if let Some(colour) = part.name.1 {
                write!(f, "{} ", colour.word())?;
            }
            f.write_str(part.name.0.word())?;
            for (number, (event, way)) in part.events.iter().enumerate() {
                f.write_str(if number == 0 { " " } else { " or " })?;
                f.write_str(match event {
                    Event::Passes => "passes",
                    Event::Stops => "comes and stops",
                    Event::SetsOff => "sets off",
                    Event::Stands => "stands",
                })?;
                match way {
                    Some(Direction::Left) => f.write_str(" to the left")?,
                    Some(Direction::Right) => f.write_str(" to the right")?,
                    None => {}
                }
            }
            if !part.sure {
                f.write_str(", barely seen")?;
            }
        }
        Ok(())
    }
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Person, Kind::Car, Kind::Dog];

    pub fn word(self) -> &'static str {
        match self {
            Kind::Person => "person",
            Kind::Car => "car",
            Kind::Dog => "dog",
        }
    }
}

impl Colour {
    pub const ALL: [Colour; 5] =
        [Colour::Red, Colour::Green, Colour::Blue, Colour::Yellow, Colour::White];

    pub fn word(self) -> &'static str {
        match self {
            Colour::Red => "red",
            Colour::Green => "green",
            Colour::Blue => "blue",
            Colour::Yellow => "yellow",
            Colour::White => "white",
        }
    }
}
