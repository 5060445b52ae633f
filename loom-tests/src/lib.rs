//! Models of smmap's protocol.
//!
//! The files of `src/protocol/` are compiled here a second time, as they are, against loom's atomics, cells and locks
//! ([`sync`]); [`models`] explores their interleavings. `cargo test --workspace` runs them; no flag has to be set, so none
//! can be forgotten, and the library itself knows nothing of loom.

#[allow(dead_code, reason = "the protocol is all there, the models use a part of it")]
#[path = "../../src/protocol/mod.rs"]
mod protocol;

mod epoch;
mod sync;

pub mod models;
