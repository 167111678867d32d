//! Reads the facts of an ONNX file that onnxruntime does not report: its operators' types, its
//! initialisers, its rotary tables, and the files that contain its weights. Decodes a few fields of
//! onnx.proto3 and skips everything else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use prost::Message;

use super::ModelError;

pub struct GraphFacts {
    pub operators: HashSet<String>,
    pub initialisers: HashMap<String, Initialiser>,
    /// The names of the tables that attention uses: cosines, sines. Several pairs if layers differ.
    pub rotary: BTreeSet<(String, String)>,
    /// Files next to the graph that contain weights. Each is at least as long as needed.
    pub data_files: Vec<PathBuf>,
}

pub struct Initialiser {
    pub shape: Vec<i64>,
    pub element: Element,
}

/// An element type, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Float32,
    Float16,
    Other,
}

impl GraphFacts {
    /// Reads a file's facts. Refuses a file that is truncated, and one with truncated weights.
    pub fn read(file: &Path) -> Result<GraphFacts, ModelError> {
        let wrong = |why: String| ModelError(format!("model file {}: {why}", file.display()));
        let handle = File::open(file).map_err(|e| wrong(e.to_string()))?;
        // SAFETY: the map is only read within this function. A process that truncates the file in
        // the meantime truncates the model.
        let bytes = unsafe { memmap2::Mmap::map(&handle) }.map_err(|e| wrong(e.to_string()))?;
        let model = ModelProto::decode(&*bytes)
            .map_err(|e| wrong(format!("not a whole ONNX file: {e}")))?;
        let graph = model.graph.ok_or_else(|| wrong("holds no graph".into()))?;
        let rotary = graph.node.iter().filter_map(NodeProto::rotary_tables).collect();
        let data_files = whole_data_files(file, &graph.initializer)?;
        Ok(GraphFacts {
            operators: graph.node.into_iter().map(|node| node.op_type).collect(),
            rotary,
            data_files,
            initialisers: graph.initializer.into_iter().map(TensorProto::named).collect(),
        })
    }
}

/// Returns the files that contain weights, if each is as long as the graph needs.
fn whole_data_files(file: &Path, tensors: &[TensorProto]) -> Result<Vec<PathBuf>, ModelError> {
    let mut needed: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for tensor in tensors {
        let value = |key: &str| tensor.external_data.iter().find(|e| e.key == key);
        let Some(location) = value("location") else { continue };
        let number = |key: &str| value(key).and_then(|e| e.value.parse().ok()).unwrap_or(0u64);
        let end = number("offset").saturating_add(number("length"));
        let path = file.with_file_name(&location.value);
        let longest = needed.entry(path).or_default();
        *longest = end.max(*longest);
    }
    for (path, wanted) in &needed {
        let found = fs::metadata(path).map(|meta| meta.len());
        match found {
            Ok(found) if found >= *wanted => {}
            Ok(found) => {
                return Err(ModelError(format!(
                    "model file {}: {found} bytes; {} needs {wanted}: cut off?",
                    path.display(),
                    file.display()
                )));
            }
            Err(e) => {
                return Err(ModelError(format!(
                    "model file {}: {e}; {} has its weights there",
                    path.display(),
                    file.display()
                )));
            }
        }
    }
    Ok(needed.into_keys().collect())
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
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
}

impl NodeProto {
    /// Returns the rotary tables of a node, if it is one of onnxruntime's operators that rotate.
    fn rotary_tables(&self) -> Option<(String, String)> {
        let first = match self.op_type.as_str() {
            "GroupQueryAttention" => 7,
            "RotaryEmbedding" => 2,
            _ => return None,
        };
        match (self.input.get(first), self.input.get(first + 1)) {
            (Some(cos), Some(sin)) if !cos.is_empty() => Some((cos.clone(), sin.clone())),
            _ => None,
        }
    }
}

#[derive(Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
}

impl TensorProto {
    fn named(self) -> (String, Initialiser) {
        let element = match self.data_type {
            1 => Element::Float32,
            10 => Element::Float16,
            _ => Element::Other,
        };
        (self.name, Initialiser { shape: self.dims, element })
    }
}

#[derive(Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
