//! The whole cache under random schedules.
//!
//! The files of `src/` are compiled here a second time, as they are, but for two: [`sync`] is made of
//! [shuttle](https://docs.rs/shuttle)'s types, whose scheduler decides at each step who goes on; and [`mapping`] maps nothing,
//! but copies, counts, refuses now and then, and spoils what is unmapped, so that whoever reads it is found out. Files and
//! descriptors are real.
//!
//! This finds errors of logic in runs much longer than loom could explore. It does not find wrong orderings: that is what
//! `loom-tests/` is for.
#![cfg(unix)]
#![allow(dead_code, unused_imports, reason = "the tests use a part of what is there")]
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
