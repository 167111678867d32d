//! Where the demo's files are: its model package, and the clips of its cameras.

use std::path::PathBuf;

/// The plan of the demo's model: it was trained on 16 frames of a window, 4 of them slow.
pub const PLAN: &str = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4";

/// The folders to look in: this folder's checkout, the checkout that the program was built in, and
/// what `make install` put beside it.
pub fn places() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).take(4);
    let beside = beside.flat_map(|up| ["models/demo", "share/lookout/demo"].map(|p| up.join(p)));
    [PathBuf::from("models/demo")].into_iter().chain(beside).collect()
}
