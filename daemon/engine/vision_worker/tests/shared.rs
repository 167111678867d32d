//! Tests frames that several questions or trials need encoded again at the same time: each frame is
//! encoded once. The number of trials is limited.

use tokio::sync::oneshot;

use super::*;
use crate::config::RuleChanges;
use crate::engine::question::frames::Recipient;
use crate::engine::trial_window::{ScoredClip, TrialWindow};
use crate::frame::Span;
use crate::question::{Draft, Limits, Question, Range, RawTime};
use crate::service::{AnswerItem, AnswerStream, TrialError, TrialRequest};
use crate::timeline::{self, Tiers};

/// Number of evicted frames, three batches.
const FRAMES: u64 = 24;

const CACHE: &str = "";
const NO_CACHE: &str = "[buffer]\nreencode_cache_bytes = \"0 B\"\n";

/// An engine whose frames have left the hot tier, except the newest one, and its worker.
struct Setup {
    engine: Arc<Engine>,
    worker: VisionWorker<StandIn>,
}

impl Setup {
    fn new(buffer: &str) -> Setup {
        Setup::of(engine_with(FRAMES, "", buffer))
    }

    fn of(engine: Arc<Engine>) -> Setup {
        let (hot_age, most) = (Duration::ZERO, 1 << 20);
        let warm_age = Duration::from_secs(3600);
        let limits = timeline::Limits { hot_age, hot_bytes: most, warm_age, warm_bytes: most };
        engine.cameras.set_limits(limits);
        let mut setup = Setup { engine, worker: worker() };
        let frames = (0..=FRAMES).map(|number| frame("gate", number, 100 + number as u8));
        let encoded = setup.worker.encode_new(&setup.engine, frames.collect(), &mut Vec::new());
        assert!(encoded.is_ok());
        setup.backend().encoded = 0;
        setup
    }

    fn backend(&mut self) -> &mut StandIn {
        &mut self.worker.model.as_mut().expect("a vision model").backend
    }

    /// Asks about all evicted frames.
    fn ask(&self) -> AnswerStream {
        let time = |seconds| Some(RawTime::Parts { seconds, nanos: 0 });
        let draft = Draft {
            camera: "gate".into(),
            text: "What came?".into(),
            from: time(0),
            to: time(FRAMES as i64),
            detail: Some("overview".into()),
            ..Draft::default()
        };
        let question = Question::new(draft, &Limits::unknown()).expect("a question");
        self.engine.ask(question).expect("it is accepted")
    }

    /// Begins to try a rule on all evicted frames.
    fn try_rule(&self) -> oneshot::Receiver<Result<ScoredClip, AskError>> {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let span = Span { from: at(0), to: at(FRAMES) };
        let frames = self.engine.select("gate", span, Tiers::All).expect("frames");
        let (result, scored) = oneshot::channel();
        let known = Arc::default();
        let window = TrialWindow { camera: "gate".into(), question: "Came?".into(), known, result };
        self.engine.fetch_frames(frames, Recipient::Trial(window));
        scored
    }

    /// Gives the worker one turn. Returns false if nothing waits for it.
    fn turn(&mut self) -> bool {
        if !self.engine.inbox.lock().is_ready() {
            return false;
        }
        match self.engine.next_work() {
            Some(Work::Reencode(fetch)) => {
                let encoded = self.worker.encode_again(&self.engine, fetch, &mut Vec::new());
                assert!(encoded.is_ok());
            }
            _ => panic!("only requests for evicted frames wait"),
        }
        true
    }

    fn work(&mut self) {
        while self.turn() {}
    }

    /// Returns the number of frames of each question that waits for the language model.
    fn queued(&self) -> Vec<usize> {
        let frames = |job: &Job| match job {
            Job::Question(asked) => asked.clip.frames.len(),
            _ => panic!("only questions are queued"),
        };
        self.engine.jobs().scheduler.questions().map(frames).collect()
    }

    /// Takes all jobs that somebody waits for. Returns the number of trials among them.
    fn queued_trials(&self) -> usize {
        let mut jobs = self.engine.jobs();
        let taken = std::iter::from_fn(|| jobs.scheduler.withdraw());
        taken.filter(|job| matches!(job, Job::Trial(_))).count()
    }
}

