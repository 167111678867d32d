//! Reads recorded images and arrays from their files.

use std::fs;
use std::path::Path;

/// An array with its shape, in C order.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Converts the image to BGRx, as delivered by cameras.
    pub fn bgrx(&self) -> Vec<u8> {
        self.rgb
            .as_chunks()
            .0
            .iter()
            .flat_map(|[red, green, blue]| [*blue, *green, *red, 0])
            .collect()
    }
}

/// Reads an 8-bit RGB image.
pub fn png(path: &Path) -> Result<Picture, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let bytes = fs::read(path).map_err(|e| failed(&e))?;
    let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info();
    let mut reader = reader.map_err(|e| failed(&e))?;
    let mut rgb = vec![0; reader.output_buffer_size().ok_or("too large")?];
    let info = reader.next_frame(&mut rgb).map_err(|e| failed(&e))?;
    if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(failed(&"not 8-bit RGB"));
    }
    rgb.truncate(info.buffer_size());
    Ok(Picture { width: info.width, height: info.height, rgb })
}

/// Reads a `.npy` file of version 1.0: magic, header length, a Python dict, the values.
pub fn npy(path: &Path) -> Result<Tensor, String> {
    let failed = |why: &str| format!("{}: {why}", path.display());
    let bytes = fs::read(path).map_err(|e| failed(&e.to_string()))?;
    let rest = bytes.strip_prefix(b"\x93NUMPY\x01\x00").ok_or_else(|| failed("no npy 1.0"))?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(|| failed("cut off"))?;
    let (header, data) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(*length)))
        .ok_or_else(|| failed("cut off"))?;
    let header = String::from_utf8_lossy(header);
    let shape = header
        .split_once("'shape': (")
        .and_then(|(_, after)| after.split_once(')'))
        .map(|(shape, _)| shape.split(',').filter_map(|n| n.trim().parse().ok()).collect())
        .filter(|_| header.contains("'fortran_order': False"))
        .ok_or_else(|| failed(&header))?;
    let values: Vec<f32> = if header.contains("'<f4'") {
        data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    } else if header.contains("'<f2'") {
        data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
    } else {
        return Err(failed(&header));
    };
    let tensor = Tensor { shape, values };
    if tensor.shape.iter().product::<usize>() != tensor.values.len() {
        return Err(failed(&format!("{} numbers, {:?}", tensor.values.len(), tensor.shape)));
    }
    Ok(tensor)
}
