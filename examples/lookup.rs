//! Looks up lines of a file from four threads: `cargo run --release --example lookup [-- FILE]`.
//!
//! A [`Lease`] owns its bytes: it has no lifetime, can be sent through channels, and outlives the file handle and the
//! manager. Sending a lease does not copy its bytes.

#![allow(unsafe_code, reason = "`build` is unsafe: the caller promises not to change the files")]

use std::{env, error::Error, path::PathBuf, sync::Arc, sync::mpsc, thread};

use memchr::memchr_iter;
use smmap::{Lease, MapManager, MappedFile};

fn main() -> Result<(), Box<dyn Error>> {
    let own_source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/lookup.rs");
    let path = env::args_os().nth(1).map_or_else(|| PathBuf::from(own_source), PathBuf::from);

    // SAFETY: no process writes to the file or truncates it while its bytes are leased.
    let maps = unsafe { MapManager::builder().build()? };
    let file = maps.open(&path)?;
    let starts = Arc::new(line_starts(&file)?);
    println!("{}: {} lines", path.display(), starts.len() - 1);

    let (sender, found) = mpsc::channel::<smmap::Result<(usize, Lease)>>();
    for thread in 0..4 {
        let (file, starts, sender) = (file.clone(), Arc::clone(&starts), sender.clone());
        thread::spawn(move || {
            // About twelve lines, spread over the file. Each thread looks up every fourth of them.
            let lines = starts.len() - 1;
            let picks = (0..lines).step_by(lines.div_ceil(12).max(1));
            for line in picks.skip(thread).step_by(4) {
                let lease = file.lease(starts[line]..starts[line + 1]);
                // Sending fails only if the receiver was dropped.
                let _ = sender.send(lease.map(|lease| (line, lease)));
            }
        });
    }
    drop((sender, file, maps)); // the leases received below stay valid

    for answer in found {
        let (line, lease) = answer?;
        let text = String::from_utf8_lossy(&lease);
        println!("{:>6} at {:>8}: {:.80}", line + 1, lease.offset(), text.trim_end());
    }
    Ok(())
}

/// Returns the start of each line, followed by the end of the file.
fn line_starts(file: &MappedFile) -> smmap::Result<Vec<u64>> {
    let mut starts = vec![0];
    for window in file.windows() {
        let window = window?;
        starts.extend(memchr_iter(b'\n', &window).map(|at| window.offset() + at as u64 + 1));
    }
    if starts.last() != Some(&file.len()) {
        starts.push(file.len());
    }
    Ok(starts)
}
