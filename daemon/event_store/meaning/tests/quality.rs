//! Measures how many captions the search finds for questions in other words: twice 200 questions
//! about 400 captions of rendered scenes, made by `models/demo/search_questions.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{append, by_meaning, found, sequences};
use crate::embedding::SentenceModel;
use crate::event_store::tests::{RUN, settings};
use crate::event_store::{EventStore, MeaningSearch};
use crate::journal::{Journal, SearchMode, SearchQuery};
use crate::model::on_the_cpu;

#[derive(Deserialize)]
struct Labelled {
    captions: Vec<String>,
    questions: Vec<Question>,
    /// Questions in rarer words, for which nothing was tuned.
    rare_questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    /// The group of the question.
    about: String,
    text: String,
    /// Indices of the captions that it is about.
    captions: Vec<usize>,
}

/// Number of results of which the right ones are counted.
const FIRST: usize = 10;

/// Groups of questions that name who or what there was, in which colour.
const THINGS: [&str; 3] = ["thing", "coloured", "empty"];

#[tokio::test]
async fn captions_are_found_by_other_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("models/demo/search-questions.json");
    let labelled: Labelled = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let sets = [("usual words", &labelled.questions), ("rare words", &labelled.rare_questions)];
    assert!(labelled.captions.len() == 400 && sets.iter().all(|(_, set)| set.len() == 200));
    let model =
        SentenceModel::load(&on_the_cpu().0, &root.join("target/embedding/all-MiniLM-L6-v2"));
    let meaning =
        MeaningSearch { embedder: Box::new(model.expect("run `make setup`")), bytes: 1 << 20 };
    let folder = tempfile::tempdir().unwrap();
    let journal =
        EventStore::open(settings(&folder)).unwrap().with_meaning(meaning).journal(RUN).unwrap();
    append(&*journal, &labelled.captions.iter().map(String::as_str).collect::<Vec<_>>());
    found(&*journal, SearchQuery { limit: 1_000, ..by_meaning("a car") }, 400).await;

    let [usual, rare] = [recall_of(&*journal, sets[0]).await, recall_of(&*journal, sets[1]).await];
    assert!(usual.of_things >= 95.0, "{usual:?}");
    // The last percent depends on the processor, which decides how 8-bit weights are multiplied.
    assert!(usual.all >= 94.5 && rare.all >= 80.0, "{usual:?} {rare:?}");
}

/// Shares of captions that were found by meaning, in percent.
#[derive(Debug)]
struct Recall {
    of_things: f64,
    all: f64,
}

/// Searches for every question of a set, and prints the recall by meaning and by words, per group.
async fn recall_of(journal: &dyn Journal, (name, questions): (&str, &Vec<Question>)) -> Recall {
    let mut groups: BTreeMap<&str, Vec<[f64; 2]>> = BTreeMap::new();
    for question in questions {
        let mut recall = [0.0; 2];
        for (recall, mode) in recall.iter_mut().zip([SearchMode::Meaning, SearchMode::Words]) {
            let query =
                SearchQuery { mode: Some(mode), limit: FIRST, ..by_meaning(&question.text) };
            let page = journal.search(query).await.unwrap();
            let is_right = |sequence: &u64| question.captions.contains(&(*sequence as usize - 1));
            let right = sequences(&page).iter().filter(|sequence| is_right(sequence)).count();
            *recall = right as f64 / question.captions.len().min(FIRST) as f64;
        }
        groups.entry(&question.about).or_default().push(recall);
    }
    let mean = |recalls: &[&[f64; 2]], mode: usize| {
        recalls.iter().map(|recall| recall[mode]).sum::<f64>() / recalls.len() as f64
    };
    let report = |name: &str, recalls: &[&[f64; 2]]| {
        let (by_meaning, by_words) = (mean(recalls, 0) * 100.0, mean(recalls, 1) * 100.0);
        let questions = recalls.len();
        println!(
            "{name:20} {questions:4} questions: {by_meaning:5.1} % by meaning, {by_words:5.1} % by words"
        );
        by_meaning
    };
    println!("recall@{FIRST}, {name}");
    for (about, recalls) in &groups {
        report(about, &recalls.iter().collect::<Vec<_>>());
    }
    let things: Vec<_> = THINGS.iter().flat_map(|about| &groups[about]).collect();
    let of_things = report("who, what, colour", &things);
    Recall { of_things, all: report("all", &groups.values().flatten().collect::<Vec<_>>()) }
}
