//! Finds and loads onnxruntime, and creates sessions on the device that the user chose.
//!
//! Guarantees: a process has one onnxruntime, for both the CPU and CUDA. If CUDA is unavailable,
//! startup fails, or with "auto" the component runs on the CPU; this fallback is never silent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::Environment;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::value::{
    DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef,
    ValueType,
};

use super::assignment::{self, arithmetic_on_cpu, assigned};
use super::cuda::GpuInitialiser;
use super::device::{Component, NoCuda, Placement, Processor, place};
use super::{Float, ModelError, NumbersRef, cuda, driver};
use crate::config::{self, Device};

/// The file name of the library, onnxruntime 1.24 or newer (`api-24` in Cargo.toml).
const LIBRARY: &str = "libonnxruntime.so";

#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    /// The shared library in use.
    pub file: PathBuf,
    vision: Device,
    language: Device,
    /// Memory limit of a CUDA session's arena, in bytes.
    gpu_memory: Option<usize>,
    /// Availability of CUDA, as far as it is known without a graph.
    cuda: Result<(), NoCuda>,
}

impl Runtime {
    /// Loads the library that the config names, or the one in the usual location. Also loads the
    /// libraries that CUDA needs, if a component may run there.
    pub fn load(model: &config::Model) -> Result<Runtime, ModelError> {
        let (vision, language) = (model.vision_device, model.language_device);
        let wanted = [vision, language].iter().any(|device| *device != Device::Cpu);
        let library = find(model.onnxruntime.as_deref(), wanted)?;
        let wrong = |why: String| ModelError(format!("onnxruntime {}: {why}", library.display()));
        let environment = ort::init_from(&library)
            .map_err(|e| wrong(format!("cannot be loaded: {e}")))?
            .with_name("lookout")
            .with_telemetry(false)
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        let cuda = match wanted {
            true => cuda::prepare(&library, &environment),
            false => Ok(()),
        };
        // Device errors are reported before anything slow is loaded.
        for (component, asked) in [(Component::Vision, vision), (Component::Language, language)] {
            place(component, asked, &cuda).map_err(wrong)?;
        }
        let gpu_memory = model.gpu_memory.map(|bytes| bytes.0 as usize);
        Ok(Runtime { environment, file: library, vision, language, gpu_memory, cuda })
    }

    /// Returns the same onnxruntime with both parts on the CPU.
    pub fn on_the_cpu(&self) -> Runtime {
        Runtime { vision: Device::Cpu, language: Device::Cpu, ..self.clone() }
    }

    /// Loads a component by `load`, which also runs it once. If this fails on CUDA (the GPU is too old
    /// or too small) and the device is "auto", the component is loaded on the CPU.
    pub fn load_component<T>(
        &self,
        component: Component,
        load: impl Fn(&Runtime) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        match load(self) {
            Err(error) if self.asked(component) == Device::Auto && self.cuda.is_ok() => {
                let why = cuda::refused(&error.to_string());
                // An error unrelated to CUDA occurs again and is returned.
                load(&Runtime { cuda: Err(why), ..self.clone() })
            }
            loaded => loaded,
        }
    }

    fn asked(&self, component: Component) -> Device {
        match component {
            Component::Vision => self.vision,
            Component::Language => self.language,
        }
    }

    /// Creates a session for `file` on the device of `component`; `initialisers` replace those of the
    /// graph by name.
    pub fn session(
        &self,
        component: Component,
        file: &Path,
        threads: usize,
        initialisers: Vec<(String, DynValue)>,
    ) -> Result<Session, ModelError> {
        let asked = self.asked(component);
        let initialisers: Vec<_> =
            initialisers.into_iter().map(|(name, value)| (name, Arc::new(value))).collect();
        let on_cuda = match (asked, &self.cuda) {
            (Device::Cpu, _) => Ok(None),
            (_, Ok(())) => self.on_cuda(file, threads, &initialisers).map(Some),
            (_, Err(why)) => Err(why.clone()),
        };
        let found = on_cuda.as_ref().map(|_| ()).map_err(NoCuda::clone);
        let placement = place(component, asked, &found)
            .map_err(|why| ModelError(format!("model file {}: {why}", file.display())))?;
        match on_cuda {
            Ok(Some((session, on_gpu))) => {
                Ok(Session { session, file: file.into(), placement, _on_gpu: on_gpu })
            }
            _ => self.on_cpu(file, threads, &initialisers, placement),
        }
    }

    /// Creates a session on the CPU, whatever device is configured.
    pub fn host_session(&self, file: &Path, threads: usize) -> Result<Session, ModelError> {
        self.on_cpu(file, threads, &[], Placement::CPU_BY_NAME)
    }

