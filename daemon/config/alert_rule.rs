//! A `[[rule]]` table: a question about each window, and when its scores are an alert.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::rules::{at_least, in_range, invalid, plain_name, required, schedule};
use super::{Camera, ConfigError, Target};
use crate::event::Severity;
use crate::schedule::Schedule;

/// Maximum number of rules: each costs a prompt for every window.
const RULES: usize = 64;

/// Maximum number of windows among which those that reach a threshold are counted.
const AMONG: usize = 60;

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Name in topics, labels and events: letters, digits, `-`, `_`.
    pub name: Arc<str>,
    /// Names of the cameras; empty means all.
    pub cameras: Vec<Arc<str>>,
    pub question: Arc<str>,
    pub severity: Severity,
    /// Divides the logit of every score before it is compared with the thresholds.
    pub temperature: f64,
    pub thresholds: Thresholds,
    pub schedule: Schedule,
    /// Names of the targets to which alerts are delivered, or `None` for all targets.
    pub deliver: Option<Vec<Arc<str>>>,
    /// The prompt that the model answers about the window with which an alert begins.
    pub describe: Option<Arc<str>>,
    /// The JSON Schema that the answer to `describe` follows.
    pub describe_schema: Option<Arc<str>>,
    /// The clip of each alert, or `None` if alerts have no clip.
    pub clip: Option<RuleClip>,
}

/// The length of the clips of a rule's alerts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RuleClip {
    /// Time before the window with which an alert begins.
    pub before: Duration,
    /// Time after an alert's end.
    pub after: Duration,
    /// Maximum length of a clip.
    pub max: Duration,
}

/// The choice whether alerts have clips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClipMode {
    #[default]
    None,
    Alert,
}

/// The limits at which alerts begin and end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Score from which a window counts for an alert.
    pub on: f64,
    /// Score below which a window counts for the alert's end.
    pub off: f64,
    /// Number of windows that must agree.
    pub needed: usize,
    /// Number of newest windows among which they are counted.
    pub among: usize,
    /// Time after an alert's end without a new one.
    pub cooldown: Duration,
    /// Time without a scored window after which the rule is blind.
    pub hold: Duration,
}

/// Changes of a rule's settings, or the settings of a new rule that differ from the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleChanges {
    pub question: Option<String>,
    pub on: Option<f64>,
    pub off: Option<f64>,
    /// N of M windows, as `N/M`.
    pub of: Option<String>,
    pub cooldown: Option<Duration>,
    pub hold: Option<Duration>,
    pub temperature: Option<f64>,
}

impl Rule {
    /// Returns a rule with changes, checked like one of the config. Without `base`, it is a new rule
    /// that is always in force.
    pub fn changed(base: Option<&Rule>, changes: RuleChanges) -> Result<Rule, ConfigError> {
        let mut rule = match base {
            Some(base) => base.clone(),
            None => {
                let question = changes.question.clone();
                RuleTable { question, ..RuleTable::default() }.check_rest("trial", &[], &[])?
            }
        };
        if let Some(text) = changes.question {
            rule.question = question(Some(text))?;
        }
        let Thresholds { on, off, needed, among, cooldown, hold } = rule.thresholds;
        let (on, off) = (changes.on.unwrap_or(on), changes.off.unwrap_or(off));
        let of = changes.of.as_deref().map_or(Ok((needed, among)), n_of_m)?;
        let (cooldown, hold) = (changes.cooldown.unwrap_or(cooldown), changes.hold.unwrap_or(hold));
        rule.thresholds = thresholds(on, off, of, cooldown, hold)?;
        rule.temperature = temperature(changes.temperature.unwrap_or(rule.temperature))?;
        // What is past has no clip.
        rule.clip = None;
        Ok(rule)
    }

    pub fn applies_to(&self, camera: &str) -> bool {
        self.cameras.is_empty() || self.cameras.iter().any(|name| **name == *camera)
    }
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleTable {
    name: Option<String>,
    question: Option<String>,
    cameras: Vec<String>,
    on: f64,
    off: f64,
    temperature: f64,
    of: String,
    #[serde(with = "humantime_serde")]
    cooldown: Duration,
    #[serde(with = "humantime_serde")]
    hold: Duration,
    schedule: Option<String>,
    time_zone: Option<String>,
    severity: Severity,
    deliver: Option<Vec<String>>,
    describe: Option<String>,
    describe_schema: Option<String>,
    clip: ClipMode,
    #[serde(with = "humantime_serde")]
    clip_before: Duration,
    #[serde(with = "humantime_serde")]
    clip_after: Duration,
    #[serde(with = "humantime_serde")]
    clip_max: Duration,
}

impl Default for RuleTable {
    fn default() -> RuleTable {
        RuleTable {
            name: None,
            question: None,
            cameras: Vec::new(),
            on: 0.8,
            off: 0.4,
            temperature: 1.0,
            of: "2/3".into(),
            cooldown: Duration::from_secs(60),
            hold: Duration::from_secs(60),
            schedule: None,
            time_zone: None,
            severity: Severity::default(),
            deliver: None,
            describe: None,
            describe_schema: None,
            clip: ClipMode::default(),
            clip_before: Duration::from_secs(5),
            clip_after: Duration::from_secs(5),
            clip_max: Duration::from_secs(120),
        }
    }
}

/// Checks all `[[rule]]` tables.
pub fn rules(
    tables: Vec<RuleTable>,
    cameras: &[Camera],
    targets: &[Target],
) -> Result<Vec<Rule>, ConfigError> {
    if tables.len() > RULES {
        let found = tables.len();
        return Err(ConfigError(format!("{found} [[rule]] tables: wanted at most {RULES}")));
    }
    let mut names = HashSet::new();
    let check = |table: RuleTable| {
        let rule = table.check(cameras, targets)?;
        if !names.insert(rule.name.clone()) {
            let name = &rule.name;
            return Err(ConfigError(format!("two rules are named {name:?}: rename one of them")));
        }
        Ok(rule)
    };
    tables.into_iter().map(check).collect()
}

impl RuleTable {
    fn check(mut self, cameras: &[Camera], targets: &[Target]) -> Result<Rule, ConfigError> {
        let name = required("rule.name", self.name.take(), "a name of its own for each rule")?;
        plain_name("rule.name", &name)?;
        let of_rule = |e: ConfigError| ConfigError(format!("rule {name:?}: {}", e.0));
        self.check_rest(&name, cameras, targets).map_err(of_rule)
    }

