//! Simulates the daemon's scheduler with given device costs, a given number of cameras, and a clock
//! that jumps. The rules are the daemon's own: [`Scheduler`] and [`Slots`]. The language model runs
//! on the device itself, or on servers that are reached over a network and can fail.
//!
//! [`Slots`]: crate::language::slots::Slots

mod profile;
mod replicas;

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Row;
use crate::engine::caption::windows::close_offset;
use crate::engine::scheduler::{self, Purpose, Scheduler};
use crate::language::slots::Room;
pub use profile::Profile;
use replicas::{Replica, Sequence};

/// An external event.
struct Event {
    at: f64,
    /// The order of events at the same time.
    number: u64,
    what: What,
}

enum What {
    /// A window of this camera closes.
    Window(usize),
    /// A question is asked.
    Question,
    /// A prompt has reached a replica.
    Arrival(usize, Sequence),
    /// A replica fails, the daemon notices that, and the replica is back.
    Failure(usize),
    Notice(usize),
    Recovery(usize),
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> Ordering {
        self.at.total_cmp(&other.at).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A job of the simulated scheduler: a caption of a camera's window, or a question.
struct Job {
    camera: Option<usize>,
    /// The time at which the window closed or the question was asked.
    since: f64,
}

impl scheduler::Job for Job {
    type Camera = Option<usize>;

    fn camera(&self) -> &Option<usize> {
        &self.camera
    }

    fn purpose(&self) -> Purpose {
        if self.camera.is_some() { Purpose::Caption } else { Purpose::Question }
    }
}

/// Number of questions that may wait.
const QUEUE: usize = 16;

struct Run<'a> {
    profile: &'a Profile,
    /// Factor by which vision slows down the language model.
    slower: f64,
    now: f64,
    scheduler: Scheduler<Job>,
    replicas: Vec<Replica>,
    /// Number of sequences that the scheduler has given out and that have not ended.
    in_progress: usize,
    events: BinaryHeap<Reverse<Event>>,
    /// Number of events and of sequences so far.
    counted: u64,
    /// The time at which the network has sent everything, and the time for which it was busy.
    wire_free: f64,
    wire_busy: f64,
    random: StdRng,
    row: Row,
    /// Number of captions of each camera.
    published: Vec<usize>,
    captions: Vec<f64>,
    answers: Vec<f64>,
    busy: f64,
}

/// Simulates `length` seconds of `cameras` cameras, whose windows close at different moments as in
/// the daemon. `seed` determines when questions are asked.
pub fn simulate(profile: &Profile, cameras: usize, length: f64, seed: u64) -> Row {
    let vision = profile.vision_load(cameras);
    let slots = profile.language.max_concurrent_sequences;
    let replicas = profile.remote.as_ref().map_or(1, |remote| remote.replicas);
    let mut run = Run {
        profile,
        slower: if profile.shared { 1.0 / (1.0 - vision).max(1e-9) } else { 1.0 },
        now: 0.0,
        scheduler: Scheduler::new(QUEUE),
        replicas: (0..replicas).map(|_| Replica::new(slots)).collect(),
        in_progress: 0,
        events: BinaryHeap::new(),
        counted: 0,
        wire_free: 0.0,
        wire_busy: 0.0,
        random: StdRng::seed_from_u64(seed),
        row: Row { cameras, vision_load: Some(vision), ..Row::default() },
        published: vec![0; cameras],
        captions: Vec::new(),
        answers: Vec::new(),
        busy: 0.0,
    };
    run.plan_events(cameras);
    while run.now < length && vision < 1.0 {
        run.complete_steps();
        run.process_events();
        run.admit();
        run.begin_steps();
        run.now = run.next_moment().unwrap_or(length);
    }
    let now = run.now.max(1e-9);
    run.row.language_load = Some(run.busy / now / replicas as f64);
    run.row.wire_load = profile.remote.is_some().then_some(run.wire_busy / now);
    run.row.count(&run.published, run.captions, run.answers)
}

impl Run<'_> {
    /// Plans the first window of each camera, the first question and all outages.
    fn plan_events(&mut self, cameras: usize) {
        let every = duration(self.profile.cameras.caption_interval);
        for camera in 0..cameras {
            self.plan(close_offset(camera, every).as_secs_f64(), What::Window(camera));
        }
        if self.profile.questions.is_some() {
            self.plan(0.0, What::Question);
        }
        for outage in self.profile.remote.iter().flat_map(|remote| &remote.outage) {
            self.plan(outage.at, What::Failure(outage.replica));
            self.plan(outage.at + outage.noticed_after, What::Notice(outage.replica));
            self.plan(outage.at + outage.length, What::Recovery(outage.replica));
        }
    }

