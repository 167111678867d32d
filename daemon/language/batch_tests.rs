//! Tests that a failed run of the decoder ends only the sequences in it.

use std::collections::BTreeMap;

use super::super::decoder::{Spoil, Spoils};
use super::super::{
    Budget, LanguageBackend, LanguageModel, Limits, PrefixFrame, Request, Task, Urgency,
};
use super::*;
use crate::config::{Model, Sampling, Wording};
use crate::model::on_the_cpu;
use crate::slowfast::VideoTokens;

const QUESTIONS: [&str; 3] = ["What is happening?", "Is the gate open?", "Who is there?"];

fn language() -> LanguageModel {
    let (runtime, package) = on_the_cpu();
    let mut keys = toml::toml! {
        package = "" device = "cpu" prefill_chunk = 23
        plan = "1:slowfast-slow_1frms_concat-fast_1x1"
    };
    keys["package"] = package.folder.display().to_string().into();
    let model = Model::of(keys).expect("a config");
    let budget = Budget { max_new_tokens: 12, slots: 3, prefix_bytes: 1 << 24 };
    LanguageModel::with_capacity(runtime, package, &model, &Wording::default(), budget, 160)
        .expect("a model")
}

/// Asks all three questions at once, the first two about the same window, and returns the
/// outcome of each.
fn ask(language: &mut LanguageModel) -> Vec<Result<Vec<u32>, Failure>> {
    let dim = language.batch.dim;
    let video = |window: usize| {
        let rows = (0..48 * dim).map(|at| ((at * 37 + window * 11) % 101) as f32 / 50.0 - 1.0);
        VideoTokens { rows: rows.collect(), dim }
    };
    let mut ids = Vec::new();
    for (prompt, window) in QUESTIONS.into_iter().zip([0, 0, 1]) {
        let number = window as u64;
        let seen =
            PrefixFrame { camera: "gate".into(), run: 1, number, slow: true, reencoded: false };
        let request = Request {
            video: &video(window),
            prefix_frames: Some([seen].into()),
            jpegs: None,
            task: Task::Text {
                turns: &[],
                prompt,
                limits: Limits { max_new_tokens: 12, sampling: Sampling::Greedy },
                schema: None,
            },
            urgency: Urgency::Now,
        };
        ids.push(language.submit(request).expect("a free slot").id);
    }
    let mut ends = BTreeMap::new();
    for _ in 0..200 {
        let polled = language.poll(&mut |id, output| match output {
            Output::Text(_) | Output::Scored(_) => {}
            Output::Finished(reply) => drop(ends.insert(id, Ok(reply.ids))),
            Output::Failed(failure) => drop(ends.insert(id, Err(failure))),
        });
        polled.expect("a step");
    }
    assert_eq!(language.sequences(), 0);
    ids.iter().map(|id| ends.remove(id).expect("an end")).collect()
}

/// Tests every run in turn.
#[test]
fn a_failed_run_ends_only_its_own_sequences() {
    let mut language = language();
    let wanted = ask(&mut language);
    assert!(wanted.iter().all(Result::is_ok), "{wanted:?}");
    assert!(wanted[0] != wanted[1] && wanted[1] != wanted[2], "{wanted:?}");
    let mut spoilt = 0;
    for how in [Spoil::Fails, Spoil::NotFinite] {
        for after in 0..40 {
            // The cached prefixes of the windows are also computed again now and then.
            if after % 3 == 0 {
                language.batch.prefixes.make_room(1 << 24);
            }
            language.batch.decoder.spoils = Some(Spoils { after, how });
            let ends = ask(&mut language);
            language.batch.decoder.spoils = None;
            for (end, wanted) in ends.iter().zip(&wanted) {
                match (end, how) {
                    (Ok(_), _) => assert_eq!(end, wanted, "{how:?} after {after}"),
                    (Err(Failure::Run(_)), Spoil::Fails) => spoilt += 1,
                    (Err(Failure::NotFinite), Spoil::NotFinite) => spoilt += 1,
                    (Err(failure), _) => panic!("{how:?} after {after}: {failure}"),
                }
            }
            assert_eq!(ask(&mut language), wanted, "after {how:?} after {after}");
        }
    }
    assert!(spoilt > 40, "{spoilt}");
}
