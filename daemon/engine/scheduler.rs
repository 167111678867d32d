//! Decides what the language worker does next. Pure rules, no model and no clock of its own.
//!
//! Guarantees:
//! - Questions come before captions, in the order asked. At most `capacity` questions wait.
//! - A caption's deadline is its window's close plus the camera's maximum delay. A caption that would
//!   miss its deadline even if started now is skipped. The duration is estimated from earlier
//!   captions. A caption that has waited less than a fifth of its maximum delay is started anyway, so
//!   that an overloaded model still produces some captions.
//! - At most one caption per camera waits: a newer window replaces an older one.
//! - At most one caption per camera is in progress, and the next one waits for it. So a camera's
//!   captions are finished in the order of its windows.
//! - The next caption is that of the camera whose caption was started least recently.
//! - After a refused question, a caption that can be started goes before the next question. So a
//!   client that repeats a question which cannot be answered does not block the captions.
//!
//! A question counts as refused if it fails before the model runs for it. Times are durations since
//! an arbitrary moment: the daemon's start, or a simulation's.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

pub struct Scheduler<C, Q, P> {
    questions: VecDeque<Q>,
    capacity: usize,
    captions: HashMap<C, Waiting<P>>,
    /// Cameras with a caption in progress.
    busy: HashSet<C>,
    /// True if a question was refused and no caption has been started since.
    caption_first: bool,
    /// Value of `clock` when each camera's caption was last started.
    served: HashMap<C, u64>,
    clock: u64,
    caption_takes: Estimate,
    job_takes: Estimate,
}

struct Waiting<P> {
    /// Position in the order of arrival.
    came: u64,
    max_delay: Duration,
    deadline: Duration,
    caption: P,
}

#[derive(Debug, PartialEq)]
pub enum Next<C, Q, P> {
    Question(Q),
    Caption(C, P),
}

impl<C: Clone + Eq + Hash, Q, P> Scheduler<C, Q, P> {
    pub fn new(capacity: usize) -> Self {
        Scheduler {
            questions: VecDeque::new(),
            capacity,
            captions: HashMap::new(),
            busy: HashSet::new(),
            caption_first: false,
            served: HashMap::new(),
            clock: 0,
            caption_takes: Estimate::default(),
            job_takes: Estimate::default(),
        }
    }

    /// Queues a question. Returns it if the queue is full.
    pub fn ask(&mut self, question: Q) -> Result<(), Q> {
        if self.questions.len() >= self.capacity {
            return Err(question);
        }
        self.questions.push_back(question);
        Ok(())
    }

    /// Removes questions that no client waits for any more.
    pub fn retain(&mut self, waited_for: impl FnMut(&Q) -> bool) {
        self.questions.retain(waited_for);
    }

    /// Removes everything that is kept about a camera, and the questions about it. Returns those
    /// questions.
    pub fn remove(&mut self, camera: &C, mut is_about: impl FnMut(&Q) -> bool) -> Vec<Q> {
        self.captions.remove(camera);
        self.busy.remove(camera);
        self.served.remove(camera);
        let questions = std::mem::take(&mut self.questions).into_iter();
        let (removed, kept) = questions.partition::<VecDeque<Q>, _>(|question| is_about(question));
        self.questions = kept;
        removed.into()
    }

    /// Returns true if anything is kept about the camera.
    #[cfg(test)]
    pub fn knows(&self, camera: &C) -> bool {
        self.captions.contains_key(camera)
            || self.busy.contains(camera)
            || self.served.contains_key(camera)
    }

    /// Queues the caption of a window that closed at `closed`. Returns the camera's older caption,
    /// which will not be made.
    pub fn caption(
        &mut self,
        camera: C,
        caption: P,
        closed: Duration,
        max_delay: Duration,
    ) -> Option<P> {
        self.clock += 1;
        let deadline = closed.saturating_add(max_delay);
        let waiting = Waiting { came: self.clock, max_delay, deadline, caption };
        self.captions.insert(camera, waiting).map(|older| older.caption)
    }

    /// Removes and returns the captions that would be late if they were started now. Call it before
    /// [`take`].
    ///
    /// [`take`]: Scheduler::take
    pub fn late(&mut self, now: Duration) -> Vec<(C, P)> {
        let expected = self.caption_takes.expected();
        let late = self.captions.extract_if(|_, waiting| {
            let takes = expected.min(waiting.max_delay * 4 / 5);
            now.saturating_add(takes) > waiting.deadline
        });
        late.map(|(camera, waiting)| (camera, waiting.caption)).collect()
    }

