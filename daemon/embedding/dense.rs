//! The linear layers after the pooling, `2_Dense`, `3_Dense` and so on, as sentence-transformers
//! stores them: `config.json` and `model.safetensors` with the tensors `linear.weight` and
//! `linear.bias`.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::Deserialize;

/// Maximum number of inputs or outputs of a layer, so that a wrong file takes no gigabytes.
const WIDEST: usize = 8192;

/// A linear layer and its activation.
#[derive(Debug, PartialEq)]
pub struct Dense {
    inputs: usize,
    /// Weights of the outputs, one after the other.
    weight: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Activation {
    #[serde(rename = "torch.nn.modules.linear.Identity")]
    Identity,
    #[serde(rename = "torch.nn.modules.activation.Tanh")]
    Tanh,
}

/// `config.json` of a layer.
#[derive(Deserialize)]
struct Config {
    in_features: usize,
    out_features: usize,
    bias: bool,
    activation_function: Activation,
}

/// The entry of a tensor in the header of a `.safetensors` file.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// First byte after the header, and the one after the last.
    data_offsets: [usize; 2],
}

/// Returns the folders of a model's layers, in their order.
pub fn folders(model: &Path) -> Vec<PathBuf> {
    let numbered = (2..).map(|number| model.join(format!("{number}_Dense")));
    numbered.take_while(|folder| folder.is_dir()).collect()
}

impl Dense {
    pub fn read(folder: &Path) -> Result<Dense, String> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let wrong = |name: &str, why: String| format!("{}: {why}", folder.join(name).display());
        let config: Config = serde_json::from_slice(&read("config.json")?)
            .map_err(|error| wrong("config.json", error.to_string()))?;
        let (inputs, outputs) = (config.in_features, config.out_features);
        if !(1..=WIDEST).contains(&inputs) || !(1..=WIDEST).contains(&outputs) {
            let why = format!("{inputs} inputs and {outputs} outputs: wanted 1 to {WIDEST}");
            return Err(wrong("config.json", why));
        }
        let file = read("model.safetensors")?;
        let tensor = |name: &str, shape: &[usize]| {
            tensor(&file, name, shape).map_err(|why| wrong("model.safetensors", why))
        };
        let weight = tensor("linear.weight", &[outputs, inputs])?;
        let bias =
            if config.bias { tensor("linear.bias", &[outputs])? } else { vec![0.0; outputs] };
        Ok(Dense { inputs, weight, bias, activation: config.activation_function })
    }

    /// Returns the length of the vectors that the layer takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Applies the layer to a vector of the right length.
    pub fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks_exact(self.inputs);
        let linear = std::iter::zip(rows, &self.bias).map(|(row, bias)| {
            bias + std::iter::zip(row, vector).map(|(weight, value)| weight * value).sum::<f32>()
        });
        match self.activation {
            Activation::Identity => linear.collect(),
            Activation::Tanh => linear.map(f32::tanh).collect(),
        }
    }
}

/// Returns a tensor of a `.safetensors` file: the length of a JSON header in 8 bytes, the header,
/// and the values.
fn tensor(file: &[u8], name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let (length, rest) = file.split_first_chunk::<8>().ok_or("the file is too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let header = rest.get(..length).ok_or("the header is longer than the file")?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| format!("header: {error}"))?;
    let entry = header.get(name).ok_or_else(|| format!("has no tensor {name}"))?;
    let entry = Entry::deserialize(entry).map_err(|error| format!("{name}: {error}"))?;
    if entry.shape != shape {
        return Err(format!("{name} has the shape {:?}: wanted {shape:?}", entry.shape));
    }
    let [start, end] = entry.data_offsets;
    let bytes = rest[length..].get(start..end).ok_or_else(|| format!("{name} is cut off"))?;
    let values = match &entry.dtype[..] {
        "F32" => {
            let (values, _) = bytes.as_chunks::<4>();
            values.iter().map(|value| f32::from_le_bytes(*value)).collect()
        }
        "F16" => {
            let (values, _) = bytes.as_chunks::<2>();
            let values: Vec<f16> = values.iter().map(|value| f16::from_le_bytes(*value)).collect();
            values.to_f32_vec()
        }
        dtype => return Err(format!("{name} has the type {dtype}: wanted F32 or F16")),
    };
    match shape.iter().product::<usize>() {
        count if count == values.len() => Ok(values),
        count => Err(format!("{name} has {} values: wanted {count}", values.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a layer with the header and values of a `.safetensors` file.
    fn layer(activation: &str, bias: bool, header: &str, values: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"in_features": 2, "out_features": 3, "bias": {bias},
               "activation_function": "torch.nn.modules.{activation}"}}"#
        );
        fs::write(folder.path().join("config.json"), config).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        let file = [&length[..], header.as_bytes(), values].concat();
        fs::write(folder.path().join("model.safetensors"), file).unwrap();
        folder
    }

    const WEIGHT: &str =
        r#"{"linear.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}"#;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn a_layer_multiplies_adds_and_bends() {
        let values = floats(&[1.0, 2.0, 0.0, -1.0, 0.5, 0.5]);
        let folder = layer("linear.Identity", false, WEIGHT, &values);
        let dense = Dense::read(folder.path()).unwrap();
        assert_eq!(dense.inputs(), 2);
        assert_eq!(dense.apply(&[2.0, 4.0]), [10.0, -4.0, 3.0]);

        let header = r#"{"__metadata__": {"format": "pt"},
            "linear.bias": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
            "linear.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [6, 30]}}"#;
        let bias: Vec<u8> =
            [1.0, 0.0, -3.0].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let folder = layer("activation.Tanh", true, header, &[bias, values].concat());
        let bent = Dense::read(folder.path()).unwrap().apply(&[2.0, 4.0]);
        assert_eq!(bent, [11.0_f32.tanh(), (-4.0_f32).tanh(), 0.0]);
    }

    #[test]
    fn broken_layers_are_refused_by_name() {
        let values = floats(&[0.0; 6]);
        let refused = |activation: &str, bias: bool, header: &str, values: &[u8], why: &str| {
            let folder = layer(activation, bias, header, values);
            let error = Dense::read(folder.path()).unwrap_err();
            assert!(error.starts_with('/') && error.contains(why), "{error}");
        };
        let identity = "linear.Identity";
        refused("activation.ReLU", false, WEIGHT, &values, "config.json: unknown variant");
        refused(identity, true, WEIGHT, &values, "has no tensor linear.bias");
        refused(identity, false, WEIGHT, &values[..20], "linear.weight is cut off");
        refused(identity, false, "no JSON", &values, "model.safetensors: header: ");
        let other = |from: &str, to: &str| WEIGHT.replace(from, to);
        refused(identity, false, &other("[3, 2]", "[2, 3]"), &values, "wanted [3, 2]");
        refused(identity, false, &other("F32", "I8"), &values, "wanted F32 or F16");
        refused(identity, false, &other("24]", "20]"), &values, "5 values: wanted 6");
        refused(identity, false, &other("[0,", "[48,"), &values, "is cut off");
        let folder = layer(identity, false, WEIGHT, &values);
        fs::write(folder.path().join("model.safetensors"), [255; 9]).unwrap();
        let error = Dense::read(folder.path()).unwrap_err();
        assert!(error.contains("the header is longer than the file"), "{error}");
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        assert!(
            Dense::read(folder.path()).unwrap_err().contains("model.safetensors: No such file")
        );
    }
}
