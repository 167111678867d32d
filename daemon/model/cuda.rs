//! Makes CUDA available: loads its libraries, registers onnxruntime's provider, and reports what is
//! missing.
//!
//! onnxruntime's provider is a shared library that needs CUDA's libraries. The loader looks for
//! these only in the system's folders. `make setup-cuda` puts them next to libonnxruntime, and this
//! module loads them from there by full path before the provider needs them, so that
//! LD_LIBRARY_PATH is not needed. A library that is not there may still be installed in the system.
//!
//! The tests verify it only up to the missing driver. With a GPU, run `lookout bench --device cuda`.

use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::{fs, mem};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use ort::AsPointer;
use ort::environment::Environment;
use ort::ep::cuda::{CUDA, ConvAlgorithmSearch};
use ort::ep::{ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch};
use ort::memory::{AllocationDevice, Allocator};
use ort::session::builder::SessionBuilder;
use ort::value::{DynTensor, DynTensorValueType, DynValue};

use super::device::NoCuda;

/// NVIDIA's driver library, which no library package contains.
pub const DRIVER: &str = "libcuda.so.1";
/// The cuDNN library. The provider loads it only at the first convolution, which is too late to
/// report that it is missing.
const CUDNN: &str = "libcudnn.so.9";

/// The libraries next to libonnxruntime, without versions. Each comes after the ones it needs.
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

/// Loads the libraries that `libonnxruntime` needs for CUDA and registers the provider once, to
/// check that it is available. A session may still be refused, because only a session uses the
/// device, its memory and its kernels.
pub fn prepare(libonnxruntime: &Path, environment: &Environment) -> Result<(), NoCuda> {
    // Reports what the library was built for, not what the machine has.
    if !CUDA::is_available().unwrap_or(false) {
        return Err(NoCuda::NoProvider);
    }
    let beside = libraries_beside(libonnxruntime.parent().unwrap_or(Path::new(".")));
    // Without the driver, loading hundreds of megabytes of libraries is useless.
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

/// Returns the provider for a session; `arena` is its memory limit in bytes.
pub fn provider(arena: Option<usize>) -> ExecutionProviderDispatch {
    let mut cuda = CUDA::default()
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        // The KV cache and the weights are allocated once; doubling would only waste memory.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // TF32's ten mantissa bits would not give the paper's tokens from a graph in fp32.
        .with_tf32(false);
    if let Some(bytes) = arena {
        cuda = cuda.with_memory_limit(bytes);
    }
    // Without this, onnxruntime silently continues on the CPU.
    cuda.build().error_on_failure()
}

/// An initialiser in GPU memory, which must live as long as the sessions that use it.
pub struct GpuInitialiser {
    /// Refers to the memory of the copy.
    pub value: Arc<DynValue>,
    _copy: DynTensor,
}

impl GpuInitialiser {
    /// Copies an initialiser to GPU memory.
    ///
    /// onnxruntime replaces an initialiser of the graph only by one in the memory where it keeps
    /// it; otherwise it logs a warning and uses the graph's own. It also refuses memory of its own
    /// allocators, so the session gets a value that refers to the copy.
    pub fn new(initialiser: &DynValue) -> ort::Result<GpuInitialiser> {
        let tensor = initialiser.view().downcast::<DynTensorValueType>()?;
        let copy = tensor.to(AllocationDevice::CUDA, 0)?;
        let (shape, element) = (copy.shape(), *copy.data_type());
        let bytes = element.byte_size(shape.num_elements()).unwrap_or(0);
        let mut value = ptr::null_mut();
        // SAFETY: `copy` owns the memory, has this shape and element type, and outlives the value.
        let value = unsafe {
            ort::Error::result_from_status((ort::api().CreateTensorWithDataAsOrtValue)(
                copy.memory_info().ptr(),
                copy.data_ptr().cast_mut(),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element.into(),
                &raw mut value,
            ))?;
            let value = NonNull::new(value).ok_or_else(|| ort::Error::new("no tensor"))?;
            DynValue::from_ptr(value, Some(&Allocator::default()))
        };
        Ok(GpuInitialiser { value: Arc::new(value), _copy: copy })
    }
}

/// Returns the first file in the folder for each of [`LIBRARIES`], in their order.
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

/// Loads a library permanently, with global symbols: by path, or by a name that the system finds.
fn load(library: &Path) -> Result<(), libloading::Error> {
    // SAFETY: loading runs only NVIDIA's own code, in the order that its libraries need.
    let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }?;
    // The library stays loaded until the process ends.
    mem::forget(library);
    Ok(())
}

/// Converts onnxruntime's message to one sentence: the library that the loader does not find,
/// CUDA's own error, or the text after the source code location.
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
    // "[ONNXRuntimeError] : 1 : FAIL : message"
    let message = complaint.unwrap_or_else(|| {
        let message = flat.rsplit("[ONNXRuntimeError] : ").next().unwrap_or(&flat);
        message.splitn(3, " : ").last().unwrap_or(message)
    });
    let mut short: String = message.chars().take(300).collect();
    if short.len() < message.len() {
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
        // The message of onnxruntime 1.31.1 with a driver that has no GPU, shortened at its start.
        let failure = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 \
                       std::conditional_t<THRW, void, onnxruntime::common::Status> CUDA failure 35: \
                       CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; \
                       hostname=vm ; file=cuda_execution_provider.cc ; line=355 ; \
                       expr=cudaSetDevice(info_.device_id); \n";
        let message = "onnxruntime says \"CUDA failure 35: CUDA driver version is insufficient for \
                    CUDA runtime version\"";
        assert_eq!(refused(failure), NoCuda::Refused(message.into()));
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
