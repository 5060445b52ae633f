//! Counts the lines of a file with all cores: `cargo run --release --features rayon --example scan [-- FILE]`.
//!
//! Without FILE, the example reads its own executable. The file may have any size: the budget limits how much of it is
//! mapped at a time.

#![allow(unsafe_code, reason = "`build` is unsafe: the caller promises not to change the files")]

use std::{env, error::Error, path::PathBuf};

use memchr::memchr_iter;
use rayon::prelude::*;
use smmap::{MapManager, Window};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).map_or_else(env::current_exe, |path| Ok(PathBuf::from(path)))?;

    let builder = MapManager::builder()
        .window(Window::Sliding { bytes: 1 << 20 }) // the unit of work of rayon's tasks
        .max_mapped_bytes(64 << 20); // for all threads and all files together
    // SAFETY: no process writes to the file or truncates it while this example reads it.
    let maps = unsafe { builder.build()? };
    let file = maps.open(&path)?;

    // Each item is a lease. It keeps its window mapped until it is dropped, here at the end of the closure.
    let lines =
        file.par_windows().map(|window| Ok(memchr_iter(b'\n', &window?).count())).sum::<smmap::Result<usize>>()?;

    let stats = maps.stats();
    println!("{}: {} bytes, {lines} lines", path.display(), file.len());
    println!("{} windows mapped, at most {} bytes at a time", stats.maps, stats.peak_mapped_bytes);
    Ok(())
}
