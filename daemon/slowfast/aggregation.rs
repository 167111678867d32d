//! Aggregates a clip's features `[T, N, D]` to the rows that the language model reads, in the
//! notation of the authors' configs: `slowfast-slow_10frms_spatial_1d_max_pool-fast_4x4`.

use std::fmt;
use std::str::FromStr;

use super::pooling::adaptive_bin;
use super::{Grid, Pool, PoolError, sampling};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    SlowFast(SlowFast),
    /// Every frame is pooled the same way, and all of them are kept.
    EachFrame(Pool),
    Across(Across),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowFast {
    pub slow_frames: usize,
    pub slow: SlowPool,
    pub fast: Pool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPool {
    EachFrame(Pool),
    Across(Across),
}

/// Poolings that mix frames. They cannot be computed frame by frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// The mean over all frames: `[N, D]`.
    TemporalGlobal,
    /// Adaptive average to 16 × 12 × 12.
    SpatialTemporal,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    #[error(
        "{0:?} is not an aggregation; wanted slowfast-slow_SfrmsPOOL-fast_RxC like \
         slowfast-slow_10frms_spatial_1d_max_pool-fast_4x4, or one of concat, \
         spatial_1d_max_pool, spatial_1d_avg_pool, spatial_2d_max_pool, spatial_2d_avg_pool, \
         temporal_global_pool, spatial_temporal_pool"
    )]
    Unknown(String),
    #[error("{0} needs at least one frame")]
    NoFrames(Aggregation),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl Across {
    fn named(name: &str) -> Option<Across> {
        [Across::TemporalGlobal, Across::SpatialTemporal]
            .into_iter()
            .find(|across| across.to_string() == name)
    }
}

impl fmt::Display for Across {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Across::TemporalGlobal => "temporal_global_pool",
            Across::SpatialTemporal => "spatial_temporal_pool",
        })
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Aggregation::EachFrame(pool) => pool.fmt(f),
            Aggregation::Across(across) => across.fmt(f),
            Aggregation::SlowFast(SlowFast { slow_frames, slow, fast }) => {
                write!(f, "slowfast-slow_{slow_frames}frms_")?;
                match slow {
                    SlowPool::EachFrame(pool) => write!(f, "{pool}-fast_{fast}"),
                    SlowPool::Across(across) => write!(f, "{across}-fast_{fast}"),
                }
            }
        }
    }
}

impl FromStr for Aggregation {
    type Err = AggregateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.strip_prefix("slowfast") {
            Some(rest) => SlowFast::parse(rest).map(Aggregation::SlowFast),
            None => Pool::named(text)
                .map(Aggregation::EachFrame)
                .or_else(|| Across::named(text).map(Aggregation::Across)),
        };
        parsed.ok_or_else(|| AggregateError::Unknown(text.into()))
    }
}

impl SlowFast {
    /// Parses the text after `slowfast`: `-slow_SfrmsPOOL-fast_RxC` with a `_` before POOL.
    fn parse(text: &str) -> Option<SlowFast> {
        let (slow, fast) = text.strip_prefix("-slow_")?.split_once("-fast_")?;
        let (frames, pool) = slow.split_once("frms_")?;
        let (rows, columns) = fast.split_once('x')?;
        let slow = Pool::named(pool)
            .map(SlowPool::EachFrame)
            .or_else(|| Across::named(pool).map(SlowPool::Across))?;
        let fast = Pool::Adaptive { rows: number(rows)?, columns: number(columns)? };
        Some(SlowFast { slow_frames: number(frames)?, slow, fast })
    }
}

/// Parses digits only; `parse` alone would accept a sign.
fn number(digits: &str) -> Option<usize> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Pools a whole clip `[T, N, D]` at once, in the paper's own order of operations. This is the
/// reference for [`super::assemble`], which builds the same rows from frames pooled one by one.
///
/// Returns rows `[M, D]`.
pub fn aggregate(
    features: &[f32],
    tokens: usize,
    dim: usize,
    aggregation: Aggregation,
) -> Result<Vec<f32>, AggregateError> {
    let frames: Vec<Grid<'_>> =
        features.chunks_exact(tokens * dim).map(|rows| Grid { rows, tokens, dim }).collect();
    if frames.is_empty() {
        return Err(AggregateError::NoFrames(aggregation));
    }
    let mut out = Vec::new();
    match aggregation {
        Aggregation::EachFrame(pool) => each(&frames, pool, &mut out)?,
        Aggregation::Across(across) => mix(&frames, across, &mut out)?,
        Aggregation::SlowFast(SlowFast { slow_frames, slow, fast }) => {
            let chosen: Vec<Grid<'_>> =
                sampling::slow(frames.len(), slow_frames).into_iter().map(|i| frames[i]).collect();
            match slow {
                // Zero slow frames pooled one by one give no rows. Their mean would be NaN.
                SlowPool::EachFrame(pool) => each(&chosen, pool, &mut out)?,
                SlowPool::Across(_) if chosen.is_empty() => {
                    return Err(AggregateError::NoFrames(aggregation));
                }
                SlowPool::Across(across) => mix(&chosen, across, &mut out)?,
            }
            each(&frames, fast, &mut out)?;
        }
    }
    Ok(out)
}

fn each(frames: &[Grid<'_>], pool: Pool, out: &mut Vec<f32>) -> Result<(), PoolError> {
    frames.iter().try_for_each(|grid| pool.apply(*grid, out))
}

fn mix(frames: &[Grid<'_>], across: Across, out: &mut Vec<f32>) -> Result<(), PoolError> {
    match across {
        Across::TemporalGlobal => mean(frames.iter().map(|grid| grid.rows), out),
        Across::SpatialTemporal => {
            let plane = Pool::Adaptive { rows: 12, columns: 12 };
            for bin in (0..16).map(|i| adaptive_bin(i, 16, frames.len())) {
                // A bin's frames have equal weights, so the mean of the pooled planes equals the
                // pooled plane of the mean.
                let mut planes = Vec::new();
                for grid in &frames[bin] {
                    let mut pooled = Vec::new();
                    plane.apply(*grid, &mut pooled)?;
                    planes.push(pooled);
                }
                mean(planes.iter().map(Vec::as_slice), out);
            }
        }
    }
    Ok(())
}

/// Appends the mean of slices of equal length.
fn mean<'a>(slices: impl ExactSizeIterator<Item = &'a [f32]>, out: &mut Vec<f32>) {
    let (start, count) = (out.len(), slices.len() as f32);
    for (i, slice) in slices.enumerate() {
        if i == 0 {
            out.extend_from_slice(slice);
        } else {
            out[start..].iter_mut().zip(slice).for_each(|(a, b)| *a += b);
        }
    }
    out[start..].iter_mut().for_each(|a| *a /= count);
}
