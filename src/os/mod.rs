//! The interface to the OS: the same functions on each system, selected at compile time.
//!
//! I/O without concurrency. A port writes one file with the functions of `unix.rs`, and extends the `cfg`s of
//! `identity_other`, `signals`, `process` and `mapping::map`. Apart from `sync::barrier`, no
//! other module uses `libc` or `windows-sys`.

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

#[cfg_attr(target_os = "linux", path = "identity_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "identity_other.rs")]
mod identity;

mod file_system;
mod process;
mod signals;

#[cfg(not(any(unix, windows)))]
compile_error!("smmap supports Unix and Windows: to port it to another system, add a file to `src/os/`");

#[cfg(all(unix, feature = "fault-guard"))]
pub(crate) mod sigbus;

use std::io;
use std::time::SystemTime;

pub(crate) use file_system::FileSystem;
pub(crate) use identity::{generation, generation_at, needs_reopening, peek_at, reopen};
pub(crate) use process::Process;
pub(crate) use signals::with_signals_blocked;
#[cfg(windows)]
pub(crate) use system::map;
#[cfg(all(test, target_os = "linux"))]
pub(crate) use system::tests::page_cache;
pub(crate) use system::{
    advise, descriptor_limit, descriptor_limit_hint, is_out_of_descriptors, is_out_of_maps, is_readable, is_unmappable,
    map_limit, map_limit_hint, mapping_granularity, may_read, memory_limit, open, page_size, populate, read_ahead,
    read_at, realign, stat, stat_path, unmap, was_accessed, will_need,
};

/// The metadata of a file that the cache uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The device of the file system; `inode` is the file's number on it.
    pub(crate) device: u64,
    pub(crate) inode: u128,
    /// The time of creation, if the file system records it. It tells a file from a later one with the same inode.
    pub(crate) born: Option<SystemTime>,
    pub(crate) len: u64,
    /// The file system has allocated less than `len` bytes: some part of the file is a hole.
    pub(crate) is_sparse: bool,
    pub(crate) modified: Option<SystemTime>,
    /// The time of the last change of bytes or attributes, in seconds and nanoseconds, where the OS records it.
    /// Programs cannot set it.
    pub(crate) changed: Option<(i64, i64)>,
    /// The number of hard links; 0 after the file was deleted.
    pub(crate) links: u64,
    /// Permissions and owners on Unix; the file attributes on Windows.
    pub(crate) attributes: [u32; 3],
    pub(crate) kind: Kind,
}

impl Stat {
    /// The inode number of a block device. Its `device` is the number of the device itself.
    pub(crate) const OF_BLOCK_DEVICE: u128 = u128::MAX;

    pub(crate) fn is_block_device(&self) -> bool {
        self.inode == Self::OF_BLOCK_DEVICE
    }
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file or, on Linux, a block device.
    File,
    /// Anything else; the text names the type for error messages.
    Other(&'static str),
}

/// The result of [`read_ahead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "some systems have fewer of them")]
pub(crate) enum ReadAhead {
    /// The pages are in memory, or this OS does not tell.
    NotNeeded,
    /// The pages were read.
    Done,
    /// The OS will read by large pages on an access, until [`Advice::SmallPages`].
    OnAccess,
}

/// The way in which a mapping will be used next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// It will be accessed soon: the OS may read it in the background.
    WillNeed,
    /// It will be accessed in no order: the OS reads only the pages that are touched.
    Random,
    /// Ends `Random`.
    Normal,
    /// Ends [`ReadAhead::OnAccess`].
    SmallPages,
    /// All of it will be accessed soon, from the start on. For use after [`read_ahead`], which does this work on Linux.
    Sequential,
}

/// Reads into `buf`, starting at `offset` in the file. Returns the number of bytes read, which is less than `buf.len()`
/// only at the end of the file. Retries interrupted reads. After an error, the content of `buf` is unspecified.
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
