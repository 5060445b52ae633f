//! Loom models of smmap's protocol.
//!
//! This crate compiles the files of `src/protocol/` a second time, unchanged, against loom's atomics, cells and locks
//! ([`sync`]). The [`models`] explore the interleavings. `cargo test --workspace` runs them without any flag, and the
//! library itself does not depend on loom.

#[allow(dead_code, reason = "the models use a part of the protocol")]
#[path = "../../src/protocol/mod.rs"]
mod protocol;

mod epoch;
mod sync;

pub mod models;
