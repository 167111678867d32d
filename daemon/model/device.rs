//! Decides which device a component of the model runs on, and gives the reason.
//!
//! Not here: finding the available devices, which `cuda.rs` does. This module has rules only.

use std::fmt;

use crate::config::Device;

/// A component of the model that can have its own device. Token embedding belongs to neither: it
/// copies rows of a table into host memory, where they are needed, and so stays on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Vision,
    Language,
}

impl Component {
    pub fn name(self) -> &'static str {
        match self {
            Component::Vision => "vision",
            Component::Language => "language",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    Cpu,
    Cuda,
}

impl Processor {
    pub fn name(self) -> &'static str {
        match self {
            Processor::Cpu => "cpu",
            Processor::Cuda => "cuda",
        }
    }
}

/// The device that a component actually runs on, not the requested one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub processor: Processor,
    /// Reason for the device, as text. Empty if the config names the device.
    pub reason: String,
}

impl Placement {
    pub const CPU_BY_NAME: Placement =
        Placement { processor: Processor::Cpu, reason: String::new() };
}

/// Reason why CUDA is unavailable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCuda {
    /// The libonnxruntime in use supports only CPUs.
    NoProvider,
    /// A shared library is missing. Contains its file name.
    MissingLibrary(String),
    /// onnxruntime or the loader reported an error. Contains its message.
    Refused(String),
    /// CUDA has no kernel for some of a graph's arithmetic. Contains the file, and the operators
    /// with their counts.
    NoKernel { graph: String, operators: String },
}

impl fmt::Display for NoCuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoCuda::NoProvider => f.write_str("this libonnxruntime has no CUDA provider"),
            NoCuda::MissingLibrary(name) => write!(f, "{name} is missing"),
            NoCuda::Refused(why) => f.write_str(why),
            NoCuda::NoKernel { graph, operators } => {
                write!(f, "onnxruntime has no CUDA kernel for {operators} of {graph}")
            }
        }
    }
}

impl NoCuda {
    /// Returns a fix, or `None` if there is none.
    fn fix(&self) -> Option<&'static str> {
        match self {
            NoCuda::NoProvider => Some("`make setup-cuda` fetches one that has"),
            NoCuda::MissingLibrary(name) if name.starts_with("libcuda.so") => {
                Some("NVIDIA's driver brings it")
            }
            NoCuda::MissingLibrary(_) => Some("`make setup-cuda` fetches it"),
            NoCuda::NoKernel { .. } => {
                Some("`lookout-export --device cuda` writes graphs for it, in fp16, int8 or int4")
            }
            // The message of onnxruntime's arena.
            NoCuda::Refused(why) if why.contains("smaller than requested bytes") => {
                Some("raise model.gpu_memory, or take a smaller model")
            }
            NoCuda::Refused(_) => None,
        }
    }
}

/// Returns the device for a component with its reason, from the requested device and the
/// availability of CUDA. The error is the sentence that startup fails with.
pub fn place(
    component: Component,
    asked: Device,
    cuda: &Result<(), NoCuda>,
) -> Result<Placement, String> {
    let (processor, reason) = match (asked, cuda) {
        (Device::Cpu, _) => (Processor::Cpu, String::new()),
        (Device::Cuda, Ok(())) => (Processor::Cuda, String::new()),
        (Device::Auto, Ok(())) => (Processor::Cuda, "auto: CUDA was found".into()),
        (Device::Auto, Err(why)) => (Processor::Cpu, format!("auto: {why}")),
        (Device::Cuda, Err(why)) => {
            let component = component.name();
            let fix = why.fix().map_or_else(String::new, |fix| format!(" ({fix})"));
            return Err(format!(
                "CUDA is not available for {component}: {why}{fix}. To use the CPU, set \
                 model.{component}_device = \"cpu\" or \"auto\""
            ));
        }
    };
    Ok(Placement { processor, reason })
}

/// The devices of both components, as events and logs report them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    pub vision: Placement,
    pub language: Placement,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &str) -> Result<(), NoCuda> {
        Err(NoCuda::MissingLibrary(name.into()))
    }

    #[test]
    fn the_config_and_the_host_decide() {
        let cpu = |reason: &str| Ok(Placement { processor: Processor::Cpu, reason: reason.into() });
        let cuda =
            |reason: &str| Ok(Placement { processor: Processor::Cuda, reason: reason.into() });
        let driver = missing("libcuda.so.1");
        let of = |asked, cuda: &Result<(), NoCuda>| place(Component::Vision, asked, cuda);
        assert_eq!(of(Device::Cpu, &Ok(())), cpu(""));
        assert_eq!(of(Device::Cpu, &driver), cpu(""));
        assert_eq!(of(Device::Cuda, &Ok(())), cuda(""));
        assert_eq!(of(Device::Auto, &Ok(())), cuda("auto: CUDA was found"));
        assert_eq!(of(Device::Auto, &driver), cpu("auto: libcuda.so.1 is missing"));
        assert_eq!(
            of(Device::Cuda, &driver),
            Err("CUDA is not available for vision: libcuda.so.1 is missing (NVIDIA's driver brings it). \
                 To use the CPU, set model.vision_device = \"cpu\" or \"auto\""
                .into())
        );
    }

    #[test]
    fn every_refusal_names_the_missing_part_and_the_fix() {
        let refusals = [
            (NoCuda::NoProvider, "no CUDA provider", "`make setup-cuda` fetches one that has"),
            (NoCuda::MissingLibrary("libcudnn.so.9".into()), "libcudnn.so.9", "fetches it"),
            (NoCuda::MissingLibrary("libcuda.so.1".into()), "libcuda.so.1", "driver"),
            (NoCuda::Refused("CUDA failure 100".into()), "CUDA failure 100", "\"auto\""),
            (
                NoCuda::Refused(
                    "onnxruntime says \"1 is smaller than requested bytes of 2\"".into(),
                ),
                "requested bytes of 2",
                "raise model.gpu_memory",
            ),
            (
                NoCuda::NoKernel { graph: "decoder.onnx".into(), operators: "4 Attention".into() },
                "4 Attention of decoder.onnx",
                "--device cuda",
            ),
        ];
        for (why, named, fix) in refusals {
            let error = place(Component::Language, Device::Cuda, &Err(why)).expect_err("refused");
            assert!(error.contains(named) && error.contains(fix), "{error}");
            assert!(error.contains("language") && !error.contains('\n'), "{error}");
        }
    }
}