#[test]
fn questions_about_the_same_evicted_frames_share_their_encoding() {
    for cache in [CACHE, NO_CACHE] {
        let mut setup = Setup::new(cache);
        let _answers = [setup.ask(), setup.ask(), setup.ask()];
        setup.work();
        assert_eq!(setup.queued(), [FRAMES as usize; 3], "{cache:?}");
        assert_eq!(setup.backend().encoded, FRAMES as usize, "{cache:?}");
    }
}

#[test]
fn a_question_that_leaves_takes_no_frame_from_the_others() {
    let mut setup = Setup::new(NO_CACHE);
    let (first, mut second) = (setup.ask(), setup.ask());
    assert!(setup.turn());
    drop(first);
    setup.work();
    let waiting = setup.engine.jobs().waiting_questions();
    assert_eq!((waiting, setup.queued()), (1, vec![FRAMES as usize]));
    assert_eq!(setup.backend().encoded, FRAMES as usize);
    assert!(second.try_recv().is_err(), "it waits for its answer");
}

#[test]
fn a_question_whose_jpegs_come_late_finds_the_frames_that_were_encoded_meanwhile() {
    let mut setup = Setup::new(CACHE);
    let _answers = [setup.ask(), setup.ask()];
    // The JPEGs of the second question are still being read from the disk.
    let mut waiting = setup.engine.inbox.lock().extract(|_| true);
    let late = waiting.pop().expect("two questions");
    setup.engine.proceed(waiting.pop().expect("two questions"));
    setup.work();
    setup.engine.proceed(late);
    assert_eq!(setup.queued(), [FRAMES as usize; 2]);
    assert!(!setup.turn(), "the late question needs no turn");
    assert_eq!(setup.backend().encoded, FRAMES as usize);
}

#[test]
fn a_failed_run_fails_its_question_and_no_other() {
    let mut setup = Setup::new(NO_CACHE);
    let (mut first, mut second) = (setup.ask(), setup.ask());
    assert!(setup.turn());
    setup.backend().fails = true;
    assert!(setup.turn());
    setup.backend().fails = false;
    setup.work();
    let failed = second.try_recv().expect("an end");
    assert!(
        matches!(failed, AnswerItem::Failed(AskError::ModelFailedTemporarily(_))),
        "{failed:?}"
    );
    assert!(first.try_recv().is_err(), "it waits for its answer");
    assert_eq!(setup.queued(), [FRAMES as usize]);
    assert_eq!(setup.backend().encoded, FRAMES as usize);
}

#[test]
fn trials_share_frames_with_each_other_and_with_questions() {
    let mut setup = Setup::new(CACHE);
    let _windows = [setup.try_rule(), setup.try_rule()];
    setup.work();
    assert_eq!(setup.queued_trials(), 2);
    assert_eq!(setup.backend().encoded, FRAMES as usize);
    assert_eq!(setup.engine.reencoded().bytes(), 0, "a trial leaves nothing in the cache");

    let mut setup = Setup::new(CACHE);
    let _windows = [setup.try_rule(), setup.try_rule()];
    assert!(setup.turn(), "one frame of the first trial is encoded");
    let _answer = setup.ask();
    setup.work();
    assert_eq!((setup.queued(), setup.queued_trials()), (vec![FRAMES as usize], 2));
    // The question came after the first frame was encoded.
    assert_eq!(setup.backend().encoded, FRAMES as usize + 1);
}

#[tokio::test]
async fn a_fifth_trial_is_refused() {
    let gate = "window = \"8s\"\ncaption_interval = \"8s\"\n";
    let setup = Setup::of(engine_with(FRAMES, gate, CACHE));
    let begin = || {
        let question = Some("Came?".into());
        setup.engine.try_rule(TrialRequest {
            camera: "gate".into(),
            rule: None,
            changes: RuleChanges { question, ..RuleChanges::default() },
            range: Range::Between { from: SystemTime::UNIX_EPOCH, to: None },
        })
    };
    // Nobody encodes their frames, so that they do not end.
    let trials: Vec<_> = (0..4).map(|_| begin().expect("it begins")).collect();
    assert!(matches!(begin(), Err(TrialError::TooManyTrials)));
    drop(trials);
    while begin().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
