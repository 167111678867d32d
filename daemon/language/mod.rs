//! From a prompt and video tokens to text.

pub mod tokenizer;
