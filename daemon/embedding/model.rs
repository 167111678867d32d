//! Runs a sentence-embedding model: usual colours, tokenizer, graph, pooling, layers, and scaling to
//! length 1.
//!
//! Guarantee: each text is a run of its own, so that its vector does not depend on other texts.

use std::path::Path;

use ort::value::{Tensor, TensorElementType as Element};
use tokenizers::{Tokenizer, TruncationParams};

use super::colours::with_usual_colours;
use super::dense::Dense;
use super::folder::{ModelFolder, Pooling};
use super::{EmbeddingError, TextEmbedder};
use crate::model::{Float, ModelError, Runtime, Session, TensorError};

/// Names of the output with the vectors of a text's tokens.
const OUTPUTS: &[&str] = &["last_hidden_state", "token_embeddings"];

const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// A sentence-embedding model on the CPU.
pub struct SentenceModel {
    session: Session,
    tokenizer: Tokenizer,
    pooling: Pooling,
    layers: Vec<Dense>,
    output: (&'static str, Float),
    /// True if the graph wants `token_type_ids`.
    has_types: bool,
    dimensions: usize,
    id: String,
}

impl SentenceModel {
    /// Loads a model, and embeds a first text.
    pub fn load(runtime: &Runtime, folder: &Path) -> Result<SentenceModel, ModelError> {
        let ModelFolder { graph, tokenizer: file, pooling, tokens, layers, id } =
            ModelFolder::read(folder)?;
        let wrong = |why: String| ModelError(format!("{}: {why}", file.display()));
        let mut tokenizer = Tokenizer::from_file(&file).map_err(|e| wrong(e.to_string()))?;
        let truncation = TruncationParams { max_length: tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| wrong(e.to_string()))?;
        tokenizer.with_padding(None);
        // A thread of onnxruntime would have the normal priority.
        let session = runtime.host_session(&graph, 1)?;
        session.only_inputs(|name| INPUTS.contains(&name))?;
        for name in &INPUTS[..2] {
            session.input(name, Element::Int64)?;
        }
        let has_types = session.inputs().iter().any(|input| input.name == INPUTS[2]);
        let outputs = session.outputs();
        let output = OUTPUTS.iter().find(|name| outputs.iter().any(|output| output.name == **name));
        let output = *output.unwrap_or(&OUTPUTS[0]);
        let output = (output, session.float_output(output)?.1);
        let dimensions = 0;
        let mut model = SentenceModel {
            session,
            tokenizer,
            pooling,
            layers,
            output,
            has_types,
            dimensions,
            id,
        };
        model.dimensions = model.vector("A first text.").map_err(|e| ModelError(e.0))?.len();
        Ok(model)
    }

    fn vector(&mut self, text: &str) -> Result<Vec<f32>, EmbeddingError> {
        let encoding = self.tokenizer.encode_fast(with_usual_colours(text), true);
        let encoding =
            encoding.map_err(|e| EmbeddingError(format!("a text cannot be tokenised: {e}")))?;
        let ids: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        let tokens = ids.len();
        let run = self.run(ids);
        let failed = |e: &dyn ToString| {
            EmbeddingError(TensorError::to_string(&self.session.error(e.to_string())))
        };
        let (shape, values) = run.map_err(|e| failed(&e))?;
        let [1, rows, width] = shape[..] else {
            return Err(failed(&format!(
                "{} came as {shape:?}: wanted [1, tokens, width]",
                self.output.0
            )));
        };
        if rows != tokens as i64 || width == 0 || tokens == 0 {
            return Err(failed(&format!(
                "{} came as {shape:?} for {tokens} tokens",
                self.output.0
            )));
        }
        let mut vector = pool(&values, width as usize, self.pooling);
        for layer in &self.layers {
            if layer.inputs() != vector.len() {
                let (wanted, found) = (layer.inputs(), vector.len());
                return Err(failed(&format!(
                    "a Dense layer takes {wanted} numbers; it got {found}"
                )));
            }
            vector = layer.apply(&vector);
        }
        unit(vector).ok_or_else(|| failed(&"a vector is zero or not finite"))
    }

    fn run(&mut self, ids: Vec<i64>) -> ort::Result<(Vec<i64>, Vec<f32>)> {
        let shape = [1, ids.len()];
        let mask = Tensor::from_array((shape, vec![1_i64; ids.len()]))?;
        let types = Tensor::from_array((shape, vec![0_i64; ids.len()]))?;
        let ids = Tensor::from_array((shape, ids))?;
        let mut inputs = ort::inputs!["input_ids" => ids, "attention_mask" => mask];
        if self.has_types {
            inputs.push(("token_type_ids".into(), types.into()));
        }
        let outputs = self.session.session.run(inputs)?;
        let (name, float) = self.output;
        float.values(&outputs[name])
    }
}

impl TextEmbedder for SentenceModel {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbeddingError> {
        self.vector(text)
    }
}

/// Makes one vector of the rows of a text's tokens.
fn pool(rows: &[f32], width: usize, pooling: Pooling) -> Vec<f32> {
    if pooling == Pooling::First {
        return rows[..width].to_vec();
    }
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        std::iter::zip(&mut sum, row).for_each(|(sum, value)| *sum += value);
    }
    let count = (rows.len() / width) as f32;
    sum.iter_mut().for_each(|value| *value /= count);
    sum
}

/// Scales a vector to length 1. Returns `None` if it has no direction.
fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    vector.iter_mut().for_each(|value| *value /= length);
    Some(vector)
}