    /// Takes the next job. A caption's camera is busy until [`done`](Scheduler::done).
    pub fn take(&mut self) -> Option<Next<C, Q, P>> {
        if std::mem::take(&mut self.caption_first)
            && let Some(caption) = self.next_caption()
        {
            return Some(caption);
        }
        match self.next_question() {
            Some(question) => Some(Next::Question(question)),
            None => self.next_caption(),
        }
    }

    fn next_caption(&mut self) -> Option<Next<C, Q, P>> {
        let turn = |camera: &C| self.served.get(camera).copied().unwrap_or(0);
        let idle = self.captions.iter().filter(|(camera, _)| !self.busy.contains(camera));
        let (camera, _) = idle.min_by_key(|(c, w)| (turn(c), w.came))?;
        let camera = camera.clone();
        self.clock += 1;
        self.served.insert(camera.clone(), self.clock);
        let waiting = self.captions.remove(&camera)?;
        self.busy.insert(camera.clone());
        Some(Next::Caption(camera, waiting.caption))
    }

    /// Marks the camera's caption in progress as published or abandoned.
    pub fn done(&mut self, camera: &C) {
        self.busy.remove(camera);
    }

    /// Records that the question taken last was refused before the model ran for it.
    pub fn refused(&mut self) {
        self.caption_first = true;
    }

    /// Takes the next question, for use when there is no room for a caption.
    pub fn next_question(&mut self) -> Option<Q> {
        self.questions.pop_front()
    }

    /// Records how long a caption took from its start to its end.
    pub fn caption_took(&mut self, time: Duration) {
        self.caption_takes.add(time);
    }

    /// Records for how long a caption or an answer kept the others waiting.
    pub fn job_took(&mut self, time: Duration) {
        self.job_takes.add(time);
    }

    /// Returns the expected time for this many waiting questions.
    pub fn retry_after(&self, waiting: usize) -> Duration {
        let each = self.job_takes.mean.unwrap_or(Duration::from_secs(1));
        each.saturating_mul((waiting as u32).max(1))
    }

    /// Returns the number of waiting questions and captions.
    pub fn waiting(&self) -> usize {
        self.questions.len() + self.captions.len()
    }

    /// Returns the maximum number of waiting questions.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the waiting questions, in the order asked.
    pub fn questions(&self) -> impl Iterator<Item = &Q> {
        self.questions.iter()
    }
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
mod tests {
    use proptest::prelude::*;

    use super::super::caption::windows::close_offset;
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn questions_come_first_then_the_camera_that_waited_longest() {
        let mut scheduler = Scheduler::new(2);
        let caption = |s: &mut Scheduler<_, _, _>, c, n| s.caption(c, n, ms(0), ms(100));
        assert_eq!(caption(&mut scheduler, "a", 1), None);
        assert_eq!(caption(&mut scheduler, "b", 2), None);
        assert_eq!(caption(&mut scheduler, "a", 3), Some(1));
        assert_eq!(scheduler.ask("q1"), Ok(()));
        assert_eq!(scheduler.ask("q2"), Ok(()));
        assert_eq!(scheduler.ask("q3"), Err("q3"));
        assert_eq!(scheduler.take(), Some(Next::Question("q1")));
        assert_eq!(scheduler.take(), Some(Next::Question("q2")));
        assert_eq!(scheduler.take(), Some(Next::Caption("b", 2)));
        scheduler.done(&"b");
        assert_eq!(caption(&mut scheduler, "b", 4), None);
        assert_eq!(scheduler.take(), Some(Next::Caption("a", 3)));
        assert_eq!(scheduler.take(), Some(Next::Caption("b", 4)));
        assert_eq!(scheduler.take(), None);
    }

    #[test]
    fn a_window_waits_while_its_camera_has_a_caption_in_work() {
        let mut scheduler: Scheduler<_, (), _> = Scheduler::new(1);
        let caption = |s: &mut Scheduler<_, _, _>, c, n| s.caption(c, n, ms(0), ms(100));
        caption(&mut scheduler, "a", 1);
        assert_eq!(scheduler.take(), Some(Next::Caption("a", 1)));
        assert_eq!(caption(&mut scheduler, "a", 2), None);
        assert_eq!(scheduler.take(), None);
        assert_eq!(caption(&mut scheduler, "a", 3), Some(2), "the newer window waits instead");
        caption(&mut scheduler, "b", 4);
        assert_eq!(scheduler.take(), Some(Next::Caption("b", 4)), "others need not wait for it");
        scheduler.done(&"a");
        assert_eq!(scheduler.take(), Some(Next::Caption("a", 3)));
        assert_eq!(scheduler.take(), None);
    }

