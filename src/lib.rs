//! A lock-free concurrent cache of read-only, memory-mapped file regions, for many threads.

mod protocol;
mod sync;
