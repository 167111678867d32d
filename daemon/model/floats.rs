//! Converts tensors of 32- or 16-bit floats: graphs may use either, the daemon uses 32 bits.

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use ort::value::{DynValue, Shape, Tensor, TensorElementType};

/// The float types that graphs may take and return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F32,
    F16,
}

impl Float {
    pub fn of(element: TensorElementType) -> Option<Float> {
        match element {
            TensorElementType::Float32 => Some(Float::F32),
            TensorElementType::Float16 => Some(Float::F16),
            _ => None,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 => 2,
        }
    }

    /// Creates a tensor of this shape from 32-bit values.
    pub fn tensor(self, shape: &[usize], values: &[f32]) -> ort::Result<DynValue> {
        let shape = Shape::new(shape.iter().map(|side| *side as i64));
        Ok(match self {
            Float::F32 => Tensor::from_array((shape, values.to_vec()))?.into_dyn(),
            Float::F16 => {
                Tensor::from_array((shape, Vec::<f16>::from_f32_slice(values)))?.into_dyn()
            }
        })
    }

    /// Returns a tensor's shape and its values in 32 bits.
    pub fn values(self, tensor: &DynValue) -> ort::Result<(Vec<i64>, Vec<f32>)> {
        Ok(match self {
            Float::F32 => {
                let (shape, values) = tensor.try_extract_tensor::<f32>()?;
                (shape.to_vec(), values.to_vec())
            }
            Float::F16 => {
                let (shape, values) = tensor.try_extract_tensor::<f16>()?;
                (shape.to_vec(), values.to_f32_vec())
            }
        })
    }
}
