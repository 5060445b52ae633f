//! The integration tests: one binary, and all of it against the public face only.
//!
//! The tests run as threads of one process. So each has its own manager and its own temporary directory, and what it
//! reads about the process (mappings, descriptors) it filters by that directory.

mod support;

mod bad_input;
mod changes;
mod far;
mod leases;
mod model;
mod panics;
mod python;
mod reads;
mod scans;
mod scenarios;
mod stress;
