//! Runs the graph that converts token ids to embeddings. It stays on the CPU, whatever the device:
//! it only copies rows of a table to host memory, where the prompt is assembled.

use ort::value::{Tensor, TensorElementType as Element};

use super::stopwatch::{Lap, Stopwatch};
use super::tokenizer::Prompt;
use crate::model::{Float, GraphKind, ModelError, Numbers, Package, Runtime, Session, TensorError};
use crate::slowfast::VideoTokens;

pub struct Embedder {
    session: Session,
    pub(super) stopwatch: Stopwatch,
    float: Float,
}

impl Embedder {
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        threads: usize,
    ) -> Result<Embedder, ModelError> {
        let graph = package.graph(GraphKind::Embed)?;
        graph.facts()?;
        let session = runtime.host_session(&graph.file, threads)?;
        session.input("input_ids", Element::Int64)?;
        session.only_inputs(|name| name == "input_ids")?;
        let (_, float) = session.float_output("inputs_embeds")?;
        Ok(Embedder { session, stopwatch: Stopwatch::default(), float })
    }

    /// Returns the embeddings `[n, D]` of the ids.
    pub fn embed(&mut self, ids: &[u32]) -> Result<Vec<f32>, TensorError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.run(ids).map_err(|e| self.session.error(e))
    }

    /// Returns a prompt's embeddings `[n, D]` in the type that the decoder takes, with the video's
    /// rows in their place.
    pub fn prompt(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
        float: Float,
    ) -> Result<Numbers, TensorError> {
        let mut rows = float.room(prompt.tokens(video.len()) * video.dim);
        for (at, piece) in prompt.pieces.iter().enumerate() {
            if at > 0 {
                let begun = self.stopwatch.now();
                rows.extend(&video.rows);
                self.stopwatch.add(Lap::Prompt, begun);
            }
            rows.extend(&self.embed(piece)?);
        }
        Ok(rows)
    }

    fn run(&mut self, ids: &[u32]) -> ort::Result<Vec<f32>> {
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let input = Tensor::from_array(([1, ids.len()], ids))?;
        let begun = self.stopwatch.now();
        let outputs = self.session.session.run(ort::inputs!["input_ids" => input])?;
        self.stopwatch.add(Lap::Call, begun);
        Ok(self.float.values(&outputs["inputs_embeds"])?.1)
    }
}
