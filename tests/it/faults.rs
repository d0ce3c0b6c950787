//! The failure table of the upload engine, row by row: `f14_…` is its fourteenth.

#[cfg(feature = "demo")]
mod large;
