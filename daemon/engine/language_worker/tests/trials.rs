//! Tests that a rule is tried only while the model has nothing else to do.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::*;
use crate::engine::trial_window::{ScoredClip, TrialWindow};

type Tried = oneshot::Receiver<Result<ScoredClip, AskError>>;

/// Queues a window on which a rule is tried.
fn tries(engine: &Engine) -> Tried {
    let (result, tried) = oneshot::channel();
    let window = TrialWindow {
        camera: "yard".into(),
        question: "Is there a dog?".into(),
        known: Arc::new(HashMap::new()),
        result,
    };
    let span = Span { from: at(0), to: at(4) };
    let clip = engine.clip("yard", span.into()).expect("frames");
    engine.jobs().add_trial(window, clip);
    tried
}

fn score(tried: &mut Tried) -> Option<Result<f64, AskError>> {
    tried.try_recv().ok().map(|result| result.map(|scored| scored.score))
}

/// The trial has the only slot. It is cancelled for the caption, and begins again after it.
#[test]
fn a_trial_gives_its_slot_to_a_caption_and_is_repeated() {
    let engine = with_frames();
    let mut tried = tries(&engine);
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            2 => closes(engine, "yard", 10),
            4 => assert_eq!(captions(engine, "yard").len(), 1, "one step after its window"),
            5 => engine.jobs().stopping = true,
            _ => {}
        }
    };
    // The trial, the caption, the trial again.
    let fates = vec![Fate::Steps(9), Fate::Steps(1), Fate::Steps(2)];
    assert!(work_with(1, &engine, fates, between).is_ok());
    assert_eq!(score(&mut tried), Some(Ok(0.75)));
}

#[test]
fn a_trial_begins_after_every_waiting_job() {
    let engine = with_frames();
    let mut tried = tries(&engine);
    let _listening = asks(&engine, "Who?");
    closes(&engine, "gate", 10);
    closes(&engine, "yard", 10);
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        let waiting = engine.jobs().scheduler.waiting();
        match step {
            1 => assert_eq!(waiting, 1, "only the trial waits"),
            _ => {
                assert_eq!((waiting, captions(engine, "yard").len()), (0, 1));
                engine.jobs().stopping = true;
            }
        }
    };
    assert!(work(&engine, vec![Fate::Steps(1); 4], between).is_ok());
    assert_eq!(score(&mut tried), Some(Ok(0.75)));
}

#[test]
fn a_trial_without_a_client_is_cancelled() {
    let engine = with_frames();
    let mut tried = Some(tries(&engine));
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            2 => drop(tried.take()),
            3 => panic!("the worker has no work"),
            _ => {}
        }
        // The idle worker ends when the engine stops.
        engine.jobs().stopping = step >= 2;
    };
    assert!(work(&engine, vec![Fate::Steps(100)], between).is_ok());
}

#[test]
fn a_failure_ends_the_window_of_a_trial() {
    for (fate, wanted) in
        [(Fate::Fails(Failure::NotFinite), "not finite"), (Fate::Breaks, "slots are lost")]
    {
        let engine = with_frames();
        let mut tried = tries(&engine);
        let _listening = asks(&engine, "Who?");
        let _ = work(&engine, vec![Fate::Steps(1), fate], for_steps(2));
        let error = score(&mut tried).expect("a result").expect_err("an error");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    // A trial that waits when the engine stops gets an error, too.
    let engine = with_frames();
    let mut tried = tries(&engine);
    engine.jobs().stopping = true;
    assert!(work(&engine, Vec::new(), |_| ()).is_ok());
    assert_eq!(score(&mut tried), Some(Err(AskError::Stopping)));
}
