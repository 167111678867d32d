//! What an ONNX file says of itself that onnxruntime does not tell: its operators' types and its
//! initialisers' shapes. Read with a few fields of onnx.proto3; everything else is skipped.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use prost::Message;

use super::ModelError;

pub struct GraphFacts {
    pub operators: HashSet<String>,
    pub initialisers: HashMap<String, Vec<i64>>,
}

impl GraphFacts {
    pub fn read(file: &Path) -> Result<GraphFacts, ModelError> {
        let wrong = |why: String| ModelError(format!("model file {}: {why}", file.display()));
        let handle = File::open(file).map_err(|e| wrong(e.to_string()))?;
        // SAFETY: the map is read here and now; whoever cuts the file meanwhile cuts the model off.
        let bytes = unsafe { memmap2::Mmap::map(&handle) }.map_err(|e| wrong(e.to_string()))?;
        let model = ModelProto::decode(&*bytes)
            .map_err(|e| wrong(format!("not a whole ONNX file: {e}")))?;
        let graph = model.graph.ok_or_else(|| wrong("holds no graph".into()))?;
        Ok(GraphFacts {
            operators: graph.node.into_iter().map(|node| node.op_type).collect(),
            initialisers: graph.initializer.into_iter().map(|t| (t.name, t.dims)).collect(),
        })
    }
}

#[derive(Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
}

#[derive(Message)]
struct NodeProto {
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
}
