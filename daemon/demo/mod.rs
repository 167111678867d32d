//! `lookout demo`: what it needs beside the daemon itself.

pub mod cameras;