    fn on_cpu(
        &self,
        file: &Path,
        threads: usize,
        initialisers: &[Initialiser],
        placement: Placement,
    ) -> Result<Session, ModelError> {
        let session =
            self.builder(threads, initialisers).and_then(|mut b| b.commit_from_file(file));
        let session =
            session.map_err(|e| ModelError(format!("model file {}: {e}", file.display())))?;
        Ok(Session { session, file: file.into(), placement, _on_gpu: Vec::new() })
    }

    /// Creates a session on CUDA. Fails if some of the model's own arithmetic would be left on the
    /// CPU.
    fn on_cuda(
        &self,
        file: &Path,
        threads: usize,
        initialisers: &[Initialiser],
    ) -> Result<(ort::session::Session, Vec<GpuInitialiser>), NoCuda> {
        let build = || {
            let on_gpu = initialisers.iter().map(|(_, value)| GpuInitialiser::new(value));
            let on_gpu = on_gpu.collect::<ort::Result<Vec<_>>>()?;
            let named = initialisers.iter().zip(&on_gpu);
            let named: Vec<Initialiser> =
                named.map(|((name, _), on_gpu)| (name.clone(), on_gpu.value.clone())).collect();
            let session = self
                .builder(threads, &named)?
                .with_execution_providers([cuda::provider(self.gpu_memory)])?
                .with_config_entry(assignment::RECORD.0, assignment::RECORD.1)?
                .commit_from_file(file)?;
            Ok((session, on_gpu))
        };
        let wrong = |e: ort::Error| cuda::refused(&e.to_string());
        let (session, initialisers) = build().map_err(wrong)?;
        match arithmetic_on_cpu(&assigned(&session).map_err(wrong)?) {
            None => Ok((session, initialisers)),
            Some(operators) => {
                let graph = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Err(NoCuda::NoKernel { graph, operators })
            }
        }
    }

    fn builder(&self, threads: usize, initialisers: &[Initialiser]) -> ort::Result<SessionBuilder> {
        let mut builder = SessionBuilder::new(&self.environment)?
            .with_intra_threads(threads)?
            // The machine also decodes video; a spinning thread would take CPU time from it.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?;
        for (name, value) in initialisers {
            builder = builder.with_initializer(name, value.clone())?;
        }
        Ok(builder)
    }
}

type Initialiser = (String, Arc<DynValue>);

/// Finds the library: the one named by the user, otherwise by the environment, otherwise next to
/// the program or in the system. The build with CUDA is preferred if a component may run there.
fn find(named: Option<&Path>, cuda: bool) -> Result<PathBuf, ModelError> {
    if let Some(path) = named {
        return exists(path)
            .ok_or_else(|| ModelError(format!("model.onnxruntime = {path:?}: no such file")));
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return exists(&path)
            .ok_or_else(|| ModelError(format!("ORT_DYLIB_PATH = {path:?}: no such file")));
    }
    let program = std::env::current_exe().unwrap_or_default();
    // target/debug/lookout and target/debug/deps/TEST both find target/onnxruntime, and
    // PREFIX/bin/lookout finds PREFIX/lib/lookout.
    let places = |beside: &[&str], system: &[&str]| -> Vec<PathBuf> {
        let folders = program.ancestors().skip(1).take(3);
        let beside = folders.flat_map(|folder| beside.iter().map(|place| folder.join(place)));
        beside.chain(system.iter().map(PathBuf::from)).map(|f| f.join(LIBRARY)).collect()
    };
    let mut all = Vec::new();
    if cuda {
        all.extend(places(&["onnxruntime-cuda", "lib/lookout/cuda"], &["/usr/lib/lookout/cuda"]));
    }
    let system = ["/usr/lib/lookout", "/usr/local/lib", "/usr/lib"];
    all.extend(places(&["", "onnxruntime", "lib/lookout"], &system));
    all.iter().find_map(|path| exists(path)).ok_or_else(|| {
        ModelError(format!(
            "{LIBRARY} was not found next to {} or in {}; `make setup` fetches it, or name it \
             by model.onnxruntime",
            program.display(),
            system.join(", "),
        ))
    })
}

fn exists(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_path_buf())
}

/// A loaded graph, with the file that errors name.
pub struct Session {
    pub session: ort::session::Session,
    pub file: PathBuf,
    /// The device that the graph runs on.
    pub placement: Placement,
    /// The initialisers that the session uses. They are freed after it.
    _on_gpu: Vec<GpuInitialiser>,
}

/// An input or output as the graph declares it. A length of -1 means any length.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub element: TensorElementType,
    pub shape: Vec<i64>,
}

