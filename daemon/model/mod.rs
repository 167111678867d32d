//! A model package on disk, and onnxruntime, which runs its graphs.

mod graph;
mod package;
mod rope;
mod runtime;

pub use graph::GraphFacts;
pub use package::{GraphKind, Package, Rope, TextModel, VisionModel};
pub use rope::RotaryTables;
pub use runtime::{Runtime, Session, Tensor, TensorError};

/// One sentence that names the file or tensor, what was wanted and what was found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);
