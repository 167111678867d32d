//! The search by meaning with real files, and a model that knows a few synonyms. `quality` has the
//! real model.

mod quality;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::embedding::{EmbeddingError, TextEmbedder};
use crate::event::{Body, EventId};
use crate::event_store::database::{Database, RowChange};
use crate::event_store::meaning::table::{self, NewVectors};
use crate::event_store::meaning::{Meaning, Vector, WAITING_SEARCHES};
use crate::event_store::tests::{RUN, caption, searched, settings};
use crate::event_store::{EventStore, MeaningSearch};
use crate::frame::Span;
use crate::journal::{
    EventFilter, Journal, MemoryJournal, QueryError, SearchMode, SearchPage, SearchQuery,
};
use crate::sync::lock;

/// Words with a meaning, one dimension each.
const MEANINGS: [&[&str]; 4] =
    [&["car", "automobile"], &["red", "crimson"], &["dog", "hound"], &["walks", "strolls"]];

/// A model that counts words of the same meaning, and refuses "poison".
#[derive(Clone)]
struct Synonyms {
    id: String,
    is_broken: bool,
    /// Texts in the order in which they were embedded.
    embedded: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Synonyms {
    fn new(id: &str) -> Synonyms {
        Synonyms { id: id.into(), is_broken: false, embedded: Arc::default() }
    }

    fn embedded(&self) -> Vec<String> {
        lock(&self.embedded).clone()
    }
}

impl TextEmbedder for Synonyms {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimensions(&self) -> usize {
        MEANINGS.len() + 1
    }

    fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbeddingError> {
        if self.is_broken || text.contains("poison") {
            return Err(EmbeddingError("the model failed".into()));
        }
        lock(&self.embedded).push(text.into());
        let means = |words: &&[&str]| words.iter().any(|word| text.contains(word));
        let mut vector: Vec<f32> =
            MEANINGS.iter().map(|words| f32::from(u8::from(means(words)))).collect();
        vector.push(0.1);
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        Ok(vector.into_iter().map(|value| value / length).collect())
    }
}

fn begin(folder: &TempDir, run: u64, model: &Synonyms) -> Arc<dyn Journal> {
    let meaning = MeaningSearch { embedder: Box::new(model.clone()), bytes: 1 << 20 };
    EventStore::open(settings(folder)).unwrap().with_meaning(meaning).journal(run).unwrap()
}

fn append(journal: &dyn Journal, texts: &[&str]) {
    for text in texts {
        journal.append("gate".into(), caption(text));
    }
    journal.flush();
}

fn by_meaning(text: &str) -> SearchQuery {
    SearchQuery { mode: Some(SearchMode::Meaning), ..searched(text) }
}

fn sequences(page: &SearchPage) -> Vec<u64> {
    page.hits.iter().map(|hit| hit.event.id.sequence).collect()
}

/// Searches until `hits` events are found.
async fn found(journal: &dyn Journal, query: SearchQuery, hits: usize) -> SearchPage {
    for _ in 0..1_000 {
        let page = journal.search(query.clone()).await.unwrap();
        if page.hits.len() == hits {
            return page;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{hits} results were expected");
}

const TEXTS: [&str; 3] = ["A red car waits.", "A dog runs.", "A person walks."];

#[tokio::test]
async fn texts_are_found_by_their_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN, &Synonyms::new("a"));
    append(&*journal, &TEXTS);
    let page = found(&*journal, by_meaning("a crimson automobile"), 3).await;
    assert_eq!(page.hits[0].event.id.sequence, 1);
    assert!(page.hits[0].similarity > Some(0.9) && page.hits[1].similarity < Some(0.1), "{page:?}");
    assert_eq!(page.hits[0].snippet, "A red car waits.");
    assert_eq!((page.hits[0].words_rank, page.hits[0].meaning_rank), (None, Some(1)));
    assert_eq!(page.coverage.meaning.map(|meaning| meaning.without_vector), Some(0));

    // Both searches together are the usual mode.
    let page = journal.search(searched("dog")).await.unwrap();
    assert_eq!(page.mode, SearchMode::Fused);
    assert_eq!((sequences(&page)[0], page.hits[0].snippet.as_str()), (2, "A [dog] runs."));
    assert_eq!((page.hits[0].words_rank, page.hits[0].meaning_rank), (Some(1), Some(1)));
    let words = SearchQuery { mode: Some(SearchMode::Words), ..searched("dog") };
    assert_eq!(sequences(&journal.search(words).await.unwrap()), [2]);
    let other = EventFilter { cameras: vec!["yard".into()], ..EventFilter::default() };
    let page = journal.search(SearchQuery { filter: other, ..by_meaning("dog") }).await.unwrap();
    assert!(page.hits.is_empty());
    let pages = SearchQuery { offset: 1, limit: 1, ..by_meaning("hound") };
    let page = journal.search(pages).await.unwrap();
    assert!(page.hits.len() == 1 && page.more, "{page:?}");
}

#[tokio::test]
async fn vectors_outlive_the_daemon_and_belong_to_a_model() {
    let folder = tempfile::tempdir().unwrap();
    // Without a model, events wait for their vectors.
    let journal = EventStore::open(settings(&folder)).unwrap().journal(RUN).unwrap();
    append(&*journal, &TEXTS);
    drop(journal);

    let model = Synonyms::new("a");
    let journal = begin(&folder, RUN + 1, &model);
    found(&*journal, by_meaning("hound"), 3).await;
    drop(journal);
    let embedded: Vec<_> = model.embedded().into_iter().filter(|text| text != "hound").collect();
    assert_eq!(embedded, [TEXTS[2], TEXTS[1], TEXTS[0]], "the newest is not first");

    let again = Synonyms::new("a");
    let journal = begin(&folder, RUN + 2, &again);
    found(&*journal, by_meaning("hound"), 3).await;
    drop(journal);
    assert!(again.embedded().iter().all(|text| text == "hound"), "{:?}", again.embedded());

    let other = Synonyms::new("b");
    let journal = begin(&folder, RUN + 3, &other);
    found(&*journal, by_meaning("hound"), 3).await;
    assert!(other.embedded().iter().any(|text| text == TEXTS[0]));
}

#[tokio::test]
async fn each_statement_of_a_text_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for run in [RUN, RUN + 1] {
        let journal = begin(&folder, run, &Synonyms::new("a"));
        if run == RUN {
            append(&*journal, &["A red car waits, then a dog runs.", "A red dog."]);
        }
        for (text, sequence) in [("a hound", 1), ("a crimson automobile", 1), ("a red hound", 2)] {
            let page = found(&*journal, by_meaning(text), 2).await;
            assert_eq!(page.hits[0].event.id.sequence, sequence, "{text}");
            assert!(page.hits[0].similarity > Some(0.9), "{text}: {page:?}");
        }
    }
}

#[tokio::test]
async fn a_text_that_the_model_refuses_delays_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let journal = begin(&folder, RUN, &Synonyms::new("a"));
    append(&*journal, &["A red car.", "poison", "A dog."]);
    let page = found(&*journal, by_meaning("hound"), 2).await;
    assert_eq!(sequences(&page), [3, 1]);
    assert_eq!(journal.trouble(), None);
    let refused = journal.search(by_meaning("poison")).await;
    assert_eq!(refused, Err(QueryError::NoVector("the model failed".into())));
}

#[tokio::test]
async fn a_broken_model_is_reported_and_words_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let model = Synonyms { is_broken: true, ..Synonyms::new("a") };
    let journal = begin(&folder, RUN, &model);
    append(&*journal, &TEXTS);
    for _ in 0..1_000 {
        if journal.trouble().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(journal.trouble(), Some("search by meaning: the model failed".into()));
    let words = SearchQuery { mode: Some(SearchMode::Words), ..searched("dog") };
    let page = journal.search(words).await.unwrap();
    assert_eq!(sequences(&page), [2]);
    assert_eq!(page.coverage.meaning.map(|meaning| meaning.without_vector), Some(3));
}

