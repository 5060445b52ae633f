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
