//! The models of files and evictors, on crossbeam's epoch in place of the modelled one.
//!
//! ```sh
//! RUSTFLAGS='--cfg crossbeam_loom' cargo test --manifest-path loom-tests/epoch/Cargo.toml --target-dir target/epoch
//! ```

#[cfg(not(crossbeam_loom))]
compile_error!(
    "set RUSTFLAGS='--cfg crossbeam_loom': without it, crossbeam does not use loom and the models prove nothing"
);

#[allow(dead_code, reason = "the models use a part of the protocol")]
#[path = "../../../src/protocol/mod.rs"]
mod protocol;

pub mod epoch;
#[allow(dead_code, reason = "the models use a part of `sync`")]
#[path = "../../src/sync.rs"]
mod sync;

#[allow(dead_code, reason = "the tests run one model")]
pub mod models;
