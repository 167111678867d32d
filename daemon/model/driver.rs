//! Calls NVIDIA's driver for what onnxruntime's interface lacks: copies of many pieces of GPU memory at
//! once, and zeros.
//!
//! onnxruntime copies one tensor a run, and each run takes tens of microseconds. The keys and values
//! of a window are hundreds of pieces, one for every head of every layer. The driver copies them as
//! one box: planes of rows, as its description of three-dimensional memory has them. Zeros from the
//! host would go through a second GPU memory of the same size, which onnxruntime then keeps.
//!
//! Guarantees: when a function returns, its work is complete.

use std::ffi::{c_int, c_uchar, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::os::unix::Library;

use super::cuda::DRIVER;
use super::pieces::{Layout, Pieces};

type Status = c_int;
type Context = *mut c_void;
type Stream = *mut c_void;

/// `CU_MEMORYTYPE_DEVICE`.
const DEVICE_MEMORY: c_uint = 2;
/// `CU_STREAM_LEGACY`, the stream of calls that name none.
const LEGACY_STREAM: usize = 1;

/// `CUDA_MEMCPY3D` of cuda.h.
#[repr(C)]
struct Box3d {
    source: Side,
    target: Side,
    width_in_bytes: usize,
    height: usize,
    depth: usize,
}

/// One side of a copy. The members' order is that of cuda.h for both sides.
#[repr(C)]
struct Side {
    x_in_bytes: usize,
    y: usize,
    z: usize,
    level_of_detail: usize,
    memory_type: c_uint,
    host: *const c_void,
    device: usize,
    array: *mut c_void,
    reserved: *mut c_void,
    pitch: usize,
    height: usize,
}

struct Driver {
    /// The context that onnxruntime's CUDA provider uses: the primary one of the first device.
    context: usize,
    set_context: unsafe extern "C" fn(Context) -> Status,
    copy: unsafe extern "C" fn(*const Box3d, Stream) -> Status,
    set: unsafe extern "C" fn(usize, c_uchar, usize, Stream) -> Status,
    wait: unsafe extern "C" fn(Stream) -> Status,
}

/// Copies pieces of numbers of `bytes` bytes each from one memory to another or to another place in
/// it. The plane steps must be multiples of the row steps.
///
/// # Safety
///
/// All pieces lie within the two memories, which are allocated on the first CUDA device. Nothing else
/// writes to them during the copy, and the pieces of both sides do not overlap.
pub unsafe fn copy(
    (target, to): (*mut c_void, Layout),
    (source, from): (*mut c_void, Layout),
    pieces: Pieces,
    bytes: usize,
) -> ort::Result<()> {
    if pieces.numbers() == 0 {
        return Ok(());
    }
    let side = |memory: *mut c_void, layout: Layout| Side {
        x_in_bytes: 0,
        y: 0,
        z: 0,
        level_of_detail: 0,
        memory_type: DEVICE_MEMORY,
        host: ptr::null(),
        device: memory as usize + layout.first * bytes,
        array: ptr::null_mut(),
        reserved: ptr::null_mut(),
        pitch: layout.row_step * bytes,
        height: layout.plane_step / layout.row_step,
    };
    let copied = Box3d {
        source: side(source, from),
        target: side(target, to),
        width_in_bytes: pieces.length * bytes,
        height: pieces.rows,
        depth: pieces.planes,
    };
    Driver::get()?.run("cuMemcpy3DAsync", |driver, stream| {
        // SAFETY: guaranteed by the caller. The description lives during the call.
        unsafe { (driver.copy)(&copied, stream) }
    })
}

/// Fills memory with bytes that are zero.
///
/// # Safety
///
/// The bytes lie within memory that is allocated on the first CUDA device, and nothing else uses them
/// in the meantime.
pub unsafe fn zero(memory: *mut c_void, bytes: usize) -> ort::Result<()> {
    Driver::get()?.run("cuMemsetD8Async", |driver, stream| {
        // SAFETY: guaranteed by the caller.
        unsafe { (driver.set)(memory as usize, 0, bytes, stream) }
    })
}

impl Driver {
    fn get() -> ort::Result<&'static Driver> {
        static LOADED: OnceLock<Result<Driver, String>> = OnceLock::new();
        LOADED.get_or_init(Driver::load).as_ref().map_err(ort::Error::new)
    }

    /// Makes a call on a stream and waits for its end.
    fn run(&self, call: &str, make: impl FnOnce(&Driver, Stream) -> Status) -> ort::Result<()> {
        let stream = LEGACY_STREAM as Stream;
        // SAFETY: the driver's functions have these types in cuda.h.
        unsafe {
            done("cuCtxSetCurrent", (self.set_context)(self.context as Context))?;
            done(call, make(self, stream))?;
            done("cuStreamSynchronize", (self.wait)(stream))
        }
    }

    fn load() -> Result<Driver, String> {
        // SAFETY: the functions have these types in cuda.h since CUDA 3.2, and the library is never
        // unloaded.
        unsafe {
            let library = Library::new(DRIVER).map_err(|e| e.to_string())?;
            macro_rules! function {
                ($name:literal, $type:ty) => {
                    *library.get::<$type>($name.as_bytes()).map_err(|e| e.to_string())?
                };
            }
            let find = function!("cuDeviceGet", unsafe extern "C" fn(*mut c_int, c_int) -> Status);
            let retain = function!(
                "cuDevicePrimaryCtxRetain",
                unsafe extern "C" fn(*mut Context, c_int) -> Status
            );
            let set_context = function!("cuCtxSetCurrent", unsafe extern "C" fn(Context) -> Status);
            let copy = function!(
                "cuMemcpy3DAsync_v2",
                unsafe extern "C" fn(*const Box3d, Stream) -> Status
            );
            let set = function!(
                "cuMemsetD8Async",
                unsafe extern "C" fn(usize, c_uchar, usize, Stream) -> Status
            );
            let wait = function!("cuStreamSynchronize", unsafe extern "C" fn(Stream) -> Status);
            std::mem::forget(library);
            let (mut device, mut context) = (0, ptr::null_mut());
            done("cuDeviceGet", find(&mut device, 0)).map_err(|e| e.to_string())?;
            done("cuDevicePrimaryCtxRetain", retain(&mut context, device))
                .map_err(|e| e.to_string())?;
            Ok(Driver { context: context as usize, set_context, copy, set, wait })
        }
    }
}

fn done(call: &str, status: Status) -> ort::Result<()> {
    match status {
        0 => Ok(()),
        status => Err(ort::Error::new(format!("{call}: CUDA error {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the sizes with those that a C compiler gives cuda.h's struct on 64 bits.
    #[test]
    fn the_description_has_the_size_of_the_drivers() {
        assert_eq!((size_of::<Side>(), size_of::<Box3d>()), (88, 200));
        assert_eq!(std::mem::offset_of!(Side, device), 48);
        assert_eq!(std::mem::offset_of!(Side, pitch), 72);
    }
}