#[derive(Debug, thiserror::Error)]
#[error("model file {file}: {why}")]
pub struct TensorError {
    file: String,
    why: String,
}

impl From<TensorError> for ModelError {
    fn from(error: TensorError) -> ModelError {
        ModelError(error.to_string())
    }
}

impl Session {
    pub fn inputs(&self) -> Vec<Tensor> {
        declared(self.session.inputs())
    }

    pub fn outputs(&self) -> Vec<Tensor> {
        declared(self.session.outputs())
    }

    /// Returns the input of this name and element type.
    pub fn input(&self, name: &str, wanted: TensorElementType) -> Result<Tensor, TensorError> {
        let tensor = self.find("input", self.inputs(), name)?;
        if tensor.element != wanted {
            return Err(
                self.error(format!("input {name:?} holds {}, wanted {wanted}", tensor.element))
            );
        }
        Ok(tensor)
    }

    /// Returns the float input of this name.
    pub fn float_input(&self, name: &str) -> Result<(Tensor, Float), TensorError> {
        self.float("input", self.inputs(), name)
    }

    /// Returns the float output of this name.
    pub fn float_output(&self, name: &str) -> Result<(Tensor, Float), TensorError> {
        self.float("output", self.outputs(), name)
    }

    /// Checks that the graph has no inputs that lookout would leave unset.
    pub fn only_inputs(&self, known: impl Fn(&str) -> bool) -> Result<(), TensorError> {
        match self.inputs().into_iter().find(|tensor| !known(&tensor.name)) {
            None => Ok(()),
            Some(tensor) => {
                Err(self.error(format!("input {:?} is not known to lookout", tensor.name)))
            }
        }
    }

    /// Returns the memory for tensors that stay between runs, as an output of one run and an input
    /// of the next: the memory of the session's device.
    pub fn memory(&self) -> ort::Result<MemoryInfo<'static>> {
        match self.placement.processor {
            Processor::Cpu => host_memory(),
            Processor::Cuda => MemoryInfo::new(
                AllocationDevice::CUDA,
                0,
                AllocatorType::Device,
                MemoryType::Default,
            ),
        }
    }

    /// Allocates a tensor in [`Session::memory`]. On the CPU its content is unspecified. On CUDA it
    /// is zeros, because kernels there may read rows that were never written and multiply them by
    /// zero.
    pub fn tensor<T>(&self, shape: &[usize]) -> ort::Result<OrtTensor<T>>
    where
        T: PrimitiveTensorElementType + Clone + Default + std::fmt::Debug + 'static,
    {
        let mut tensor = self.unwritten_tensor::<T>(shape)?;
        let bytes = shape.iter().product::<usize>() * size_of::<T>();
        if self.placement.processor == Processor::Cuda && bytes > 0 {
            // SAFETY: the tensor has these bytes on the device, and nothing else has the tensor.
            unsafe { driver::zero(tensor.data_ptr_mut(), bytes) }?;
        }
        Ok(tensor)
    }

    /// Allocates a tensor in [`Session::memory`]. Its content is unspecified, so all of it must be
    /// written before a kernel may read it.
    pub fn unwritten_tensor<T>(&self, shape: &[usize]) -> ort::Result<OrtTensor<T>>
    where
        T: PrimitiveTensorElementType + Clone + Default + std::fmt::Debug + 'static,
    {
        match self.placement.processor {
            Processor::Cpu => OrtTensor::new(&Allocator::default(), shape),
            Processor::Cuda => {
                OrtTensor::new(&Allocator::new(&self.session, self.memory()?)?, shape)
            }
        }
    }

    /// Binds numbers to an input, as a tensor of this shape. On CUDA they are sent from where they
    /// are, and elsewhere the tensor is a copy.
    pub fn bind(
        &self,
        binding: &mut ort::session::IoBinding,
        name: &str,
        shape: &[usize],
        numbers: NumbersRef<'_>,
    ) -> ort::Result<()> {
        match (self.placement.processor, numbers) {
            (Processor::Cpu, NumbersRef::F32(numbers)) => {
                binding.bind_input(name, &OrtTensor::from_array((shape, numbers.to_vec()))?)
            }
            (Processor::Cpu, NumbersRef::F16(numbers)) => {
                binding.bind_input(name, &OrtTensor::from_array((shape, numbers.to_vec()))?)
            }
            (Processor::Cuda, NumbersRef::F32(numbers)) => {
                let tensor = TensorRef::from_array_view((shape, numbers))?;
                binding.bind_input(name, &*tensor)
            }
            (Processor::Cuda, NumbersRef::F16(numbers)) => {
                let tensor = TensorRef::from_array_view((shape, numbers))?;
                binding.bind_input(name, &*tensor)
            }
        }
    }

    /// Waits until the bound inputs have reached the device.
    pub fn settle(&self, binding: &ort::session::IoBinding) -> ort::Result<()> {
        match self.placement.processor {
            Processor::Cpu => Ok(()),
            Processor::Cuda => binding.synchronize_inputs(),
        }
    }

    pub fn error(&self, why: impl ToString) -> TensorError {
        TensorError { file: self.file.display().to_string(), why: why.to_string() }
    }

    fn float(
        &self,
        side: &str,
        tensors: Vec<Tensor>,
        name: &str,
    ) -> Result<(Tensor, Float), TensorError> {
        let tensor = self.find(side, tensors, name)?;
        let float = Float::of(tensor.element).ok_or_else(|| {
            self.error(format!(
                "{side} {name:?} holds {}, wanted floats of 32 or 16 bits",
                tensor.element
            ))
        })?;
        Ok((tensor, float))
    }

    fn find(&self, side: &str, tensors: Vec<Tensor>, name: &str) -> Result<Tensor, TensorError> {
        let names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        tensors
            .into_iter()
            .find(|tensor| tensor.name == name)
            .ok_or_else(|| self.error(format!("no {side} {name:?}; found {}", names.join(", "))))
    }
}

