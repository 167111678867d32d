//! onnxruntime: found, loaded, and asked for sessions on the device that the user chose.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::Environment;
use ort::session::builder::SessionBuilder;
use ort::value::{DynValue, TensorElementType, ValueType};

use super::{Float, ModelError};
use crate::config::Device;

/// Of onnxruntime 1.24 or newer: `api-24` in Cargo.toml.
const LIBRARY: &str = "libonnxruntime.so";

pub struct Runtime {
    environment: Environment,
    /// The shared library in use.
    pub file: PathBuf,
    pub device: &'static str,
}

impl Runtime {
    /// Loads the library named, or looks where it usually is; settles the device.
    pub fn load(library: Option<&Path>, device: Device) -> Result<Runtime, ModelError> {
        let library = find(library)?;
        let wrong = |why: String| ModelError(format!("onnxruntime {}: {why}", library.display()));
        let environment = ort::init_from(&library)
            .map_err(|e| wrong(format!("cannot be loaded: {e}")))?
            .with_name("lookout")
            .with_telemetry(false)
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        let device = settle(device).map_err(wrong)?;
        Ok(Runtime { environment, file: library, device })
    }

    /// A session on `file`; `initialisers` replace those of the graph by name.
    pub fn session(
        &self,
        file: &Path,
        threads: usize,
        initialisers: Vec<(String, DynValue)>,
    ) -> Result<Session, ModelError> {
        let build = || -> ort::Result<ort::session::Session> {
            let mut builder = self.builder(threads)?;
            for (name, value) in initialisers {
                builder = builder.with_initializer(name, Arc::new(value))?;
            }
            builder.commit_from_file(file)
        };
        let session =
            build().map_err(|e| ModelError(format!("model file {}: {e}", file.display())))?;
        Ok(Session { session, file: file.into() })
    }

    fn builder(&self, threads: usize) -> ort::Result<SessionBuilder> {
        let builder = SessionBuilder::new(&self.environment)?
            .with_intra_threads(threads)?
            // The box decodes video too: a spinning thread takes its time from others.
            .with_intra_op_spinning(false)?;
        #[cfg(feature = "cuda")]
        let builder = match self.device {
            "cuda" => builder.with_execution_providers([cuda()])?,
            _ => builder,
        };
        Ok(builder)
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> ort::ep::ExecutionProviderDispatch {
    use ort::ep::cuda::{CUDA, ConvAlgorithmSearch};
    // Without error_on_failure onnxruntime goes on with the CPU and says nothing.
    CUDA::default()
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure()
}

/// What the device is, or why it cannot be had.
fn settle(device: Device) -> Result<&'static str, String> {
    match device {
        Device::Cpu => Ok("cpu"),
        #[cfg(feature = "cuda")]
        Device::Cuda => Ok("cuda"),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err("model.device = \"cuda\", but this lookout was built without \
                             `--features cuda`"
            .into()),
        Device::Auto => {
            tracing::info!(
                "model.device = \"auto\": running on the CPU (CUDA is not yet chosen by itself)"
            );
            Ok("cpu")
        }
    }
}

/// The library named by the user, else by the environment, else beside the program or the system.
fn find(named: Option<&Path>) -> Result<PathBuf, ModelError> {
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
    let beside = program.ancestors().skip(1).take(3).flat_map(|folder| {
        ["", "onnxruntime", "lib/lookout"].map(|place| folder.join(place).join(LIBRARY))
    });
    let system = ["/usr/lib/lookout", "/usr/local/lib", "/usr/lib"];
    let places: Vec<PathBuf> =
        beside.chain(system.iter().map(|folder| Path::new(folder).join(LIBRARY))).collect();
    places.iter().find_map(|path| exists(path)).ok_or_else(|| {
        ModelError(format!(
            "{LIBRARY} was not found beside {} nor in {}; `make setup` fetches it, or name it \
             by model.onnxruntime",
            program.display(),
            system.join(", "),
        ))
    })
}

fn exists(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_path_buf())
}

/// A loaded graph, and the file that errors name.
pub struct Session {
    pub session: ort::session::Session,
    pub file: PathBuf,
}

/// An input or output as the graph declares it; -1 is any length.
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

    /// The input of that name and kind.
    pub fn input(&self, name: &str, wanted: TensorElementType) -> Result<Tensor, TensorError> {
        let tensor = self.find("input", self.inputs(), name)?;
        if tensor.element != wanted {
            return Err(
                self.error(format!("input {name:?} holds {}, wanted {wanted}", tensor.element))
            );
        }
        Ok(tensor)
    }

    /// The input of that name, of floats.
    pub fn float_input(&self, name: &str) -> Result<(Tensor, Float), TensorError> {
        self.float("input", self.inputs(), name)
    }

    /// The output of that name, of floats.
    pub fn float_output(&self, name: &str) -> Result<(Tensor, Float), TensorError> {
        self.float("output", self.outputs(), name)
    }

    /// Refuses inputs that nobody would fill.
    pub fn only_inputs(&self, known: impl Fn(&str) -> bool) -> Result<(), TensorError> {
        match self.inputs().into_iter().find(|tensor| !known(&tensor.name)) {
            None => Ok(()),
            Some(tensor) => {
                Err(self.error(format!("input {:?} is not known to lookout", tensor.name)))
            }
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

fn declared(outlets: &[ort::value::Outlet]) -> Vec<Tensor> {
    let tensor = |outlet: &ort::value::Outlet| match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            Some(Tensor { name: outlet.name().into(), element: *ty, shape: shape.to_vec() })
        }
        _ => None,
    };
    outlets.iter().filter_map(tensor).collect()
}
