//! A lock-free concurrent cache of read-only, memory-mapped file regions, for many threads.

mod config;
mod error;
mod os;
mod stats;
mod sync;

mod mapping;
mod policy;
mod protocol;
mod window;

mod region;

mod file;

mod cache;

mod manager;

mod read;

mod integrations;

pub use cache::{Change, Closed, Collected};
pub use config::{Admission, Limits, Overcommit, Window};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "rayon")]
pub use integrations::rayon::ParWindows;
pub use manager::{MapManager, MapManagerBuilder, MappedFile};
pub use read::{Buffer, Cursor, FindIter, Lease, Lines, Split, Windows};
pub use stats::Stats;