    fn check_rest(
        self,
        name: &str,
        cameras: &[Camera],
        targets: &[Target],
    ) -> Result<Rule, ConfigError> {
        let question = question(self.question)?;
        if self.describe_schema.is_some() && self.describe.is_none() {
            return Err(ConfigError("describe_schema needs describe".into()));
        }
        if let Some(blank) = self.describe.as_ref().filter(|prompt| prompt.trim().is_empty()) {
            return Err(invalid("describe", format!("{blank:?}"), "a prompt for the model"));
        }
        let known = |name: &String| cameras.iter().any(|camera| *camera.name == **name);
        if let Some(unknown) = self.cameras.iter().find(|name| !known(name)) {
            let names: Vec<&str> = cameras.iter().map(|camera| &*camera.name).collect();
            let wanted = format!("names of [[camera]] tables: {}", names.join(", "));
            return Err(invalid("cameras", format!("{unknown:?}"), wanted));
        }
        let is_target = |name: &String| targets.iter().any(|target| *target.name == **name);
        let deliver = self.deliver.iter().flatten();
        if let Some(unknown) = deliver.into_iter().find(|name| !is_target(name)) {
            let names: Vec<&str> = targets.iter().map(|target| &*target.name).collect();
            let wanted = format!("names of [[webhook]] and [[ntfy]] tables: {}", names.join(", "));
            return Err(invalid("deliver", format!("{unknown:?}"), wanted));
        }
        let of = n_of_m(&self.of)?;
        let clip = RuleClip {
            before: at_least("clip_before", self.clip_before, Duration::ZERO)?,
            after: at_least("clip_after", self.clip_after, Duration::ZERO)?,
            max: at_least("clip_max", self.clip_max, Duration::from_secs(1))?,
        };
        Ok(Rule {
            clip: (self.clip == ClipMode::Alert).then_some(clip),
            name: name.into(),
            cameras: self.cameras.into_iter().map(Into::into).collect(),
            question,
            severity: self.severity,
            temperature: temperature(self.temperature)?,
            thresholds: thresholds(self.on, self.off, of, self.cooldown, self.hold)?,
            schedule: schedule(self.schedule.as_deref(), self.time_zone.as_deref())?,
            describe_schema: self.describe_schema.map(Into::into),
            describe: self.describe.map(|prompt| prompt.trim().into()),
            deliver: self.deliver.map(|names| names.into_iter().map(Into::into).collect()),
        })
    }
}

fn question(text: Option<String>) -> Result<Arc<str>, ConfigError> {
    const WANTED: &str = "a question that is answered by yes or no";
    let question = required("question", text, WANTED)?;
    if question.trim().is_empty() {
        return Err(invalid("question", format!("{question:?}"), WANTED));
    }
    Ok(question.trim().into())
}

fn temperature(value: f64) -> Result<f64, ConfigError> {
    in_range("temperature", value, 0.1..=10.0)
}

fn thresholds(
    on: f64,
    off: f64,
    (needed, among): (usize, usize),
    cooldown: Duration,
    hold: Duration,
) -> Result<Thresholds, ConfigError> {
    in_range("on", on, 0.01..=1.0)?;
    in_range("off", off, 0.0..=1.0)?;
    if off > on {
        return Err(invalid("off", off, format!("at most on, {on}")));
    }
    at_least("cooldown", cooldown, Duration::ZERO)?;
    at_least("hold", hold, Duration::ZERO)?;
    Ok(Thresholds { on, off, needed, among, cooldown, hold })
}

/// Parses `N/M`.
fn n_of_m(text: &str) -> Result<(usize, usize), ConfigError> {
    let numbers = text.split_once('/');
    let numbers = numbers.and_then(|(n, m)| Some((n.trim().parse().ok()?, m.trim().parse().ok()?)));
    let is_valid = |(n, m): &(usize, usize)| (1..=*m).contains(n) && *m <= AMONG;
    numbers.filter(is_valid).ok_or_else(|| {
        let wanted = format!("\"N/M\", N of M windows, with 1 ≤ N ≤ M ≤ {AMONG}");
        invalid("of", format!("{text:?}"), wanted)
    })
}
