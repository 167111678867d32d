//! Whether CUDA can be had: its libraries loaded, onnxruntime's provider registered, and what is
//! missing named.
//!
//! onnxruntime's provider is itself a shared library that needs CUDA's, which the loader seeks in
//! the system's folders only. `make setup-cuda` puts them beside libonnxruntime; here they are
//! loaded from there by full path before the provider asks for them, so that no LD_LIBRARY_PATH is
//! needed. What is not beside it may still be installed in the system.
//!
//! Nothing here has met a GPU: it is proven up to the driver that is missing.

use std::path::{Path, PathBuf};
use std::{fs, mem};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use ort::environment::Environment;
use ort::ep::cuda::{CUDA, ConvAlgorithmSearch};
use ort::ep::{ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::builder::SessionBuilder;

use super::device::NoCuda;

/// NVIDIA's driver, which no package of libraries brings.
const DRIVER: &str = "libcuda.so.1";
/// The provider asks for it only when it meets a convolution, and then too late.
const CUDNN: &str = "libcudnn.so.9";

/// What lies beside libonnxruntime, without versions; each stands behind those that it needs.
const LIBRARIES: [&str; 14] = [
    "libcudart",
    "libcublasLt",
    "libcublas",
    "libnvrtc",
    "libcurand",
    "libcufft",
    "libcudnn",
    "libcudnn_graph",
    "libcudnn_ops",
    "libcudnn_heuristic",
    "libcudnn_adv",
    "libcudnn_cnn",
    "libcudnn_engines_precompiled",
    "libcudnn_engines_runtime_compiled",
];

/// Loads what `libonnxruntime` needs for CUDA and registers the provider once, to see that it can
/// be had. A session may still be refused: the device, its memory and its kernels come with it.
pub fn prepare(libonnxruntime: &Path, environment: &Environment) -> Result<(), NoCuda> {
    // Says what the library was built for, not what the machine has.
    if !CUDA::is_available().unwrap_or(false) {
        return Err(NoCuda::NoProvider);
    }
    let beside = libraries_beside(libonnxruntime.parent().unwrap_or(Path::new(".")));
    // Hundreds of megabytes of libraries are of no use without the driver.
    if !beside.is_empty() {
        load(Path::new(DRIVER)).map_err(|_| NoCuda::MissingLibrary(DRIVER.into()))?;
    }
    for library in &beside {
        load(library).map_err(|why| {
            NoCuda::Refused(format!("{} cannot be loaded: {why}", library.display()))
        })?;
    }
    SessionBuilder::new(environment)
        .and_then(|builder| Ok(builder.with_execution_providers([provider(None)])?))
        .map_err(|e| refused(&e.to_string()))?;
    load(Path::new(CUDNN)).map_err(|_| NoCuda::MissingLibrary(CUDNN.into()))
}

/// The provider for a session; `arena` in bytes.
pub fn provider(arena: Option<usize>) -> ExecutionProviderDispatch {
    let mut cuda = CUDA::default()
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        // The KV cache and the weights are asked for once; doubling would only waste.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // Its ten bits of mantissa would not give the paper's tokens from a graph in fp32.
        .with_tf32(false);
    if let Some(bytes) = arena {
        cuda = cuda.with_memory_limit(bytes);
    }
    // Without this onnxruntime goes on with the CPU and says nothing.
    cuda.build().error_on_failure()
}

/// The first file of each of [`LIBRARIES`] in the folder, in their order.
fn libraries_beside(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    let of = |stem: &&str| {
        let start = format!("{stem}.so");
        files.iter().find(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(&start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    LIBRARIES.iter().filter_map(of).cloned().collect()
}

/// Loads a library for good, its symbols for all: by a path, or by a name that the system finds.
fn load(library: &Path) -> Result<(), libloading::Error> {
    // SAFETY: what runs at loading is NVIDIA's own code, in the order that its libraries need.
    let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }?;
    // Kept loaded to the end of the process.
    mem::forget(library);
    Ok(())
}

/// onnxruntime's words as one sentence: the library that the loader misses, CUDA's own complaint, or
/// what stands behind the place in the source code.
pub fn refused(words: &str) -> NoCuda {
    tracing::debug!("onnxruntime refused CUDA: {words}");
    const MISSED: &str = ": cannot open shared object file";
    if let Some(at) = words.find(MISSED) {
        let before = &words[..at];
        let name = before.rsplit(|c: char| c.is_whitespace() || c == '/').next().unwrap_or(before);
        return NoCuda::MissingLibrary(name.into());
    }
    let flat = words.split_whitespace().collect::<Vec<_>>().join(" ");
    // "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=…"
    let complaint = ["CUDA failure ", "CUBLAS failure ", "CUDNN failure "]
        .iter()
        .find_map(|start| Some(flat[flat.find(start)?..].split(" ; ").next()?.trim()));
    // "[ONNXRuntimeError] : 1 : FAIL : what it says"
    let said = complaint.unwrap_or_else(|| {
        let said = flat.rsplit("[ONNXRuntimeError] : ").next().unwrap_or(&flat);
        said.splitn(3, " : ").last().unwrap_or(said)
    });
    let mut short: String = said.chars().take(300).collect();
    if short.len() < said.len() {
        short.push('…');
    }
    NoCuda::Refused(format!("onnxruntime says {short:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_onnxruntime_become_one_sentence() {
        let missing = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:1844 \
                       onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() \
                       [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
                       libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open \
                       shared object file: No such file or directory";
        assert_eq!(refused(missing), NoCuda::MissingLibrary("libcublasLt.so.13".into()));
        // As onnxruntime 1.31.1 says it with a driver that has no GPU; shortened at its start.
        let failure = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 \
                       std::conditional_t<THRW, void, onnxruntime::common::Status> CUDA failure 35: \
                       CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; \
                       hostname=vm ; file=cuda_execution_provider.cc ; line=355 ; \
                       expr=cudaSetDevice(info_.device_id); \n";
        let said = "onnxruntime says \"CUDA failure 35: CUDA driver version is insufficient for \
                    CUDA runtime version\"";
        assert_eq!(refused(failure), NoCuda::Refused(said.into()));
        let other = "[ONNXRuntimeError] : 10 : INVALID_GRAPH : no\nwonder";
        assert_eq!(refused(other), NoCuda::Refused("onnxruntime says \"no wonder\"".into()));
        let NoCuda::Refused(long) = refused(&"ü".repeat(1000)) else { panic!("refused") };
        assert!(long.ends_with("ü…\"") && long.chars().count() < 350, "{long}");
    }

    #[test]
    fn libraries_are_found_by_their_stem_in_the_order_of_their_needs() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [
            "libcudnn.so.9",
            "libcublas.so.13",
            "libcublasLt.so.13",
            "libcudnn_ops.so.9",
            "libcuda",
        ] {
            fs::write(folder.path().join(name), "").expect("write");
        }
        let found = libraries_beside(folder.path());
        let names: Vec<_> = found.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        let wanted = ["libcublasLt.so.13", "libcublas.so.13", "libcudnn.so.9", "libcudnn_ops.so.9"];
        assert_eq!(names, wanted);
        assert_eq!(libraries_beside(Path::new("/no/such/folder")), Vec::<PathBuf>::new());
    }
}
