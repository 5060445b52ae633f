//! The platform, in one room: the same functions for each system, chosen once, here.
//!
//! I/O without concurrency. The file to edit for a port is the one of the system; what it has to offer is what
//! `unix.rs` does. `libc` and `windows-sys` are named nowhere else.

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

#[cfg(not(any(unix, windows)))]
compile_error!("smmap runs on Unix and on Windows; for another system, `src/os/` is what a port has to write");

#[cfg(all(unix, feature = "fault-guard"))]
pub(crate) mod sigbus;

use std::io;
use std::time::SystemTime;

#[cfg(all(test, target_os = "linux"))]
pub(crate) use system::tests::page_cache;
pub(crate) use system::{
    advise, descriptor_limit, descriptor_limit_hint, is_out_of_descriptors, is_out_of_maps, is_readable, map_limit,
    map_limit_hint, mapping_granularity, memory_limit, open, page_size, populate, read_ahead, read_at, realign, stat,
    stat_path, unmap,
};

/// What the system says of a file, as far as the cache looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The file system it is in, and its number there.
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// When it was made, where that is known: tells a file from a later one that was given its number.
    pub(crate) born: Option<SystemTime>,
    pub(crate) len: u64,
    pub(crate) modified: Option<SystemTime>,
    /// Moves on with each change of bytes or attributes, where the system keeps such a time, and nobody can set it back.
    pub(crate) changed: Option<(i64, i64)>,
    /// How many names it has; 0 once it is deleted.
    pub(crate) links: u64,
    /// Permissions and owners, or whatever else a system lets be changed beside the bytes.
    pub(crate) attributes: [u32; 3],
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// What it is instead.
    Other(&'static str),
}

/// The process that something was made in.
///
/// A child of `fork` has it too, but none of the other threads: what one of them had locked at that moment stays locked
/// there. So what is dropped in another process than its own does without locks, and waits for nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    pub(crate) fn is_this(self) -> bool {
        self.0 == std::process::id()
    }
}

/// What a mapping will be used for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Soon: read ahead, in the background.
    WillNeed,
    /// All of it, from the start on, after [`read_ahead`].
    Sequential,
}

/// Fills `buf` from `offset` on: fewer bytes only at the end of the file.
#[inline]
pub(crate) fn read_fully_at(file: &std::fs::File, mut buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut total = 0;
    while !buf.is_empty() {
        match read_at(file, buf, offset) {
            Ok(0) => break,
            Ok(n) => {
                total += n;
                offset += n as u64;
                buf = &mut buf[n..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}
