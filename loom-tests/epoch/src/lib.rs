//! The models of files and evictors, with the real epoch in place of the modelled one.
//!
//! ```sh
//! RUSTFLAGS='--cfg crossbeam_loom' cargo test --manifest-path loom-tests/epoch/Cargo.toml --target-dir target/epoch
//! ```

#[cfg(not(crossbeam_loom))]
compile_error!(
    "without RUSTFLAGS='--cfg crossbeam_loom' loom would not see what the epoch does, and the models would prove nothing"
);

#[allow(dead_code, reason = "the protocol is all there, the models use a part of it")]
#[path = "../../../src/protocol/mod.rs"]
mod protocol;

pub mod epoch;
#[allow(dead_code, reason = "as above")]
#[path = "../../src/sync.rs"]
mod sync;

#[allow(dead_code, reason = "as above")]
pub mod models;