    fn plan(&mut self, at: f64, what: What) {
        self.counted += 1;
        self.events.push(Reverse(Event { at, number: self.counted, what }));
    }

    /// Processes the events until now.
    fn process_events(&mut self) {
        while self.events.peek().is_some_and(|next| next.0.at <= self.now) {
            let Some(Reverse(Event { at, what, .. })) = self.events.pop() else { return };
            match what {
                What::Window(camera) => self.close_window(at, camera),
                What::Question => self.ask(at),
                What::Arrival(replica, sequence) => {
                    let refused = self.replicas[replica].take(sequence);
                    self.send_again(refused);
                }
                What::Failure(replica) => self.replicas[replica].fail(),
                What::Notice(replica) => {
                    let lost = self.replicas[replica].avoid();
                    self.send_again(lost);
                }
                What::Recovery(replica) => self.replicas[replica].recover(),
            }
        }
    }

    fn close_window(&mut self, at: f64, camera: usize) {
        let cameras = &self.profile.cameras;
        // The window's last frame is encoded first.
        let closed = at - self.profile.vision.frame;
        let job = Job { camera: Some(camera), since: closed };
        let older =
            self.scheduler.window(job, duration(closed), duration(cameras.max_caption_delay));
        self.row.windows += 1;
        self.row.skipped += usize::from(older.is_some());
        self.plan(at + cameras.caption_interval, What::Window(camera));
    }

    fn ask(&mut self, at: f64) {
        let Some(questions) = &self.profile.questions else { return };
        let refused = self.scheduler.ask(Job { camera: None, since: at }).is_err();
        self.row.refused += usize::from(refused);
        let pause = until_next(&mut self.random, questions.a_minute);
        self.plan(at + pause, What::Question);
    }

    /// Returns which sequences can be given out. The device's own rules need a view of its prompts;
    /// servers have rules of their own, so that one slot is reserved for a question there.
    fn room(&self) -> Room {
        if self.profile.remote.is_none() {
            return self.replicas[0].slots().room();
        }
        if self.replicas.iter().all(Replica::is_avoided) {
            return Room::Nothing;
        }
        match self.profile.language.max_concurrent_sequences - self.in_progress {
            0 => Room::Nothing,
            1 if self.in_progress > 0 => Room::Question,
            _ => Room::Any,
        }
    }

    /// Gives out jobs while there is room for them.
    fn admit(&mut self) {
        let language = &self.profile.language;
        loop {
            let next = match self.room() {
                Room::Any => {
                    self.row.skipped += self.scheduler.late(duration(self.now)).len();
                    self.scheduler.take()
                }
                Room::Question => self.scheduler.take_question(),
                Room::Nothing => None,
            };
            let Some(Job { camera, since }) = next else { return };
            let text = match &self.profile.questions {
                Some(questions) if camera.is_none() => questions.new_tokens.max(1),
                _ => language.new_tokens,
            };
            let prompt = language.video_tokens + language.text_tokens;
            self.counted += 1;
            self.in_progress += 1;
            let (number, begun) = (self.counted, self.now);
            let sequence =
                Sequence { number, camera, since, begun, prompt, read: 0, text, written: 0 };
            self.send(sequence);
        }
    }

    /// Sends a sequence to its replica. It fails if there is none.
    fn send(&mut self, sequence: Sequence) {
        let Some(replica) = replicas::choose(&self.replicas, sequence.number) else {
            self.in_progress -= 1;
            match sequence.camera {
                Some(_) => {
                    self.scheduler.done(&sequence.camera, Purpose::Caption);
                    self.row.skipped += 1;
                }
                None => self.row.unanswered += 1,
            }
            return;
        };
        let Some(remote) = &self.profile.remote else {
            self.replicas[replica].take(sequence);
            return;
        };
        let wire = remote.wire(sequence.prompt);
        self.wire_free = self.wire_free.max(self.now) + wire;
        self.wire_busy += wire;
        self.plan(self.wire_free + remote.request, What::Arrival(replica, sequence));
    }

