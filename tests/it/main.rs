//! Integration tests, in one binary, against the public interface only.
//!
//! Each file tests one behaviour. The tests run as threads of one process, so each has a manager and a temporary
//! directory of its own. Counts of mappings and descriptors of the process include only files in that directory.
//!
//! Reads of mapped bytes past the end of a truncated file are tested in `tests/fault_guard.rs`, in processes of their
//! own: no test here does that. The cost of `madvise` calls is left to the benches.
#![cfg_attr(windows, allow(unused, reason = "some helpers serve only tests for Unix"))]

mod fixture;
mod support;

mod admission;
mod api;
mod architecture;
mod bounds;
mod buffer;
mod close;
mod copy;
mod cursor;
mod descriptors;
mod errors;
mod eviction;
mod identity;
mod large_offsets;
mod lease;
mod limits;
mod model;
mod open;
mod overcommit;
mod panics;
mod python;
mod revalidate;
mod scan;
mod stats;
mod stress;
mod windows;
