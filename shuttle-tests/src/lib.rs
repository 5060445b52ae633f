//! The whole cache under random schedules.
//!
//! This crate compiles the files of `src/` a second time, unchanged except for two modules:
//!
//! - [`sync`] uses the types of [shuttle](https://docs.rs/shuttle). Its scheduler chooses the thread of each step.
//! - [`mapping`] copies the file's bytes and does not map them. It counts mapped bytes and fails at intervals. An unmap
//!   overwrites the copy, so that the tests find a later read. Files and descriptors are real.
//!
//! The schedules find errors of logic in executions much longer than loom can explore. They do not find wrong memory
//! orderings: `loom-tests/` does.
#![cfg(unix)]
#![allow(dead_code, unused_imports, reason = "the tests use a part of the library")]
#![allow(missing_docs, unreachable_pub)]

pub mod mapping;
mod sync;

#[path = "../../src/config.rs"]
mod config;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/geometry.rs"]
mod geometry;
#[path = "../../src/os/mod.rs"]
mod os;
#[path = "../../src/stats.rs"]
mod stats;

#[path = "../../src/policy.rs"]
mod policy;
#[path = "../../src/protocol/mod.rs"]
mod protocol;

#[path = "../../src/fault_guard/off.rs"]
mod fault_guard;

#[path = "../../src/cache/mod.rs"]
mod cache;

#[path = "../../src/file.rs"]
mod file;

#[path = "../../src/manager.rs"]
mod manager;

#[path = "../../src/read/mod.rs"]
mod read;

pub use cache::{Change, Closed, Collected};
pub use config::{Admission, Limits, Overcommit, Revalidate, Window};
pub use error::{Error, ErrorKind, Result};
pub use file::MappedFile;
pub use manager::{MapManager, MapManagerBuilder};
pub use read::{Buffer, Cursor, Lease, Windows};
pub use stats::Stats;
