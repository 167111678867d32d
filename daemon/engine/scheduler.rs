//! Decides what the language worker does next. Pure rules, no model and no clock of its own.
//!
//! Each job has a [`Purpose`], which determines its priority and how it waits.
//!
//! Guarantees:
//! - Questions come first, in the order asked. At most `capacity` questions wait. Then come the jobs
//!   about windows: first the scores of rules, because an alert must not wait for a text, then the
//!   captions.
//! - A window's deadline is its close plus the camera's maximum delay. A job that would miss it even
//!   if started now is skipped. The duration is estimated from earlier jobs of the same purpose. A
//!   job that has waited less than a fifth of the maximum delay is started anyway, so that an
//!   overloaded model still produces some captions.
//! - Of a camera and a purpose, at most one job waits: a newer window replaces an older one.
//! - Of a camera and a purpose, at most one job is in progress, and the next one waits for it. So a
//!   camera's captions are finished in the order of its windows.
//! - Within a purpose, the next job is that of the camera whose job was started least recently.
//! - A job in the background is started only if no other job waits, in the order of arrival. It can be
//!   put back if another job needs its place. It changes the order of no other job.
//! - After a refused question, a job about a window goes before the next question, if one can be
//!   started. So a client that repeats a question which cannot be answered does not block the
//!   captions.
//!
//! A question counts as refused if it fails before the model runs for it. Times are durations since
//! an arbitrary moment: the daemon's start, or a simulation's.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// The reason to run the model. More urgent purposes come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// A client waits for an answer. Jobs wait in the order of their arrival.
    Question,
    /// The scores of rules on a window. Per camera, the job of the newest window waits, until its
    /// deadline.
    Rules,
    /// A caption of a window. Per camera, the job of the newest window waits, until its deadline.
    Caption,
    /// A rule is tried on the past. Jobs wait in the order of their arrival, for as long as others
    /// come.
    Background,
}

/// Work for the language worker.
pub trait Job {
    type Camera: Clone + Eq + Hash;

    fn camera(&self) -> &Self::Camera;

    fn purpose(&self) -> Purpose;
}

pub struct Scheduler<J: Job> {
    questions: VecDeque<J>,
    capacity: usize,
    /// Jobs in the background. The caller limits their number.
    background: VecDeque<J>,
    /// Jobs about the newest closed windows.
    windows: HashMap<Key<J>, Waiting<J>>,
    /// Jobs about windows that are in progress.
    busy: HashSet<Key<J>>,
    /// True if a question was refused and no job about a window has been started since.
    window_first: bool,
    /// Value of `clock` when the last job of each key was started.
    served: HashMap<Key<J>, u64>,
    clock: u64,
    /// The duration of a job about a window, from its start to its end.
    window_takes: BTreeMap<Purpose, Estimate>,
    job_takes: Estimate,
}

/// The key of the jobs that replace each other, and of which one at a time is in progress.
type Key<J> = (<J as Job>::Camera, Purpose);

struct Waiting<J> {
    /// Position in the order of arrival.
    came: u64,
    max_delay: Duration,
    deadline: Duration,
    job: J,
}

