//! Converts decoded frames to packed BGRx, with the colours that their matrix and range define.
//!
//! GStreamer's own conversion of 8-bit frames with limited range uses few bits: its results are 2
//! to 4 levels too dark, in places up to 6. This module therefore converts the usual formats of
//! decoders. `videoconvert` converts all others to BGRx, which it does well.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use gst_video::prelude::*;
use gst_video::{VideoColorMatrix, VideoColorRange, VideoColorimetry, VideoFormat};
use yuv::{YuvBiPlanarImage, YuvConversionMode, YuvPlanarImage, YuvRange, YuvStandardMatrix};

/// Accepted formats, best first. None of them needs an earlier conversion.
pub const FORMATS: [&str; 7] = ["I420", "NV12", "NV21", "YV12", "Y42B", "Y444", "BGRx"];

type Frame<'f> = gst_video::VideoFrameRef<&'f gst::BufferRef>;

/// Returns the pixels of `sample`, which `frame` maps.
pub fn bgrx(sample: &gst::Sample, frame: &Frame<'_>) -> Result<Bytes> {
    if frame.format() == VideoFormat::Bgrx {
        return as_it_is(sample, frame).context("an image smaller than its format says");
    }
    let (width, height) = (frame.width(), frame.height());
    let pitch = width * 4;
    let mut bgrx = vec![0; pitch as usize * height as usize];
    let (range, matrix) = meaning(&frame.info().colorimetry());
    let mode = YuvConversionMode::Balanced;
    let out = &mut bgrx[..];
    match frame.format() {
        VideoFormat::Nv12 => yuv::yuv_nv12_to_bgra(&two(frame)?, out, pitch, range, matrix, mode),
        VideoFormat::Nv21 => yuv::yuv_nv21_to_bgra(&two(frame)?, out, pitch, range, matrix, mode),
        VideoFormat::I420 | VideoFormat::Yv12 => {
            yuv::yuv420_to_bgra(&three(frame)?, out, pitch, range, matrix)
        }
        VideoFormat::Y42b => yuv::yuv422_to_bgra(&three(frame)?, out, pitch, range, matrix),
        VideoFormat::Y444 => yuv::yuv444_to_bgra(&three(frame)?, out, pitch, range, matrix),
        other => bail!("an image in {other}"),
    }
    .map_err(|error| anyhow!("{}: {error:?}", frame.format()))?;
    Ok(bgrx.into())
}

fn meaning(colours: &VideoColorimetry) -> (YuvRange, YuvStandardMatrix) {
    let range = match colours.range() {
        VideoColorRange::Range0_255 => YuvRange::Full,
        _ => YuvRange::Limited,
    };
    let matrix = match colours.matrix() {
        VideoColorMatrix::Bt709 => YuvStandardMatrix::Bt709,
        VideoColorMatrix::Bt2020 => YuvStandardMatrix::Bt2020,
        VideoColorMatrix::Smpte240m => YuvStandardMatrix::Smpte240,
        VideoColorMatrix::Fcc => YuvStandardMatrix::Fcc,
        _ => YuvStandardMatrix::Bt601,
    };
    (range, matrix)
}

/// Returns the planes of a frame with luma and interleaved chroma.
fn two<'f>(frame: &'f Frame<'_>) -> Result<YuvBiPlanarImage<'f, u8>> {
    Ok(YuvBiPlanarImage {
        y_plane: frame.plane_data(0)?,
        y_stride: stride(frame, 0)?,
        uv_plane: frame.plane_data(1)?,
        uv_stride: stride(frame, 1)?,
        width: frame.width(),
        height: frame.height(),
    })
}

fn three<'f>(frame: &'f Frame<'_>) -> Result<YuvPlanarImage<'f, u8>> {
    // YV12 has its planes in another order.
    let plane = |component: u32| frame.format_info().plane()[component as usize];
    Ok(YuvPlanarImage {
        y_plane: frame.plane_data(plane(0))?,
        y_stride: stride(frame, plane(0))?,
        u_plane: frame.plane_data(plane(1))?,
        u_stride: stride(frame, plane(1))?,
        v_plane: frame.plane_data(plane(2))?,
        v_stride: stride(frame, plane(2))?,
        width: frame.width(),
        height: frame.height(),
    })
}

fn stride(frame: &Frame<'_>, plane: u32) -> Result<u32> {
    let stride = frame.plane_stride().get(plane as usize).context("an image without planes")?;
    u32::try_from(*stride).context("an image with its last row first")
}

fn as_it_is(sample: &gst::Sample, frame: &Frame<'_>) -> Option<Bytes> {
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    let (row, rows) = (frame.width() as usize * 4, frame.height() as usize);
    match sample.buffer_owned() {
        // The pixels stay in GStreamer's buffer.
        Some(buffer) if stride == row && frame.plane_offset().first() == Some(&0) => {
            let whole = Bytes::from_owner(buffer.into_mapped_buffer_readable().ok()?);
            (whole.len() >= row * rows).then(|| whole.slice(..row * rows))
        }
        _ => packed(frame.plane_data(0).ok()?, row, rows, stride),
    }
}

/// Returns the rows without the padding that some elements add between them.
fn packed(data: &[u8], row: usize, rows: usize, stride: usize) -> Option<Bytes> {
    let mut tight = Vec::with_capacity(row * rows);
    for y in 0..rows {
        tight.extend_from_slice(data.get(y * stride..y * stride + row)?);
    }
    Some(tight.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_padding_is_removed() {
        let data = [1, 2, 3, 0, 4, 5, 6];
        assert_eq!(packed(&data, 3, 2, 4).as_deref(), Some(&[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(packed(&data[..6], 3, 2, 3).as_deref(), Some(&data[..6]));
        assert_eq!(packed(&data, 3, 3, 4), None);
    }
}
