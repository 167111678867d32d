//! Decides which windows are captioned: when a camera's windows close, and whether a window differs
//! from the last captioned one.

pub mod change;
pub mod windows;