    #[test]
    fn after_a_refused_question_a_caption_goes_before_the_next() {
        let mut scheduler = Scheduler::new(4);
        for question in 1..=4 {
            scheduler.ask(question).expect("room");
        }
        scheduler.caption("a", (), ms(0), ms(100));
        assert_eq!(scheduler.take(), Some(Next::Question(1)));
        assert_eq!(scheduler.take(), Some(Next::Question(2)));
        scheduler.refused();
        assert_eq!(scheduler.take(), Some(Next::Caption("a", ())));
        assert_eq!(scheduler.take(), Some(Next::Question(3)));
        scheduler.refused();
        assert_eq!(
            scheduler.take(),
            Some(Next::Question(4)),
            "where none waits, none is waited for"
        );
        assert_eq!(scheduler.take(), None);
    }

    #[test]
    fn late_captions_are_skipped_unless_they_have_barely_waited() {
        let mut scheduler: Scheduler<_, (), _> = Scheduler::new(1);
        scheduler.caption_took(ms(60));
        scheduler.caption("can be kept", (), ms(0), ms(100));
        scheduler.caption("never", (), ms(30), ms(50));
        assert_eq!(scheduler.late(ms(40)), []);
        let mut late = scheduler.late(ms(41));
        late.sort();
        assert_eq!(late, [("can be kept", ()), ("never", ())]);
        assert_eq!(scheduler.take(), None);
    }

    #[test]
    fn the_retry_delay_is_the_time_that_the_queue_takes() {
        let mut scheduler: Scheduler<(), (), ()> = Scheduler::new(8);
        assert_eq!(scheduler.retry_after(0), ms(1000));
        scheduler.job_took(ms(300));
        assert_eq!(scheduler.retry_after(6), ms(1800));
    }

    /// The result of a simulation in which captions take `cost`, one after the other. Published and
    /// skipped captions are (camera, close, time).
    struct Served {
        published: Vec<(usize, Duration, Duration)>,
        skipped: Vec<(usize, Duration, Duration)>,
        replaced: usize,
        waiting: usize,
        closed: usize,
    }

    fn serve(closes: &[(Duration, usize)], max_delay: Duration, cost: Duration) -> Served {
        let mut scheduler: Scheduler<usize, (), Duration> = Scheduler::new(1);
        scheduler.caption_took(cost);
        let mut served = Served {
            published: Vec::new(),
            skipped: Vec::new(),
            replaced: 0,
            waiting: 0,
            closed: closes.len(),
        };
        let mut closes = closes.iter().peekable();
        let mut now = Duration::ZERO;
        loop {
            while let Some((at, camera)) = closes.next_if(|(at, _)| *at <= now) {
                served.replaced +=
                    usize::from(scheduler.caption(*camera, *at, *at, max_delay).is_some());
            }
            let late = scheduler.late(now);
            served.skipped.extend(late.into_iter().map(|(camera, at)| (camera, at, now)));
            match scheduler.take() {
                Some(Next::Caption(camera, at)) => {
                    now += cost;
                    scheduler.done(&camera);
                    served.published.push((camera, at, now));
                }
                _ => match closes.peek() {
                    Some((at, _)) => now = *at,
                    None => break,
                },
            }
        }
        served.waiting = scheduler.waiting();
        served
    }

    /// Checks that captions are shared evenly. There is one camera per phase, its windows close
    /// every second, and the maximum delay is one second. All values are in milliseconds.
    fn shared_evenly(cost: u64, phases: &[u64]) -> Result<(), TestCaseError> {
        let cameras = phases.len();
        let mut closes: Vec<_> = (0..200u64)
            .flat_map(|n| (0..cameras).map(move |c| (ms(n * 1000 + phases[c]), c)))
            .collect();
        closes.sort();
        let served = serve(&closes, ms(1000), ms(cost));
        let mut each = vec![0usize; cameras];
        served.published.iter().for_each(|(camera, _, _)| each[*camera] += 1);
        let mean = served.published.len() as f64 / cameras as f64;
        let worst = each.iter().copied().min().unwrap_or(0) as f64;
        prop_assert!(worst >= 0.8 * mean - 1.0, "{each:?}");
        // If all can be served, all are.
        if cameras as u64 * cost <= 500 {
            prop_assert_eq!(served.published.len(), closes.len());
        }
        Ok(())
    }

