//! Downloads a model package from a hub that speaks the protocol of the Hugging Face Hub.
//!
//! Guarantees: the folder appears complete or not at all, and each file in it has the size and the
//! hash that the hub states. An interrupted download continues, also after a kill. The token goes to
//! the hub only, never to a server that it redirects to, and never into a text. Only files with plain
//! names are written, whatever the hub lists.
//!
//! Not here: whether the package can run. `lookout inspect` finds that out.

mod choice;
mod client;
mod download;
mod folder;
mod listing;
mod progress;
mod repository;

use std::path::Path;

pub use client::{Hub, token};
pub use progress::Progress;
pub use repository::Repository;

use crate::config::{Bytes, Precision};
use choice::choose;
use download::Download;
use folder::Partial;

/// The reason why a package was not downloaded.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FetchError {
    /// The same command fails again until the user changes something.
    #[error("{0}")]
    Refused(String),
    /// The hub does not answer, or its connections break. The same command may succeed later.
    #[error("{0}; the same command continues")]
    Unreachable(String),
}

/// Downloads the package in a repository into a folder that does not exist yet.
pub async fn fetch(
    hub: &Hub,
    repository: &Repository,
    folder: &Path,
    precision: &Precision,
    progress: &mut Progress,
) -> Result<(), FetchError> {
    let mut partial = Partial::of(folder).map_err(FetchError::Refused)?;
    let listing = hub.listing(repository).await?;
    let files = choose(&listing.files, repository, precision).map_err(FetchError::Refused)?;
    let total: u64 = files.iter().map(|file| file.size).sum();
    let missing = total.saturating_sub(partial.present(&files));
    progress.note(&format!(
        "{} at {}, licence: {}",
        repository.name,
        &listing.commit[..12],
        listing.licence
    ));
    progress.note(&format!(
        "{} files, {}, of which {} are to be downloaded, to {}",
        files.len(),
        Bytes::b(total),
        Bytes::b(missing),
        folder.display()
    ));
    partial.make(missing).map_err(FetchError::Refused)?;
    progress.begin(total);
    for file in &files {
        let url = hub.file_url(repository, &listing.commit, &file.name)?;
        Download { hub, repository, url, file, folder: partial.path() }.run(progress).await?;
    }
    partial.finish(&files).map_err(FetchError::Refused)
}