impl<J: Job> Scheduler<J> {
    /// Changes the maximum number of waiting questions. Those that wait already stay.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    pub fn new(capacity: usize) -> Self {
        Scheduler {
            questions: VecDeque::new(),
            capacity,
            background: VecDeque::new(),
            windows: HashMap::new(),
            busy: HashSet::new(),
            window_first: false,
            served: HashMap::new(),
            clock: 0,
            window_takes: BTreeMap::new(),
            job_takes: Estimate::default(),
        }
    }

    /// Queues a question. Returns it if the queue is full.
    pub fn ask(&mut self, question: J) -> Result<(), J> {
        if self.questions.len() >= self.capacity {
            return Err(question);
        }
        self.questions.push_back(question);
        Ok(())
    }

    /// Queues a job in the background.
    pub fn add_background(&mut self, job: J) {
        self.background.push_back(job);
    }

    /// Puts a job in the background back, as the next one.
    pub fn put_back(&mut self, job: J) {
        self.background.push_front(job);
    }

    /// Takes the next job in the background, if no other job waits.
    pub fn take_background(&mut self) -> Option<J> {
        if !self.questions.is_empty() || !self.windows.is_empty() {
            return None;
        }
        self.background.pop_front()
    }

    /// Takes the next job that a client waits for, whatever else waits. It is for the end, when no
    /// job is done any more.
    pub fn withdraw(&mut self) -> Option<J> {
        self.questions.pop_front().or_else(|| self.background.pop_front())
    }

    /// Removes questions that no client waits for any more.
    pub fn retain(&mut self, waited_for: impl FnMut(&J) -> bool) {
        self.questions.retain(waited_for);
    }

    /// Removes everything that is kept about a camera. Returns the questions about it and its jobs in
    /// the background.
    pub fn remove(&mut self, camera: &J::Camera) -> Vec<J> {
        self.windows.retain(|(other, _), _| other != camera);
        self.busy.retain(|(other, _)| other != camera);
        self.served.retain(|(other, _), _| other != camera);
        let mut removed = Vec::new();
        for queue in [&mut self.questions, &mut self.background] {
            let jobs = std::mem::take(queue).into_iter();
            let (about_it, kept): (Vec<J>, _) = jobs.partition(|job| job.camera() == camera);
            *queue = kept.into();
            removed.extend(about_it);
        }
        removed
    }

    /// Returns true if anything is kept about the camera.
    #[cfg(test)]
    pub fn knows(&self, camera: &J::Camera) -> bool {
        let mut keys =
            self.windows.keys().chain(&self.busy).chain(self.served.keys()).map(|(known, _)| known);
        keys.any(|known| known == camera)
    }

    /// Queues a job about a window that closed at `closed`. Returns the camera's older job of the
    /// same purpose, which will not be done.
    pub fn window(&mut self, job: J, closed: Duration, max_delay: Duration) -> Option<J> {
        self.clock += 1;
        let deadline = closed.saturating_add(max_delay);
        let key = key(&job);
        let waiting = Waiting { came: self.clock, max_delay, deadline, job };
        self.windows.insert(key, waiting).map(|older| older.job)
    }

    /// Removes and returns the jobs about windows that would be late if they were started now. Call
    /// it before [`take`].
    ///
    /// [`take`]: Scheduler::take
    pub fn late(&mut self, now: Duration) -> Vec<J> {
        let takes = &self.window_takes;
        let late = self.windows.extract_if(|(_, purpose), waiting| {
            let expected = takes.get(purpose).map_or(Duration::ZERO, Estimate::expected);
            let takes = expected.min(waiting.max_delay * 4 / 5);
            now.saturating_add(takes) > waiting.deadline
        });
        late.map(|(_, waiting)| waiting.job).collect()
    }

    /// Takes the next job. For a job about a window, the camera is busy until
    /// [`done`](Scheduler::done).
    pub fn take(&mut self) -> Option<J> {
        if std::mem::take(&mut self.window_first)
            && let Some(job) = self.take_window()
        {
            return Some(job);
        }
        self.take_question().or_else(|| self.take_window())
    }

    /// Takes the next question, for use when there is no room for other jobs.
    pub fn take_question(&mut self) -> Option<J> {
        self.questions.pop_front()
    }

    fn take_window(&mut self) -> Option<J> {
        let served = |key: &Key<J>| self.served.get(key).copied().unwrap_or(0);
        let idle = self.windows.iter().filter(|(key, _)| !self.busy.contains(key));
        let (key, _) = idle.min_by_key(|(key, waiting)| (key.1, served(key), waiting.came))?;
        let key = key.clone();
        self.clock += 1;
        self.served.insert(key.clone(), self.clock);
        let waiting = self.windows.remove(&key)?;
        self.busy.insert(key);
        Some(waiting.job)
    }

    /// Marks the camera's job about a window as published or abandoned.
    pub fn done(&mut self, camera: &J::Camera, purpose: Purpose) {
        self.busy.remove(&(camera.clone(), purpose));
    }

    /// Records that the question taken last was refused before the model ran for it.
    pub fn refused(&mut self) {
        self.window_first = true;
    }

    /// Records how long a job about a window took from its start to its end.
    pub fn window_took(&mut self, purpose: Purpose, time: Duration) {
        self.window_takes.entry(purpose).or_default().add(time);
    }

    /// Records for how long a job kept the others waiting.
    pub fn job_took(&mut self, time: Duration) {
        self.job_takes.add(time);
    }

    /// Returns the expected time for this many waiting questions.
    pub fn retry_after(&self, waiting: usize) -> Duration {
        let each = self.job_takes.mean.unwrap_or(Duration::from_secs(1));
        each.saturating_mul((waiting as u32).max(1))
    }

    /// Returns the number of waiting jobs.
    pub fn waiting(&self) -> usize {
        self.questions.len() + self.windows.len() + self.background.len()
    }

    /// Returns the maximum number of waiting questions.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the waiting questions, in the order asked.
    pub fn questions(&self) -> impl Iterator<Item = &J> {
        self.questions.iter()
    }
}

fn key<J: Job>(job: &J) -> Key<J> {
    (job.camera().clone(), job.purpose())
}

/// A smoothed duration and its smoothed deviation, computed like TCP's round-trip times (RFC 6298).
#[derive(Default)]
struct Estimate {
    mean: Option<Duration>,
    deviation: Duration,
}

impl Estimate {
    fn add(&mut self, time: Duration) {
        let Some(mean) = self.mean else {
            self.mean = Some(time);
            return;
        };
        self.deviation = (self.deviation * 3 + mean.abs_diff(time)) / 4;
        self.mean = Some((mean * 7 + time) / 8);
    }

    /// Returns a duration that all but a few stay within, or 0 before the first one.
    fn expected(&self) -> Duration {
        self.mean.unwrap_or_default() + self.deviation * 4
    }
}

#[cfg(test)]
mod tests;