    proptest! {
        /// Holds for any order of arrival: published captions are fresh, and only captions that
        /// would have been late are skipped. The worker never idles while a deadline could be met
        /// (otherwise captions would be left at the end), and everything comes out once.
        #[test]
        fn no_caption_is_skipped_that_could_be_in_time(
            closes in prop::collection::vec((0u64..20_000, 0usize..9), 0..120),
            max_delay in 1u64..3000,
            share in 1u64..80,
        ) {
            let mut closes: Vec<_> = closes.into_iter().map(|(at, c)| (ms(at), c)).collect();
            closes.sort();
            let (max_delay, cost) = (ms(max_delay), ms(max_delay * share / 100));
            let served = serve(&closes, max_delay, cost);
            for (_, closed, published) in &served.published {
                prop_assert!(*published <= *closed + max_delay);
            }
            for (_, closed, skipped) in &served.skipped {
                prop_assert!(*skipped + cost > *closed + max_delay);
            }
            let out = served.published.len() + served.skipped.len() + served.replaced;
            prop_assert_eq!((out, served.waiting), (served.closed, 0));
        }

        /// Every camera gets its share if more than a few captions per round are possible, however
        /// many cameras there are and at whatever moments their windows close.
        #[test]
        fn overload_is_shared_evenly(
            cameras in 2usize..40, cost in 20u64..100, phases in prop::collection::vec(0u64..1000, 40),
        ) {
            shared_evenly(cost, &phases[..cameras])?;
        }

        /// A camera whose window closes while no other one waits is served every time, if only a
        /// few captions per round are possible. With the daemon's phases there is no such camera.
        /// The frames' own times move each close by up to 20 ms.
        #[test]
        fn overload_is_shared_evenly_down_to_a_few_captions_a_round(
            cameras in 2usize..40, cost in 20u64..450, off in prop::collection::vec(0u64..20, 40),
        ) {
            let phases = |c| off[c] + close_offset(c, ms(1000)).as_millis() as u64;
            shared_evenly(cost, &(0..cameras).map(phases).collect::<Vec<_>>())?;
        }

        /// Holds for any order of closing, starting, refusing and ending: each camera has at most
        /// one caption in progress, and its captions are finished in the order of its windows.
        #[test]
        fn captions_of_a_camera_stay_in_order(
            steps in prop::collection::vec((0usize..3, 0u8..8), 0..300),
        ) {
            let mut scheduler: Scheduler<usize, (), u64> = Scheduler::new(2);
            let (mut work, mut newest) = (Vec::new(), [0; 3]);
            for (now, (at, step)) in (1u64..).zip(steps) {
                match step {
                    0..3 => drop(scheduler.caption(at, now, ms(now), ms(20))),
                    3 => drop(scheduler.ask(())),
                    4 => scheduler.refused(),
                    5 => drop(scheduler.late(ms(now))),
                    6 => match scheduler.take() {
                        Some(Next::Caption(camera, window)) => {
                            prop_assert!(work.iter().all(|(busy, _)| *busy != camera));
                            work.push((camera, window));
                        }
                        Some(Next::Question(())) | None => {}
                    },
                    _ if work.is_empty() => {}
                    _ => {
                        let (camera, window) = work.remove(at % work.len());
                        prop_assert!(newest[camera] < window, "{} after {}", window, newest[camera]);
                        newest[camera] = window;
                        scheduler.done(&camera);
                    }
                }
            }
        }

        /// Every caption gets its turn, however many questions are refused in a row.
        #[test]
        fn refused_questions_do_not_starve_captions(cameras in 1usize..8, asking in 1usize..5) {
            let mut scheduler = Scheduler::new(asking);
            for camera in 0..cameras {
                scheduler.caption(camera, (), ms(0), ms(1000));
            }
            let mut captions = 0;
            for _ in 0..2 * cameras {
                while scheduler.ask(()).is_ok() {}
                match scheduler.take() {
                    Some(Next::Question(())) => scheduler.refused(),
                    Some(Next::Caption(..)) => captions += 1,
                    None => prop_assert!(false, "questions wait"),
                }
            }
            prop_assert_eq!(captions, cameras);
        }

        /// Every job comes out once, is replaced once, is skipped once, or is refused.
        #[test]
        fn no_job_is_lost_or_duplicated(steps in prop::collection::vec((0usize..4, 0u8..5), 0..200)) {
            let mut scheduler = Scheduler::new(3);
            scheduler.caption_took(ms(5));
            let (mut inside, mut out, mut now) = (0, 0, ms(0));
            for (camera, step) in steps {
                now += ms(3);
                match step {
                    0 => {
                        inside += 1;
                        out += usize::from(scheduler.caption(camera, (), now, ms(12)).is_some());
                    }
                    1 => { inside += 1; out += usize::from(scheduler.ask(()).is_err()); }
                    2 => out += scheduler.late(now).len(),
                    _ => out += usize::from(scheduler.take().is_some()),
                }
                prop_assert_eq!(inside, out + scheduler.waiting());
            }
        }
    }
}