    /// Sends sequences once more, from their beginning.
    fn send_again(&mut self, lost: impl IntoIterator<Item = Sequence>) {
        for sequence in lost {
            self.row.sent_again += 1;
            self.send(Sequence { read: 0, written: 0, ..sequence });
        }
    }

    fn begin_steps(&mut self) {
        for replica in &mut self.replicas {
            let took = replica.begin(self.now, &self.profile.language, self.slower);
            self.busy += took.unwrap_or(0.0);
        }
    }

    /// Returns the next time at which something can happen. The device itself looks for new jobs
    /// between two steps only.
    fn next_moment(&self) -> Option<f64> {
        let step = self.replicas.iter().filter_map(Replica::ends).min_by(f64::total_cmp);
        let event = self.events.peek().map(|next| next.0.at);
        if self.profile.remote.is_none() {
            return step.or(event);
        }
        step.into_iter().chain(event).min_by(f64::total_cmp)
    }

    /// Completes the steps that end now.
    fn complete_steps(&mut self) {
        for index in 0..self.replicas.len() {
            for sequence in self.replicas[index].complete(self.now, &self.profile.language) {
                self.finish(sequence);
            }
        }
    }

    fn finish(&mut self, sequence: Sequence) {
        let Sequence { camera, since, begun, .. } = sequence;
        self.in_progress -= 1;
        let Some(index) = camera else {
            self.answers.push(self.now - since);
            return;
        };
        self.scheduler.done(&camera, Purpose::Caption);
        self.scheduler.window_took(Purpose::Caption, duration(self.now - begun));
        self.published[index] += 1;
        let is_late = self.now - since > self.profile.cameras.max_caption_delay;
        self.row.late += usize::from(is_late);
        self.captions.push(self.now - since);
    }
}

