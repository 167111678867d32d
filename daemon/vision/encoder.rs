//! Runs the vision graph: the vision tower (CLIP or SigLIP) and the projector.

use std::time::{Duration, Instant};

use ort::value::TensorRef;

use crate::model::{
    Component, Float, GraphKind, ModelError, Package, Placement, Processor, Runtime, Session,
    TensorError,
};

/// Frames per run on a GPU. On a CPU a run has one frame: more frames do not help, and with
/// dynamically quantised activations a frame's features would depend on its neighbours.
pub const BATCH: usize = 8;

pub struct Encoder {
    session: Session,
    pixels: Float,
    features: Float,
    /// Frames per run.
    batch: usize,
    image_size: usize,
    grid_tokens: usize,
    /// Width of the language model's embeddings.
    dim: usize,
}

/// The projected features of a batch.
pub struct Encoded {
    /// `[B, N, D]`
    pub features: Vec<f32>,
    pub took: Duration,
}

impl Encoder {
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        threads: usize,
    ) -> Result<Encoder, ModelError> {
        let graph = package.graph(GraphKind::Vision)?;
        graph.facts()?;
        let session = runtime.session(Component::Vision, &graph.file, threads, Vec::new())?;
        session.only_inputs(|name| name == "pixel_values")?;
        let (declared, pixels) = session.float_input("pixel_values")?;
        let size = package.vision.image_size as i64;
        let fits = |(side, wanted): (&i64, &[i64])| *side < 0 || wanted.contains(side);
        let wanted: [&[i64]; 4] = [&[1], &[3], &[size], &[size]];
        if declared.shape.len() != 4 || !declared.shape.iter().zip(wanted).all(fits) {
            return Err(ModelError::from(session.error(format!(
                "pixel_values {:?}: config.json and a frame at a time want [any or 1, 3, {size}, {size}]",
                declared.shape
            ))));
        }
        let batch = match session.placement.processor {
            Processor::Cuda if declared.shape[0] < 0 => BATCH,
            _ => 1,
        };
        let mut encoder = Encoder {
            batch,
            pixels,
            features: session.float_output("image_features")?.1,
            session,
            image_size: package.vision.image_size,
            grid_tokens: package.vision.grid_tokens,
            dim: package.text.hidden_size,
        };
        // Shapes in the graph are symbolic, so only a run shows the actual ones.
        encoder.encode(&vec![0.0; encoder.frame_len()])?;
        Ok(encoder)
    }

    /// Returns the number of values in one frame's `pixel_values` `[3, size, size]`.
    pub fn frame_len(&self) -> usize {
        3 * self.image_size * self.image_size
    }

    pub fn placement(&self) -> &Placement {
        &self.session.placement
    }

    pub fn grid_tokens(&self) -> usize {
        self.grid_tokens
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Encodes `pixels` `[B, 3, size, size]`, with B from 1 to [`BATCH`].
    pub fn encode(&mut self, pixels: &[f32]) -> Result<Encoded, TensorError> {
        let begun = Instant::now();
        let mut features = Vec::new();
        for pixels in pixels.chunks(self.batch * self.frame_len()) {
            let more = self.checked(pixels)?;
            // Usually one run has all frames. Its result is not copied: megabytes for each frame.
            if features.is_empty() { features = more } else { features.extend(more) }
        }
        Ok(Encoded { features, took: begun.elapsed() })
    }

    fn checked(&mut self, pixels: &[f32]) -> Result<Vec<f32>, TensorError> {
        let (shape, features) = self.run(pixels).map_err(|e| self.session.error(e))?;
        let (frames, tokens) = (pixels.len() / self.frame_len(), self.grid_tokens);
        let wanted = [frames as i64, tokens as i64, self.dim as i64];
        // Some exports return the tokens of all frames in one dimension.
        let flat = [(frames * tokens) as i64, self.dim as i64];
        if shape != wanted && shape != flat {
            return Err(self
                .session
                .error(format!("image_features came as {shape:?}; config.json says {wanted:?}")));
        }
        Ok(features)
    }

    fn run(&mut self, pixels: &[f32]) -> ort::Result<(Vec<i64>, Vec<f32>)> {
        let size = self.image_size;
        let shape = [pixels.len() / self.frame_len(), 3, size, size];
        let session = &mut self.session.session;
        let outputs = match self.pixels {
            Float::F32 => {
                let input = TensorRef::from_array_view((shape, pixels))?;
                session.run(ort::inputs!["pixel_values" => input])?
            }
            Float::F16 => {
                let input = self.pixels.tensor(&shape, pixels)?;
                session.run(ort::inputs!["pixel_values" => input])?
            }
        };
        self.features.values(&outputs["image_features"])
    }
}
