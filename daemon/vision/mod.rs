//! From a camera's picture to what the language model reads.

pub mod evidence;
pub mod preprocess;
