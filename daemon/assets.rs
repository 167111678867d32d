//! Locates the demo's files: its model package and the clips of its cameras.

use std::path::PathBuf;

/// The plan of the demo's model, which was trained on windows of 16 frames, 4 of them slow.
pub const PLAN: &str = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4";

/// Returns the folders to search: the checkout in the working directory, the checkout that the
/// program was built in, and the folder that `make install` installed next to the program.
pub fn places() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).take(4);
    let beside = beside.flat_map(|up| ["models/demo", "share/lookout/demo"].map(|p| up.join(p)));
    [PathBuf::from("models/demo")].into_iter().chain(beside).collect()
}
