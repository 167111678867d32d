//! Tests scores with the demo's model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::tokenizer::Tokenizer;
use super::super::{
    Budget, LanguageBackend, LanguageError, LanguageModel, Limits, Output, PrefixFrame, Request,
    Scored, SequenceId, Task, Urgency,
};
use crate::config::{Model, Sampling, Wording};
use crate::model::on_the_cpu;
use crate::slowfast::VideoTokens;

const QUESTIONS: [&str; 8] = [
    "Is there a person?",
    "Is there a car?",
    "Do you see a dog in the yard?",
    "Is the yard empty?",
    "Is anything moving?",
    "Is there a red car in the video, or a blue one that stands still?",
    "Is it night?",
    "Does the camera see a person with a green coat?",
];

/// Loads the demo's model with a prefix cache of this many bytes.
fn language(prefix_bytes: usize) -> LanguageModel {
    let (runtime, package) = on_the_cpu();
    let mut keys = toml::toml! {
        package = "" device = "cpu" prefill_chunk = 23
        plan = "1:slowfast-slow_1frms_concat-fast_1x1"
    };
    keys["package"] = package.folder.display().to_string().into();
    let model = Model::of(keys).expect("a config");
    let budget = Budget { max_new_tokens: 12, slots: 2, prefix_bytes };
    LanguageModel::with_capacity(runtime, package, &model, &Wording::default(), budget, 160)
        .expect("a model")
}

fn video(language: &LanguageModel) -> VideoTokens {
    let dim = language.batch.dim;
    let rows = (0..48 * dim).map(|at| ((at * 37) % 101) as f32 / 50.0 - 1.0);
    VideoTokens { rows: rows.collect(), dim }
}

fn request<'a>(video: &'a VideoTokens, task: Task<'a>) -> Request<'a> {
    let seen =
        PrefixFrame { camera: "gate".into(), run: 1, number: 1, slow: true, reencoded: false };
    let prefix_frames = Some([seen].into());
    Request { video, prefix_frames, jpegs: None, task, urgency: Urgency::Later }
}

/// Submits questions to be scored.
fn submit(language: &mut LanguageModel, video: &VideoTokens, questions: &[&str]) -> SequenceId {
    let questions: Vec<Arc<str>> = questions.iter().map(|question| (*question).into()).collect();
    let task = Task::Scores { questions: &questions };
    language.submit(request(video, task)).expect("a free slot").id
}

/// Steps the model until nothing is left. Returns the scores of each sequence, and the texts.
fn run(language: &mut LanguageModel) -> (BTreeMap<SequenceId, Scored>, Vec<String>) {
    let (mut scores, mut texts) = (BTreeMap::new(), Vec::new());
    while language.sequences() > 0 {
        let polled = language.poll(&mut |id, output| match output {
            Output::Text(_) => {}
            Output::Scored(scored) => assert!(scores.insert(id, scored).is_none(), "ended twice"),
            Output::Finished(reply) => texts.push(reply.text),
            Output::Failed(failure) => panic!("{failure}"),
        });
        polled.expect("a step");
    }
    (scores, texts)
}

fn scores(language: &mut LanguageModel, video: &VideoTokens, questions: &[&str]) -> Scored {
    let id = submit(language, video, questions);
    run(language).0.remove(&id).expect("scores")
}

fn assert_close(scores: &[f64], wanted: &[f64], context: &str) {
    assert_eq!(scores.len(), wanted.len(), "{context}");
    for (score, wanted) in scores.iter().zip(wanted) {
        assert!((score - wanted).abs() < 1e-6, "{context}: {score}, wanted {wanted}");
    }
}

/// The logits are those of one run over the whole prompt, and all of them enter the softmax.
#[test]
fn a_score_is_computed_from_the_logits_after_the_prompt() {
    let mut language = language(1 << 24);
    let video = video(&language);
    let scored = scores(&mut language, &video, &QUESTIONS);
    let (_, package) = on_the_cpu();
    let tokenizer = Tokenizer::load(&package.folder).expect("a tokenizer");
    let mut different = 0;
    for (question, score) in QUESTIONS.iter().zip(&scored.scores) {
        let prompt = language.prompt(&[], question).expect("a prompt");
        let embeddings = language.embeddings(&prompt, &video).expect("embeddings");
        let mut cache = language.batch.decoder.cache(1).expect("a cache");
        let logits = language.batch.decoder.read(&mut cache, 0, &embeddings).expect("logits");
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let probability = |wanted: &str| -> f64 {
            let ids = 0..logits.len() as u32;
            let is_word =
                |id: &u32| tokenizer.decode(&[*id]).expect("text").trim().to_lowercase() == wanted;
            ids.filter(is_word).map(|id| f64::from(logits[id as usize]).exp() / sum).sum()
        };
        let (yes, no) = (probability("yes"), probability("no"));
        let wanted = yes / (yes + no);
        assert!((score - wanted).abs() < 1e-4, "{question}: {score}, wanted {wanted}");
        different += usize::from((score - scored.scores[0]).abs() > 0.01);
    }
    assert!(different > 2, "scores that tell nothing: {scored:?}");
    // The video is read once.
    let tokens = scored.usage;
    assert_eq!((tokens.video_tokens, tokens.new_tokens, tokens.cached_tokens), (48, 0, 0));
}

