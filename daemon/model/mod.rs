//! Reads a model package from disk and runs its graphs with onnxruntime.

mod assignment;
mod cuda;
mod device;
mod driver;
mod family;
mod floats;
mod graph;
mod memory;
mod package;
mod pieces;
mod quiet;
mod rope;
mod runtime;

pub use device::{Component, Devices, Placement, Processor};
pub use family::{Family, TextKind, TextModel, Tower, VisionModel};
pub use floats::{Float, Numbers, NumbersRef};
pub use graph::{Element, GraphFacts};
pub use memory::Memory;
pub use package::{Graph, GraphKind, Package, PreprocessorConfig};
pub use pieces::{Layout, Pieces};
pub use quiet::no_telemetry;
pub use rope::{RotaryTables, Scaling};
#[cfg(test)]
pub(crate) use runtime::tests::on_the_cpu;
pub use runtime::{Runtime, Session, Tensor, TensorError, host_memory};

/// An error as one sentence that names the file or tensor, the expected value and the value found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);
