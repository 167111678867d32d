//! Counts how much of the demo's output is true: by subject, separately for captions, for answers,
//! and for answers to questions in wordings that the model was not trained on.

pub mod judge;
pub mod truth;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use judge::{Asked, Subject, Verdict, Wording};
use truth::{Sidecar, Window};

/// Source of a text: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Captions,
    Answers,
    /// Answers to questions in wordings held out from training.
    OtherWords,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub right: usize,
    pub wrong: usize,
    pub not_judged: usize,
}

impl Count {
    /// Returns the share of right verdicts among those judged.
    pub fn share(&self) -> f64 {
        self.right as f64 / (self.right + self.wrong).max(1) as f64
    }

    fn add(&mut self, other: Count) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.not_judged += other.not_judged;
    }
}

/// A wrong caption or answer, described for people.
#[derive(Clone, Debug)]
pub struct Mistake {
    pub camera: String,
    /// Start of the window in the clip, seconds.
    pub from: f64,
    pub to: f64,
    pub subjects: Vec<Subject>,
    pub question: String,
    pub said: String,
    pub truth: String,
}

pub struct Score {
    sidecars: HashMap<String, Sidecar>,
    asked: HashMap<String, Asked>,
    counts: BTreeMap<(Subject, Source), Count>,
    pub mistakes: Vec<Mistake>,
    pub windows: usize,
}

impl Score {
    pub fn new(sidecars: impl IntoIterator<Item = (String, Sidecar)>) -> Score {
        let asked = judge::questions().into_iter().map(|asked| (asked.text.clone(), asked));
        Score {
            sidecars: sidecars.into_iter().collect(),
            asked: asked.collect(),
            counts: BTreeMap::new(),
            mistakes: Vec::new(),
            windows: 0,
        }
    }

    /// Reads the sidecars of these cameras' clips from a folder.
    pub fn of_clips(folder: &Path, cameras: &[String]) -> anyhow::Result<Score> {
        let sidecar = |name: &String| {
            anyhow::Ok((name.clone(), Sidecar::read(&folder.join(format!("{name}.json")))?))
        };
        Ok(Score::new(cameras.iter().map(sidecar).collect::<anyhow::Result<Vec<_>>>()?))
    }

    /// Returns what an event's window shows, or `None` if the camera has no sidecar or the event no
    /// window.
    pub fn window(&self, event: &Value) -> Option<Window> {
        let sidecar = self.sidecars.get(event["camera"].as_str()?)?;
        Some(sidecar.window(seconds(&event["window"]["from"])?, seconds(&event["window"]["to"])?))
    }

    /// Judges a caption or an answer from its event as published by the daemon.
    pub fn add(&mut self, event: &Value) {
        let (Some(window), Some(text)) = (self.window(event), event["text"].as_str()) else {
            return;
        };
        let prompt = event["prompt"].as_str().unwrap_or_default();
        let Some(asked) = self.asked.get(prompt).cloned() else { return };
        let source = match (event["kind"] == "caption", asked.wording) {
            (true, _) => Source::Captions,
            (false, Wording::Trained) => Source::Answers,
            (false, Wording::HeldOut) => Source::OtherWords,
        };
        self.windows += usize::from(source == Source::Captions);
        let wrong = self.count(&window, &asked, text, source);
        if !wrong.is_empty() {
            let camera = event["camera"].as_str().unwrap_or_default().to_string();
            let period = self.sidecars.get(&camera).map_or(1.0, |sidecar| sidecar.seconds);
            let edge = |name: &str| seconds(&event["window"][name]).unwrap_or_default();
            let from = edge("from").rem_euclid(period);
            self.mistakes.push(Mistake {
                from,
                to: from + edge("to") - edge("from"),
                camera,
                subjects: wrong,
                question: prompt.into(),
                said: text.into(),
                truth: window.to_string(),
            });
        }
    }

    /// Counts the verdicts about one text; returns the subjects that are wrong.
    pub fn count(
        &mut self,
        window: &Window,
        asked: &Asked,
        text: &str,
        source: Source,
    ) -> Vec<Subject> {
        let verdicts = judge::answer(window, asked.question, text);
        for (subject, verdict) in &verdicts {
            let count = self.counts.entry((*subject, source)).or_default();
            match verdict {
                Verdict::Right => count.right += 1,
                Verdict::Wrong => count.wrong += 1,
                Verdict::NotJudged => count.not_judged += 1,
            }
        }
        let wrong = verdicts.into_iter().filter(|(_, verdict)| *verdict == Verdict::Wrong);
        wrong.map(|(subject, _)| subject).collect()
    }

    /// Returns the counts of a subject from all sources.
    pub fn of(&self, subject: Subject) -> Count {
        let mut all = Count::default();
        self.counts.iter().filter(|(key, _)| key.0 == subject).for_each(|(_, c)| all.add(*c));
        all
    }

    pub fn of_source(&self, subject: Subject, source: Source) -> Count {
        self.counts.get(&(subject, source)).copied().unwrap_or_default()
    }

    /// Returns the counts of all subjects from all sources, without the whole caption, which is not
    /// a subject of its own.
    pub fn all(&self) -> Count {
        let mut all = Count::default();
        Subject::ALL
            .into_iter()
            .filter(|subject| *subject != Subject::Caption)
            .for_each(|subject| all.add(self.of(subject)));
        all
    }
}

fn seconds(time: &Value) -> Option<f64> {
    let time = humantime::parse_rfc3339(time.as_str()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Formats the table.
impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| {:<13} | {:>5} | {:>5} | {:>10} | {:>7} | {:>8} | {:>7} | {:>11} |",
            "of windows",
            "right",
            "wrong",
            "not judged",
            "share",
            "captions",
            "answers",
            "other words"
        )?;
        writeln!(
            f,
            "|---------------|------:|------:|-----------:|--------:|---------:|--------:|------------:|"
        )?;
        for subject in Subject::ALL {
            let all = self.of(subject);
            let percent = |count: Count| match count.right + count.wrong {
                0 => "–".to_string(),
                _ => format!("{:.1} %", 100.0 * count.share()),
            };
            let name = if subject == Subject::Caption { "whole caption" } else { subject.word() };
            let part = |source| percent(self.of_source(subject, source));
            writeln!(
                f,
                "| {name:<13} | {:>5} | {:>5} | {:>10} | {:>7} | {:>8} | {:>7} | {:>11} |",
                all.right,
                all.wrong,
                all.not_judged,
                percent(all),
                part(Source::Captions),
                part(Source::Answers),
                part(Source::OtherWords),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subjects: Vec<&str> = self.subjects.iter().map(|subject| subject.word()).collect();
        let Mistake { camera, from, to, question, said, truth, .. } = self;
        write!(f, "{camera} {from:.1}–{to:.1} s  {}: ", subjects.join(", "))?;
        write!(f, "{question} → {said}  [the camera showed: {truth}]")
    }
}
