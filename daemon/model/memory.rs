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
use super::pieces::{Layout, Pieces};
use super::{Float, Session, driver};

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

    /// Copies pieces from another memory of the same kind.
    pub fn copy(
        &mut self,
        to: Layout,
        source: &mut Memory,
        from: Layout,
        pieces: Pieces,
    ) -> ort::Result<()> {
        self.check(to, pieces);
        source.check(from, pieces);
        let bytes = self.float.bytes();
        match (&mut self.place, &mut source.place) {
            (Place::Host(target), Place::Host(source)) => {
                for (to, from) in pieces.starts(to).zip(pieces.starts(from)) {
                    let piece = |at: usize| at * bytes..(at + pieces.length) * bytes;
                    target[piece(to)].copy_from_slice(&source[piece(from)]);
                }
                Ok(())
            }
            (Place::Device(target), Place::Device(source)) => {
                let (target, source) = (target.data_ptr_mut(), source.data_ptr_mut());
                // SAFETY: both lie on the device, and the pieces lie within them, as checked above.
                unsafe { driver::copy((target, to), (source, from), pieces, bytes) }
            }
            _ => Err(ort::Error::new("one memory is the host's and the other the device's")),
        }
    }

    /// Copies pieces to another place, which must not overlap the first.
    pub fn copy_within(&mut self, to: Layout, from: Layout, pieces: Pieces) -> ort::Result<()> {
        self.check(to, pieces);
        self.check(from, pieces);
        let bytes = self.float.bytes();
        match &mut self.place {
            Place::Host(map) => {
                for (to, from) in pieces.starts(to).zip(pieces.starts(from)) {
                    map.copy_within(from * bytes..(from + pieces.length) * bytes, to * bytes);
                }
                Ok(())
            }
            Place::Device(tensor) => {
                let memory = tensor.data_ptr_mut();
                // SAFETY: the pieces lie within the memory, as checked above, on the device.
                unsafe { driver::copy((memory, to), (memory, from), pieces, bytes) }
            }
        }
    }

    /// Panics if a piece does not lie within the memory.
    fn check(&self, layout: Layout, pieces: Pieces) {
        let end = pieces.starts(layout).max().map_or(0, |last| last + pieces.length);
        assert!(end <= self.numbers, "{pieces:?} at {layout:?} of {} numbers", self.numbers);
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

    #[test]
    fn pieces_are_copied_to_their_places() {
        let (runtime, package) = on_the_cpu();
        let file = &package.graph(GraphKind::Embed).expect("a table").file;
        let session = runtime.session(Component::Language, file, 1, Vec::new()).expect("a session");
        let zeros = || Memory::new(&session, Float::F32, 24).expect("memory");
        let counted = || {
            let mut memory = zeros();
            // SAFETY: the view ends here.
            let mut view = unsafe { memory.view(0, &[24]) }.expect("a view");
            let (_, numbers) = view.try_extract_tensor_mut::<f32>().expect("floats");
            numbers.iter_mut().zip(0..).for_each(|(number, at)| *number = at as f32);
            memory
        };
        // Two planes of two rows of six numbers, and of each row the first two.
        let pieces = Pieces { planes: 2, rows: 2, length: 2 };
        let rows = Layout { first: 0, plane_step: 12, row_step: 6 };
        let mut copy = zeros();
        copy.copy(pieces.compact(), &mut counted(), rows, pieces).expect("a copy");
        assert_eq!(numbers(&mut copy)[..9], [0., 1., 6., 7., 12., 13., 18., 19., 0.]);
        let mut back = zeros();
        let later = Layout { first: 3, ..rows };
        back.copy(later, &mut copy, pieces.compact(), pieces).expect("a copy");
        let found = numbers(&mut back);
        assert_eq!(found[3..5], [0., 1.]);
        assert_eq!(found[21..23], [18., 19.]);
        assert_eq!(found.iter().filter(|number| **number == 0.).count(), 17);
        let mut within = counted();
        within.copy_within(later, rows, pieces).expect("a copy");
        let found = numbers(&mut within);
        assert_eq!(found[..6], [0., 1., 2., 0., 1., 5.]);
        assert_eq!(found[18..], [18., 19., 20., 18., 19., 23.]);
        let second = Pieces { planes: 1, ..pieces };
        within.copy_within(rows.plane(0), rows.plane(1), second).expect("a copy");
        assert_eq!(numbers(&mut within)[..8], [12., 13., 2., 0., 1., 5., 18., 19.]);
    }
}
