//! The `masks` of a camera: polygons and images, each with a schedule.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use super::rules::schedule;
use crate::masks::{MASKS, Mask};

/// A mask as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskTable {
    polygon: Option<Vec<[f64; 2]>>,
    image: Option<PathBuf>,
    schedule: Option<String>,
    time_zone: Option<String>,
}

/// Checks the masks of a camera, and reads their images. A mask that cannot be read must not be
/// left out.
pub fn masks(tables: Vec<MaskTable>, folder: &Path) -> Result<Vec<Mask>, ConfigError> {
    if tables.len() > MASKS {
        let found = tables.len();
        return Err(ConfigError(format!("masks: {found} masks: wanted at most {MASKS}")));
    }
    let mask = |(at, table): (usize, MaskTable)| {
        table.check(folder).map_err(|why| ConfigError(format!("masks: mask {}: {why}", at + 1)))
    };
    tables.into_iter().enumerate().map(mask).collect()
}

impl MaskTable {
    fn check(self, folder: &Path) -> Result<Mask, String> {
        let schedule = schedule(self.schedule.as_deref(), self.time_zone.as_deref());
        let schedule = schedule.map_err(|error| error.to_string())?;
        match (self.polygon, self.image) {
            (Some(corners), None) => Mask::polygon(corners, schedule),
            (None, Some(file)) => Mask::image(&folder.join(file), schedule),
            _ => Err("wanted either polygon or image".into()),
        }
    }
}
