//! Lists the execution provider that onnxruntime assigned to each operator of a session.
//!
//! A session that was requested on CUDA may have any number of operators on the CPU, and
//! onnxruntime does not report this by itself. Shape arithmetic belongs on the CPU. The model's own
//! arithmetic does not: a session that has it on the CPU does not count as running on CUDA.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;

use ort::AsPointer;
use ort::session::Session;
use ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtStatusPtr};

/// The session setting that makes onnxruntime record the assignment.
pub const RECORD: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

pub const CPU: &str = "CPUExecutionProvider";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub provider: String,
    /// The operator's type: `MatMul`, `GroupQueryAttention`, …
    pub operator: String,
}

/// Name parts of the operators that do nearly all arithmetic of a transformer: `MatMul`,
/// `MatMulNBits`, `FusedConv`, `GroupQueryAttention`, …
const ARITHMETIC: [&str; 4] = ["MatMul", "Gemm", "Conv", "Attention"];

/// Returns the model's arithmetic that is left on the CPU, such as "4 GroupQueryAttention", or
/// `None` if there is none.
pub fn arithmetic_on_cpu(assigned: &[Assigned]) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for Assigned { provider, operator } in assigned {
        if provider == CPU && ARITHMETIC.iter().any(|part| operator.contains(part)) {
            *counts.entry(operator).or_default() += 1;
        }
    }
    let words: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Returns every operator of a session that was built with [`RECORD`].
pub fn assigned(session: &Session) -> ort::Result<Vec<Assigned>> {
    let api = ort::api();
    let mut subgraphs: *const *const OrtEpAssignedSubgraph = ptr::null();
    let mut count = 0;
    let mut assigned = Vec::new();
    // SAFETY: the session outlives this function, and the data that it returns lives as long as the
    // session. Every list comes with its length, every name ends with a zero byte, and only data
    // that onnxruntime has filled without an error is read.
    unsafe {
        check((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut count))?;
        for &subgraph in list(subgraphs, count) {
            let provider = name(|out| (api.EpAssignedSubgraph_GetEpName)(subgraph, out))?;
            let mut nodes: *const *const OrtEpAssignedNode = ptr::null();
            let mut count = 0;
            check((api.EpAssignedSubgraph_GetNodes)(subgraph, &mut nodes, &mut count))?;
            for &node in list(nodes, count) {
                let operator = name(|out| (api.EpAssignedNode_GetOperatorType)(node, out))?;
                assigned.push(Assigned { provider: provider.clone(), operator });
            }
        }
    }
    Ok(assigned)
}

unsafe fn check(status: OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: the caller received the status from onnxruntime and does not use it again.
    unsafe { ort::Error::result_from_status(status) }
}

unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: the caller received both from onnxruntime, which reports the correct length.
    unsafe { std::slice::from_raw_parts(first, count) }
}

unsafe fn name(ask: impl FnOnce(*mut *const c_char) -> OrtStatusPtr) -> ort::Result<String> {
    let mut text: *const c_char = ptr::null();
    // SAFETY: on success onnxruntime has stored a string there that lives as long as the session.
    unsafe {
        check(ask(&mut text))?;
        Ok(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(provider: &str, operator: &str) -> Assigned {
        Assigned { provider: provider.into(), operator: operator.into() }
    }

    #[test]
    fn arithmetic_counts_and_shapes_do_not() {
        let cuda = "CUDAExecutionProvider";
        let mut session = vec![
            on(cuda, "MatMul"),
            on(cuda, "GroupQueryAttention"),
            on(CPU, "Shape"),
            on(CPU, "Gather"),
            on(CPU, "Sub"),
        ];
        assert_eq!(arithmetic_on_cpu(&session), None);
        session.extend([on(CPU, "GroupQueryAttention"), on(CPU, "MatMulNBits")]);
        session.push(on(CPU, "GroupQueryAttention"));
        let left = arithmetic_on_cpu(&session);
        assert_eq!(left.as_deref(), Some("2 GroupQueryAttention, 1 MatMulNBits"));
    }
}
