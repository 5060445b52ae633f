//! Counts the lines of a file with all cores: `cargo run --release --features rayon --example scan [-- FILE]`.
//!
//! Without a file it reads its own executable. The file may be of any size: no more of it is mapped at a time than
//! the budget says.

#![allow(unsafe_code, reason = "`build` is unsafe: it is where the caller promises not to change the files")]

use std::{env, error::Error, path::PathBuf};

use memchr::memchr_iter;
use rayon::prelude::*;
use smmap::{MapManager, Window};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).map_or_else(env::current_exe, |path| Ok(PathBuf::from(path)))?;

    let builder = MapManager::builder()
        .window(Window::Sliding { bytes: 1 << 20 }) // each task of rayon gets one window
        .max_mapped_bytes(64 << 20); // all threads and all files together
    // SAFETY: nobody writes to the file or truncates it while this example reads it.
    let maps = unsafe { builder.build()? };
    let file = maps.open(&path)?;

    // Each item is a lease: it keeps its window mapped until it is dropped, here at the end of the closure.
    let lines =
        file.par_windows().map(|window| Ok(memchr_iter(b'\n', &window?).count())).sum::<smmap::Result<usize>>()?;

    let stats = maps.stats();
    println!("{}: {} bytes, {lines} lines", path.display(), file.len());
    println!("{} windows mapped, {} bytes at most at a time", stats.maps, stats.peak_mapped_bytes);
    Ok(())
}