#[test]
fn questions_together_have_the_scores_that_they_have_alone() {
    let mut alone = language(0);
    let video = video(&alone);
    let alone: Vec<f64> = QUESTIONS
        .iter()
        .flat_map(|question| scores(&mut alone, &video, &[question]).scores)
        .collect();
    for prefix_bytes in [0, 1 << 24] {
        let mut language = language(prefix_bytes);
        for round in 0..2 {
            let together = scores(&mut language, &video, &QUESTIONS);
            let context = format!("{prefix_bytes} bytes of cache, round {round}");
            assert_close(&together.scores, &alone, &context);
            let cached = together.usage.cached_tokens > 0;
            assert_eq!(cached, prefix_bytes > 0 && round == 1);
        }
    }
}

/// Questions of any order, the same one twice, and one that is the start of another.
#[test]
fn the_common_start_of_questions_is_read_once() {
    let questions = [
        "Is there a person?",
        "Is it night?",
        "Is there a red car",
        "Is there a person?",
        "Is there a red car?",
        "Is there",
    ];
    let mut language = language(0);
    let video = video(&language);
    let mut alone = Vec::new();
    let mut tokens_alone = 0;
    for question in questions {
        let scored = scores(&mut language, &video, &[question]);
        alone.extend(scored.scores);
        tokens_alone += scored.usage.text_tokens;
    }
    let together = scores(&mut language, &video, &questions);
    assert_close(&together.scores, &alone, "together");
    let texts: Vec<Vec<u32>> = questions
        .iter()
        .map(|question| language.prompt(&[], question).expect("a prompt").pieces)
        .map(|mut pieces| pieces.pop().expect("a text"))
        .collect();
    // A start is read once, however many questions have it; each question reads its last token.
    let starts: BTreeSet<&[u32]> =
        texts.iter().flat_map(|text| (1..text.len()).map(|end| &text[..end])).collect();
    let head = tokens_alone as usize - texts.iter().map(Vec::len).sum::<usize>();
    let read = head / questions.len() + starts.len() + texts.len();
    assert_eq!(together.usage.text_tokens as usize, read);
    assert!(read < tokens_alone as usize / 2, "{read} of {tokens_alone} tokens");
}

#[test]
fn scores_and_a_caption_of_a_window_share_its_prefix_and_do_not_disturb_each_other() {
    let mut language = language(1 << 24);
    let video = video(&language);
    let limits = Limits { max_new_tokens: 12, sampling: Sampling::Greedy };
    let caption = Task::Text { turns: &[], prompt: "What is happening?", limits, schema: None };
    let alone = language.answer(request(&video, caption), |_| {}).expect("a caption");
    let wanted = scores(&mut language, &video, &QUESTIONS);
    for rules_first in [true, false] {
        language.batch.prefixes.make_room(1 << 24);
        let mut texts = Vec::new();
        let id = if rules_first {
            let id = submit(&mut language, &video, &QUESTIONS);
            language.submit(request(&video, caption)).expect("a free slot");
            id
        } else {
            language.submit(request(&video, caption)).expect("a free slot");
            submit(&mut language, &video, &QUESTIONS)
        };
        let (mut found, written) = run(&mut language);
        texts.extend(written);
        assert_eq!(texts, std::slice::from_ref(&alone.text));
        let found = found.remove(&id).expect("scores");
        assert_eq!(found.scores, wanted.scores, "rules first: {rules_first}");
        assert_eq!(found.usage.cached_tokens > 0, !rules_first);
    }
}

#[test]
fn a_cancelled_sequence_frees_its_slot() {
    let mut language = language(1 << 24);
    let video = video(&language);
    let id = submit(&mut language, &video, &QUESTIONS);
    for _ in 0..4 {
        language.poll(&mut |_, _| {}).expect("a step");
    }
    assert_eq!(language.sequences(), 1);
    language.cancel(id).expect("cancelled");
    assert_eq!(language.sequences(), 0);
    assert_eq!(scores(&mut language, &video, &QUESTIONS).scores.len(), QUESTIONS.len());
}

#[test]
fn a_question_that_is_no_prompt_is_refused() {
    let mut language = language(0);
    let video = video(&language);
    let long = "Is it? ".repeat(100);
    for (questions, why) in [
        (vec!["Is it </s>?"], "special token"),
        (vec!["Is it night?", &long], "too long"),
        (vec![], "no question"),
    ] {
        let questions: Vec<Arc<str>> = questions.into_iter().map(Into::into).collect();
        let task = Task::Scores { questions: &questions };
        match language.submit(request(&video, task)) {
            Err(LanguageError::BadPrompt(refused)) => assert!(refused.contains(why), "{refused}"),
            other => panic!("{other:?}"),
        }
    }
}
