//! Times searches by meaning, over vectors of made-up directions: a real model would take an hour for
//! a million of them, and a search does not depend on what they stand for.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::search::{QUERIES, filter, query};
use crate::bench::times::Times;
use crate::config;
use crate::embedding::{EmbeddingError, SentenceModel, TextEmbedder};
use crate::journal::{Journal, SearchMode, SearchPage};
use crate::model::Runtime;

/// Length of the vectors, that of all-MiniLM-L6-v2.
const DIMENSIONS: usize = 384;

/// Number of searches for each query and mode.
const ROUNDS: usize = 5;

/// Longest time for making or loading all vectors.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
pub struct SearchedByMeaning {
    /// Number of captions, each with a vector for the whole and for each of its statements.
    pub captions: u64,
    /// Time in which the vectors were made and stored.
    pub stored_seconds: f64,
    /// Time in which they were loaded into memory at a start.
    pub loaded_seconds: f64,
    pub meaning: Times,
    pub fused: Times,
}

/// A text's vector is the sum of those of its words, which are random.
pub struct WordSums;

impl TextEmbedder for WordSums {
    fn id(&self) -> &str {
        "bench"
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbeddingError> {
        let mut sum = vec![0.01; DIMENSIONS];
        for word in text.split_whitespace() {
            let mut hasher = DefaultHasher::new();
            word.hash(&mut hasher);
            let mut random = StdRng::seed_from_u64(hasher.finish());
            sum.iter_mut().for_each(|value| *value += random.random_range(-1.0..1.0_f32));
        }
        let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        Ok(sum.into_iter().map(|value| value / length).collect())
    }
}

/// Times a real model on the queries, on the CPU with one thread as in the daemon.
pub fn query_vector(folder: &Path) -> anyhow::Result<Times> {
    // Only onnxruntime is loaded, not the package.
    let package = folder.to_str().context("the folder's name is not UTF-8")?;
    let keys = [("device", "cpu"), ("package", package)];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
    let runtime = Runtime::load(&config::Model::of(keys)?)?;
    let mut model = SentenceModel::load(&runtime, folder)?;
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        for (words, _) in QUERIES {
            let begun = Instant::now();
            model.embed(words)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    Times::of(seconds).context("no query")
}

/// Waits until every event has its vector in memory. Returns the time.
pub async fn complete(journal: &dyn Journal) -> anyhow::Result<f64> {
    let begun = Instant::now();
    loop {
        let page = search(journal, 0, SearchMode::Meaning).await?;
        let meaning = page.coverage.meaning.context("no search by meaning")?;
        ensure!(meaning.since.is_none(), "not all vectors have room in memory");
        if meaning.without_vector == 0 && !meaning.is_loading {
            return Ok(begun.elapsed().as_secs_f64());
        }
        ensure!(begun.elapsed() < PATIENCE, "the vectors take longer than {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Times searches in a mode.
pub async fn measure(journal: &dyn Journal, mode: SearchMode) -> anyhow::Result<Times> {
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        for number in 0..QUERIES.len() {
            let begun = Instant::now();
            let page = search(journal, number, mode).await?;
            seconds.push(begun.elapsed().as_secs_f64());
            ensure!(!page.hits.is_empty(), "nothing was found");
        }
    }
    Times::of(seconds).context("no search")
}

async fn search(
    journal: &dyn Journal,
    number: usize,
    mode: SearchMode,
) -> anyhow::Result<SearchPage> {
    let (words, wanted) = QUERIES[number];
    Ok(journal.search(query(words, filter(wanted), mode)).await?)
}