#[test]
fn vectors_leave_with_their_events() {
    let folder = tempfile::tempdir().unwrap();
    let path = settings(&folder).folder;
    std::fs::create_dir_all(&path).unwrap();
    let mut database = Database::open(&path).unwrap();
    let changes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = changes.clone();
    database.watch("vectors", move |change| lock(&seen).push(change)).unwrap();
    let memory = MemoryJournal::new(RUN, 10);
    let events = TEXTS.map(|text| memory.append("gate".into(), caption(text)));
    database.append(events.iter().map(|event| (&**event, Vec::new()))).unwrap();
    let bytes = Vector::new(&[0.6, 0.8]).bytes();
    let vector =
        |sequence| NewVectors { event: EventId { run: RUN, sequence }, bytes: bytes.clone() };
    // The fourth event does not exist.
    database.write(|c| table::store(c, &[vector(1), vector(2), vector(4)])).unwrap();
    let pending = |database: &mut Database| {
        let mut pending = Vec::new();
        let read = |c: &rusqlite::Connection| {
            pending.extend(table::pending(c, 10)?.into_iter().map(|event| event.event.sequence));
            Ok(())
        };
        database.write(read).unwrap();
        pending
    };
    assert_eq!(pending(&mut database), [3]);
    assert_eq!(database.delete_over(0), Ok(3));
    assert!(pending(&mut database).is_empty());
    let expected = [
        RowChange::Inserted(1),
        RowChange::Inserted(2),
        RowChange::Deleted(1),
        RowChange::Deleted(2),
    ];
    assert_eq!(*lock(&changes), expected);
}

#[tokio::test]
async fn a_search_reports_the_time_for_which_there_are_captions() {
    let folder = tempfile::tempdir().unwrap();
    let journal = EventStore::open(settings(&folder)).unwrap().journal(RUN).unwrap();
    let now = SystemTime::now();
    let ago = |minutes: u64| now - Duration::from_secs(60 * minutes);
    // A window per minute from 60 to 40 and from 20 to 0 minutes ago, and one of another camera.
    let window = |camera: &str, from: u64| {
        let Body::Caption(mut caption) = caption("A car.") else { panic!("a caption") };
        let length = Duration::from_secs(60);
        caption.inference.window = Span { from: ago(from), to: ago(from) + length };
        journal.append(camera.into(), Body::Caption(caption));
    };
    (41..=60).rev().chain((1..=20).rev()).for_each(|minutes| window("gate", minutes));
    window("yard", 7);
    journal.flush();
    let recorded = async |since: u64, cameras: &[&str]| -> Vec<(String, u64)> {
        let cameras = cameras.iter().map(|camera| (*camera).to_owned()).collect();
        let filter = EventFilter { cameras, since: Some(ago(since)), ..EventFilter::default() };
        let page = journal.search(SearchQuery { filter, ..searched("car") }).await.unwrap();
        let minutes = |camera: &crate::journal::CameraCoverage| {
            (camera.camera.clone(), (camera.recorded.as_secs() + 30) / 60)
        };
        page.coverage.cameras.iter().map(minutes).collect::<Vec<_>>()
    };
    assert_eq!(recorded(60, &[]).await, [("gate".into(), 40), ("yard".into(), 1)]);
    assert_eq!(recorded(30, &["gate", "attic"]).await, [("attic".into(), 0), ("gate".into(), 20)]);
}

#[test]
fn a_search_beyond_the_limit_is_refused() {
    // No thread takes the searches.
    let meaning = Meaning::new(&Synonyms::new("model"), 1 << 20);
    let begin = || {
        let mut search = Box::pin(meaning.embed("a car".into()));
        let polled = search.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        (search, polled)
    };
    let waiting: Vec<_> = (0..WAITING_SEARCHES).map(|_| begin()).collect();
    assert!(waiting.iter().all(|(_, polled)| polled.is_pending()));
    let (_, refused) = begin();
    let full = Poll::Ready(Err(QueryError::QueueFull(WAITING_SEARCHES)));
    assert!(refused == full, "{refused:?}");
}
