//! Measures the vision stages from a frame to its tokens, and the saving from encoding each frame
//! once for all windows that contain it.

use std::collections::VecDeque;
use std::ops::Range;

use serde::Serialize;

use super::spent;
use crate::bench::median;
use crate::config::Config;
use crate::frame::Frame;
use crate::loaded;
use crate::model::{Package, Runtime};
use crate::slowfast::{FrameTokens, Grid, Plan, pool_frame};
use crate::vision::Encoder;
use crate::vision::jpeg::JpegCodec;
use crate::vision::preprocess::{Preprocess, Scratch};

pub struct Vision {
    preprocess: Preprocess,
    scratch: Scratch,
    encoder: Encoder,
    codec: JpegCodec,
    plan: Plan,
    pixels: Vec<f32>,
}

/// CPU-milliseconds per frame, by stage.
#[derive(Clone, Copy, Default)]
pub struct VisionCost {
    pub resize: f64,
    pub jpeg: f64,
    pub encode: f64,
    pub pool: f64,
}

/// Comparison for windows whose stride is a fifth of their length: each frame encoded once with its
/// tokens kept, and all frames of each window re-encoded. CPU time of resizing, encoding and
/// pooling.
#[derive(Serialize)]
pub struct EncodedOnce {
    /// Frames per window: the plan's number, rounded down to a multiple of five.
    pub frames: usize,
    pub stride: usize,
    /// Number of consecutive windows, after the first.
    pub windows: usize,
    /// Medians of the windows.
    pub new_frames_cpu_ms: f64,
    pub all_frames_cpu_ms: f64,
    /// Median of the windows' ratios.
    pub ratio: f64,
    /// True if both sides had bitwise equal tokens in every window.
    pub same_tokens: bool,
}

impl Vision {
    pub fn load(runtime: &Runtime, package: &Package, config: &Config) -> anyhow::Result<Vision> {
        let preprocess = loaded::preprocess(package, config.model.resize)?;
        let (width, quality) = (config.buffer.jpeg_width, config.buffer.jpeg_quality);
        let encoder = Encoder::load(runtime, package, config.model.vision_threads)?;
        Ok(Vision {
            codec: JpegCodec::new(width, preprocess.least_side(), quality)?,
            pixels: vec![0.0; encoder.frame_len()],
            scratch: Scratch::default(),
            plan: config.model.plan,
            preprocess,
            encoder,
        })
    }

    /// Runs one round. Returns the tokens of these frames and the cost per frame.
    pub fn encode_frames<'a>(
        &mut self,
        frames: impl ExactSizeIterator<Item = &'a Frame>,
    ) -> anyhow::Result<(Vec<FrameTokens>, VisionCost)> {
        let (mut tokens, mut sum) = (Vec::new(), VisionCost::default());
        let count = frames.len() as f64;
        for frame in frames {
            tokens.push(self.tokens(frame, &mut sum)?);
            let Frame { bgrx, width, height, .. } = frame;
            let (jpeg, ms) = spent(|| self.codec.encode(bgrx, *width, *height));
            jpeg?;
            sum.jpeg += ms;
        }
        let VisionCost { resize, jpeg, encode, pool } = sum;
        let [resize, jpeg, encode, pool] = [resize, jpeg, encode, pool].map(|ms| ms / count);
        Ok((tokens, VisionCost { resize, jpeg, encode, pool }))
    }

    fn tokens(&mut self, frame: &Frame, sum: &mut VisionCost) -> anyhow::Result<FrameTokens> {
        let Frame { bgrx, width, height, .. } = frame;
        let Vision { preprocess, scratch, encoder, plan, pixels, .. } = self;
        let (resized, ms) = spent(|| preprocess.pixels(scratch, bgrx, *width, *height, pixels));
        resized?;
        sum.resize += ms;
        let (encoded, ms) = spent(|| encoder.encode(pixels));
        let rows = &encoded?.features[..];
        sum.encode += ms;
        let (tokens, dim) = (encoder.grid_tokens(), encoder.dim());
        let (pooled, ms) = spent(|| pool_frame(Grid { rows, tokens, dim }, plan));
        sum.pool += ms;
        Ok(pooled?)
    }

    /// Compares both sides window by window. `frames` are repeated as often as needed.
    pub fn encoded_once(
        &mut self,
        frames: &[Frame],
        windows: usize,
    ) -> anyhow::Result<EncodedOnce> {
        let stride = (self.plan.frames / 5).max(1);
        let length = 5 * stride;
        let mut encode = |numbers: Range<usize>| -> anyhow::Result<(Vec<FrameTokens>, f64)> {
            let mut tokens =
                |number| self.tokens(&frames[number % frames.len()], &mut VisionCost::default());
            let (tokens, ms) = spent(|| numbers.map(&mut tokens).collect::<Result<_, _>>());
            Ok((tokens?, ms))
        };
        let mut kept: VecDeque<FrameTokens> = encode(0..length)?.0.into();
        let (mut new_times, mut all_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let mut same_tokens = true;
        for window in 1..=windows {
            let end = window * stride + length;
            let (new, once) = encode(end - stride..end)?;
            kept.drain(..stride);
            kept.extend(new);
            let (all, again) = encode(end - length..end)?;
            same_tokens &= kept == all;
            new_times.push(once);
            all_times.push(again);
            ratios.push(once / again);
            tracing::info!("window {window} of {windows}: {once:.1} ms against {again:.1} ms");
        }
        let (new_frames_cpu_ms, all_frames_cpu_ms, ratio) =
            (median(new_times), median(all_times), median(ratios));
        let frames = length;
        Ok(EncodedOnce {
            frames,
            stride,
            windows,
            new_frames_cpu_ms,
            all_frames_cpu_ms,
            ratio,
            same_tokens,
        })
    }
}
