//! Provides memory that several tensors are views of. It holds the KV caches of several sequences
//! next to each other, and each run uses some of them.
//!
//! On the CPU the memory is mapped, and only written pages take space; on CUDA it is device memory.
//! Positions and lengths count numbers, not bytes.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use half::f16;
use memmap2::MmapMut;
use ort::AsPointer;
use ort::memory::{Allocator, MemoryInfo};
use ort::session::IoBinding;
use ort::value::{DynTensor, TensorElementType};

use super::device::Processor;
use super::{Float, Session};

pub struct Memory {
    place: Place,
    float: Float,
    numbers: usize,
    info: MemoryInfo<'static>,
}

enum Place {
    Host(MmapMut),
    Device(DynTensor),
}

impl Memory {
    /// Allocates memory filled with zeros on the session's device.
    pub fn new(session: &Session, float: Float, numbers: usize) -> ort::Result<Memory> {
        Memory::on(session, float, numbers, |session, float| match float {
            Float::F32 => Ok(session.tensor::<f32>(&[numbers])?.upcast()),
            Float::F16 => Ok(session.tensor::<f16>(&[numbers])?.upcast()),
        })
    }

    /// Allocates memory for a copy. Its content is unspecified until all of it is written. Writing
    /// zeros first would take longer on a GPU than the copy.
    pub fn for_copy(session: &Session, float: Float, numbers: usize) -> ort::Result<Memory> {
        Memory::on(session, float, numbers, |session, float| match float {
            Float::F32 => Ok(session.unwritten_tensor::<f32>(&[numbers])?.upcast()),
            Float::F16 => Ok(session.unwritten_tensor::<f16>(&[numbers])?.upcast()),
        })
    }

    fn on(
        session: &Session,
        float: Float,
        numbers: usize,
        on_device: impl FnOnce(&Session, Float) -> ort::Result<DynTensor>,
    ) -> ort::Result<Memory> {
        let place = match session.placement.processor {
            Processor::Cpu => {
                let map = MmapMut::map_anon((numbers * float.bytes()).max(1));
                Place::Host(map.map_err(|e| ort::Error::new(format!("{numbers} numbers: {e}")))?)
            }
            Processor::Cuda => Place::Device(on_device(session, float)?),
        };
        Ok(Memory { place, float, numbers, info: session.memory()? })
    }

    /// Binds the numbers from position `at`, as a tensor of this shape, to an input and to an
    /// output that is written in place.
    ///
    /// # Safety
    ///
    /// The binding must not run after this memory has been dropped.
    pub unsafe fn bind(
        &mut self,
        binding: &mut IoBinding,
        (input, output): (String, String),
        at: usize,
        shape: &[usize],
    ) -> ort::Result<()> {
        // SAFETY: guaranteed by the caller.
        let mut view = unsafe { self.view(at, shape) }?;
        binding.bind_input(input, &view)?;
        binding.bind_output(output, &mut view)
    }

    /// Copies `numbers` from another memory.
    pub fn copy(
        &mut self,
        to: usize,
        source: &mut Memory,
        from: usize,
        numbers: usize,
    ) -> ort::Result<()> {
        if let (Place::Host(target), Place::Host(source)) = (&mut self.place, &source.place) {
            let bytes = self.float.bytes();
            let piece = |at: usize| at * bytes..(at + numbers) * bytes;
            target[piece(to)].copy_from_slice(&source[piece(from)]);
            return Ok(());
        }
        // SAFETY: both views end here, before their memories.
        unsafe {
            let mut target = self.view(to, &[numbers])?;
            source.view(from, &[numbers])?.copy_into(&mut target)
        }
    }