/// Returns the host memory, which the program itself reads and writes.
pub fn host_memory() -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
}

fn declared(outlets: &[ort::value::Outlet]) -> Vec<Tensor> {
    let tensor = |outlet: &ort::value::Outlet| match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            Some(Tensor { name: outlet.name().into(), element: *ty, shape: shape.to_vec() })
        }
        _ => None,
    };
    outlets.iter().filter_map(tensor).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use super::super::{GraphKind, Package};
    use super::*;

    /// Returns the runtime that all tests share, since a process has one onnxruntime.
    pub(crate) fn on_the_cpu() -> &'static (Runtime, Package) {
        static LOADED: OnceLock<(Runtime, Package)> = OnceLock::new();
        LOADED.get_or_init(|| {
            let package = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/package");
            let keys = toml::toml! { package = "" device = "cpu" };
            let mut keys = keys;
            keys["package"] = package.into();
            let model = config::Model::of(keys).expect("a config");
            let package = Package::of(&model).expect("the demo's package");
            (Runtime::load(&model).expect("onnxruntime: run `make setup`"), package)
        })
    }

    /// Tests the list of a whole model. The rule that refuses a session on CUDA reads such a list.
    #[test]
    fn the_device_of_every_operator_is_found() {
        let (runtime, package) = on_the_cpu();
        let session = runtime
            .builder(1, &[])
            .and_then(|builder| {
                builder
                    .with_config_entry(assignment::RECORD.0, assignment::RECORD.1)?
                    .commit_from_file(&package.graph(GraphKind::Decoder).expect("a decoder").file)
            })
            .expect("a session");
        let assigned = assigned(&session).expect("the list");
        assert!(assigned.iter().all(|one| one.provider == assignment::CPU), "{assigned:?}");
        let attention = assigned.iter().filter(|one| one.operator == "GroupQueryAttention");
        assert_eq!(attention.count(), package.text.layers);
        let left = arithmetic_on_cpu(&assigned).expect("all of it");
        assert!(left.contains(&format!("{} GroupQueryAttention", package.text.layers)), "{left}");
        assert!(left.contains("MatMul"), "{left}");
    }

    #[test]
    fn a_first_failure_on_cuda_moves_to_the_cpu_only_with_auto() {
        let failure = "model file x.onnx: CUDA failure 209: no kernel image ; GPU=0 ; line=1";
        let load = |runtime: &Runtime| match &runtime.cuda {
            Ok(()) => Err(ModelError(failure.into())),
            Err(why) => Ok(why.to_string()),
        };
        let asking = |device| Runtime { vision: device, ..on_the_cpu().0.clone() };
        let loaded = asking(Device::Auto).load_component(Component::Vision, load);
        let reason = "onnxruntime says \"CUDA failure 209: no kernel image\"";
        assert_eq!(loaded.expect("the CPU"), reason);
        let refused =
            asking(Device::Cuda).load_component(Component::Vision, load).expect_err("cuda");
        assert_eq!(refused.to_string(), failure);
        let broken = |_: &Runtime| Err::<(), _>(ModelError("cut off".into()));
        let refused =
            asking(Device::Auto).load_component(Component::Vision, broken).expect_err("broken");
        assert_eq!(refused.to_string(), "cut off");
    }
}