/// Returns the seconds between two questions at `a_minute` questions per minute, at random moments
/// (Poisson process).
pub fn until_next(random: &mut StdRng, a_minute: f64) -> f64 {
    let chance: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
    -chance.ln() * 60.0 / a_minute
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn profile() -> Profile {
        in_repository("h100.toml")
    }

    fn in_repository(name: &str) -> Profile {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/profiles").join(name);
        Profile::read(&file).expect("a profile in the repository")
    }

    /// Returns servers of which `outages` fail.
    fn servers(replicas: usize, outages: Vec<profile::Outage>) -> Profile {
        let mut profile = in_repository("servers.toml");
        if let Some(remote) = &mut profile.remote {
            remote.replicas = replicas;
            remote.outage = outages;
        }
        profile
    }

    fn outage(replica: usize, at: f64, length: f64) -> profile::Outage {
        profile::Outage { replica, at, length, noticed_after: 2.0 }
    }

    #[test]
    fn questions_come_at_the_configured_rate() {
        let mut random = StdRng::seed_from_u64(1);
        let pauses: Vec<f64> = (0..10_000).map(|_| until_next(&mut random, 12.0)).collect();
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        assert!((mean - 5.0).abs() < 0.2, "{mean}");
        // The questions are not periodic: a share of 1 − 1/e comes before the mean.
        let early = pauses.iter().filter(|pause| **pause < 5.0).count();
        assert!((6_150..6_500).contains(&early), "{early}");
    }

    #[test]
    fn without_overload_every_caption_is_in_time() {
        let row = simulate(&profile(), 33, 600.0, 1);
        assert_eq!((row.skipped, row.late), (0, 0), "{row:?}");
        assert!(row.windows > 33 * 55 && row.published >= row.windows - 33, "{row:?}");
    }

    #[test]
    fn overload_skips_captions_evenly_and_the_rest_are_in_time() {
        for cameras in [64, 100, 128] {
            let row = simulate(&profile(), cameras, 1200.0, 1);
            assert!(row.skipped > row.windows / 4, "{row:?}");
            assert!(row.late * 200 <= row.published, "{row:?}");
            assert!(row.captions.as_ref().is_some_and(|times| times.p99 <= 10.0), "{row:?}");
            assert!(row.worst_camera_share.is_some_and(|worst| worst >= 0.8), "{row:?}");
            // No collapse under overload: the device continues to generate captions.
            assert!(row.language_load.is_some_and(|load| load > 0.99), "{row:?}");
        }
    }

    #[test]
    fn answers_do_not_wait_for_captions() {
        let (idle, full) = (simulate(&profile(), 1, 600.0, 1), simulate(&profile(), 128, 600.0, 1));
        let median = |row: &Row| row.answers.as_ref().map(|times| times.p50).expect("answers");
        assert!(median(&full) < 5.0 * median(&idle), "{} {}", median(&full), median(&idle));
    }

    #[test]
    fn encoding_that_takes_the_whole_device_leaves_no_captions() {
        let row = simulate(&profile(), 1200, 60.0, 1);
        assert_eq!(row.published, 0);
        assert!(row.vision_load.is_some_and(|load| load > 1.0));
    }

    #[test]
    fn twice_the_servers_caption_nearly_twice_the_windows() {
        let published = |replicas, cameras| {
            let row = simulate(&servers(replicas, Vec::new()), cameras, 600.0, 1);
            // As many windows as captions, each in its place, and a few in progress.
            let open = row.windows - row.published - row.skipped;
            assert!(open <= cameras, "{row:?}");
            row.published as f64
        };
        let (one, two) = (published(1, 100), published(2, 100));
        assert!((1.8..2.05).contains(&(two / one)), "{one} {two}");
    }

    #[test]
    fn the_network_is_shared_by_all_servers() {
        let mut profile = servers(4, Vec::new());
        let row = simulate(&profile, 20, 600.0, 1);
        let remote = profile.remote.as_mut().expect("servers");
        let tokens = profile.language.video_tokens + profile.language.text_tokens;
        let asked = row.published + row.answered;
        let wanted = remote.wire(tokens) * asked as f64 / 600.0;
        let load = row.wire_load.expect("a network");
        assert!((load / wanted - 1.0).abs() < 0.05, "{load} {wanted}");
        // A hundredth of the speed is not enough, however many servers wait behind it.
        remote.megabytes_per_second /= 100.0;
        let slow = simulate(&profile, 20, 600.0, 1);
        assert!(slow.wire_load.is_some_and(|load| load > 0.95), "{slow:?}");
        assert!(slow.published < row.published / 2, "{slow:?}");
    }

    #[test]
    fn the_other_servers_take_what_a_failed_one_had() {
        let steady = simulate(&servers(3, Vec::new()), 20, 600.0, 1);
        let row = simulate(&servers(3, vec![outage(1, 100.0, 300.0)]), 20, 600.0, 1);
        assert_eq!((steady.sent_again, steady.skipped, steady.late), (0, 0, 0), "{steady:?}");
        assert!((1..=20).contains(&row.sent_again), "{row:?}");
        // Two of three have room for it: every caption comes, and in time.
        assert_eq!((row.skipped, row.late, row.unanswered), (0, 0, 0), "{row:?}");
        assert_eq!((row.windows, row.refused), (steady.windows, 0), "{row:?}");
    }

    #[test]
    fn without_any_server_captions_are_skipped_and_come_again() {
        let row = simulate(&servers(1, vec![outage(0, 100.0, 200.0)]), 10, 600.0, 1);
        let steady = simulate(&servers(1, Vec::new()), 10, 600.0, 1);
        let lost = steady.published - row.published;
        // A third of the time.
        assert!((lost as f64 / steady.published as f64 - 1.0 / 3.0).abs() < 0.03, "{row:?}");
        assert!(row.skipped.abs_diff(lost) <= 10, "{row:?}");
    }

    #[test]
    fn profiles_that_contradict_themselves_are_refused() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/profiles/servers.toml");
        let text = std::fs::read_to_string(file).expect("a profile");
        for (from, to, reason) in [
            ("shared = false", "shared = true", "set it to false"),
            ("replicas = 4", "replicas = 0", "must be above 0"),
            ("replica = 0", "replica = 4", "the last one is 3"),
            ("prefill_per_second", "prefill_rate", "unknown field"),
        ] {
            assert!(text.contains(from), "{from}");
            let refused = Profile::parse(&text.replace(from, to)).err().expect("refused");
            assert!(format!("{refused:#}").contains(reason), "{refused:#}");
        }
    }
}