    /// Copies `numbers` to another position. The two ranges must not overlap.
    pub fn copy_within(&mut self, to: usize, from: usize, numbers: usize) -> ort::Result<()> {
        if let Place::Host(map) = &mut self.place {
            let bytes = self.float.bytes();
            map.copy_within(from * bytes..(from + numbers) * bytes, to * bytes);
            return Ok(());
        }
        // SAFETY: both views end here, before the memory.
        unsafe {
            let mut target = self.view(to, &[numbers])?;
            self.view(from, &[numbers])?.copy_into(&mut target)
        }
    }

    /// Returns a tensor that is a view of the numbers from position `at`.
    ///
    /// # Safety
    ///
    /// The view must not be used after this memory has been dropped.
    unsafe fn view(&mut self, at: usize, shape: &[usize]) -> ort::Result<DynTensor> {
        let numbers: usize = shape.iter().product();
        assert!(at + numbers <= self.numbers, "{numbers} numbers at {at} of {}", self.numbers);
        let first: *mut c_void = match &mut self.place {
            Place::Host(map) => map.as_mut_ptr().cast(),
            Place::Device(tensor) => tensor.data_ptr_mut(),
        };
        let element = match self.float {
            Float::F32 => TensorElementType::Float32,
            Float::F16 => TensorElementType::Float16,
        };
        let shape: Vec<i64> = shape.iter().map(|side| *side as i64).collect();
        let bytes = self.float.bytes();
        let mut value = ptr::null_mut();
        // SAFETY: the view lies within the memory, as asserted, on the device that `info` names.
        // onnxruntime reads the shape during the call and never frees the data.
        unsafe {
            let status = (ort::api().CreateTensorWithDataAsOrtValue)(
                self.info.ptr(),
                first.byte_add(at * bytes),
                numbers * bytes,
                shape.as_ptr(),
                shape.len(),
                element.into(),
                &mut value,
            );
            ort::Error::result_from_status(status)?;
            let value = NonNull::new(value).ok_or_else(|| ort::Error::new("no tensor was made"))?;
            // Passing the allocator only extends its lifetime.
            Ok(DynTensor::from_ptr(value, Some(&Allocator::default())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::runtime::tests::on_the_cpu;
    use super::super::{Component, GraphKind};
    use super::*;

    fn numbers(memory: &mut Memory) -> Vec<f32> {
        // SAFETY: the view ends here.
        let view = unsafe { memory.view(0, &[memory.numbers]) }.expect("a view");
        view.try_extract_tensor::<f32>().expect("floats").1.to_vec()
    }

    /// Compares the code path of GPU memory, run on the CPU, with the path of mapped memory.
    #[test]
    fn a_device_copies_as_the_host_does() {
        let (runtime, package) = on_the_cpu();
        let file = &package.graph(GraphKind::Embed).expect("a table").file;
        let session = runtime.session(Component::Language, file, 1, Vec::new()).expect("a session");
        let mapped = || Memory::new(&session, Float::F32, 12).expect("memory");
        let device = || {
            let tensor = session.tensor::<f32>(&[12]).expect("a tensor").upcast();
            Memory { place: Place::Device(tensor), ..mapped() }
        };
        let fill = |mut memory: Memory| {
            // SAFETY: the view ends here.
            let mut view = unsafe { memory.view(0, &[12]) }.expect("a view");
            let (_, numbers) = view.try_extract_tensor_mut::<f32>().expect("floats");
            numbers.iter_mut().zip(1..).for_each(|(number, at)| *number = at as f32);
            memory
        };
        let copied = |mut memory: Memory, mut source: Memory| {
            memory.copy(2, &mut source, 7, 4).expect("a copy");
            memory.copy_within(9, 1, 3).expect("a copy");
            numbers(&mut memory)
        };
        let wanted = [0.0, 0.0, 8.0, 9.0, 10.0, 11.0, 0.0, 0.0, 0.0, 0.0, 8.0, 9.0];
        assert_eq!(copied(mapped(), fill(mapped())), wanted);
        assert_eq!(copied(device(), fill(device())), wanted);
        assert_eq!(copied(device(), fill(mapped())), wanted);
    }
}
