//! Converts tensors of 32- or 16-bit floats: graphs may use either, the daemon uses 32 bits.

use std::ops::Range;

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

    /// Returns an empty list with room for `numbers` of this type.
    pub fn room(self, numbers: usize) -> Numbers {
        match self {
            Float::F32 => Numbers::F32(Vec::with_capacity(numbers)),
            Float::F16 => Numbers::F16(Vec::with_capacity(numbers)),
        }
    }

    /// Converts numbers to this type.
    pub fn numbers<'a>(self, numbers: impl Into<NumbersRef<'a>>) -> Numbers {
        let numbers = numbers.into();
        let mut converted = self.room(numbers.len());
        converted.append(numbers);
        converted
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

/// Numbers in the float type that a graph takes. They are converted when they are added, so that a
/// part of them goes to the graph as it is.
#[derive(Clone, Debug)]
pub enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

/// A part of [`Numbers`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NumbersRef<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl Numbers {
    pub fn extend(&mut self, values: &[f32]) {
        match self {
            Numbers::F32(numbers) => numbers.extend_from_slice(values),
            Numbers::F16(numbers) => {
                // Each block is converted in the processor's cache, so that memory is written once.
                let mut block = [f16::ZERO; 2048];
                for values in values.chunks(block.len()) {
                    let converted = &mut block[..values.len()];
                    converted.convert_from_f32_slice(values);
                    numbers.extend_from_slice(converted);
                }
            }
        }
    }

    pub fn append(&mut self, others: NumbersRef<'_>) {
        match (self, others) {
            (Numbers::F16(numbers), NumbersRef::F16(others)) => numbers.extend_from_slice(others),
            (numbers, NumbersRef::F32(others)) => numbers.extend(others),
            (numbers, NumbersRef::F16(others)) => numbers.extend(&others.to_f32_vec()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::F16(numbers) => numbers.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn truncate(&mut self, len: usize) {
        match self {
            Numbers::F32(numbers) => numbers.truncate(len),
            Numbers::F16(numbers) => numbers.truncate(len),
        }
    }

    /// Frees all numbers.
    pub fn clear(&mut self) {
        match self {
            Numbers::F32(numbers) => *numbers = Vec::new(),
            Numbers::F16(numbers) => *numbers = Vec::new(),
        }
    }

    pub fn part(&self, part: Range<usize>) -> NumbersRef<'_> {
        match self {
            Numbers::F32(numbers) => NumbersRef::F32(&numbers[part]),
            Numbers::F16(numbers) => NumbersRef::F16(&numbers[part]),
        }
    }

    pub fn all(&self) -> NumbersRef<'_> {
        self.part(0..self.len())
    }

    /// Returns the values in 32 bits.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Numbers::F32(numbers) => numbers,
            Numbers::F16(numbers) => numbers.to_f32_vec(),
        }
    }
}

impl NumbersRef<'_> {
    pub fn float(self) -> Float {
        match self {
            NumbersRef::F32(_) => Float::F32,
            NumbersRef::F16(_) => Float::F16,
        }
    }

    pub fn len(self) -> usize {
        match self {
            NumbersRef::F32(numbers) => numbers.len(),
            NumbersRef::F16(numbers) => numbers.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [f32]> for NumbersRef<'a> {
    fn from(values: &'a [f32]) -> NumbersRef<'a> {
        NumbersRef::F32(values)
    }
}

impl<'a> From<&'a Vec<f32>> for NumbersRef<'a> {
    fn from(values: &'a Vec<f32>) -> NumbersRef<'a> {
        NumbersRef::F32(values)
    }
}

impl<'a> From<&'a Numbers> for NumbersRef<'a> {
    fn from(numbers: &'a Numbers) -> NumbersRef<'a> {
        numbers.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares numbers that were added in pieces with those that were converted one by one.
    #[test]
    fn added_numbers_are_those_of_the_graph() {
        let values: Vec<f32> = (0..5000).map(|at| at as f32 / 7.0 - 300.0).collect();
        for float in [Float::F32, Float::F16] {
            let mut numbers = float.room(10);
            numbers.extend(&values[..4999]);
            numbers.extend(&values[4999..]);
            assert_eq!(numbers.len(), 5000);
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            let wanted = |part: Range<usize>| match float {
                Float::F32 => NumbersRef::F32(&values[part]),
                Float::F16 => NumbersRef::F16(&halves[part]),
            };
            assert_eq!(numbers.all(), wanted(0..5000));
            assert_eq!(numbers.part(2040..2060), wanted(2040..2060));
            assert_eq!(float.numbers(&numbers.clone().into_f32()).all(), numbers.all());
            numbers.truncate(3);
            numbers.append(NumbersRef::F32(&values[3..5]));
            numbers.append(NumbersRef::F16(&halves[..0]));
            numbers.append(wanted(5..7));
            assert_eq!(numbers.all(), wanted(0..7));
            assert_eq!(numbers.all().float(), float);
            numbers.clear();
            assert!(numbers.is_empty() && numbers.all().is_empty());
        }
    }
}
