//! Locates the demo's files: its model package, the clips of its cameras, and the model of the search
//! by meaning.

use std::path::PathBuf;

/// The plan of the demo's model, which was trained on windows of 16 frames, 4 of them slow.
pub const PLAN: &str = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4";

/// Returns the folder of the sentence-embedding model that `make setup` fetched or `make install`
/// installed, if there is one.
pub fn embedding_model() -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let fetched = "target/embedding/all-MiniLM-L6-v2";
    let beside = program.ancestors().skip(1).take(4);
    let beside =
        beside.flat_map(|up| [fetched, "share/lookout/all-MiniLM-L6-v2"].map(|p| up.join(p)));
    let mut places = [PathBuf::from(fetched)].into_iter().chain(beside);
    places.find(|folder| folder.join("tokenizer.json").is_file())?.canonicalize().ok()
}

/// Returns the folders to search: the checkout in the working directory, the checkout that the
/// program was built in, and the folder that `make install` installed next to the program.
pub fn places() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).take(4);
    let beside = beside.flat_map(|up| ["models/demo", "share/lookout/demo"].map(|p| up.join(p)));
    [PathBuf::from("models/demo")].into_iter().chain(beside).collect()
}
