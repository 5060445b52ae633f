//! Plain access to the benches' data, and a manager over it.

use std::fs::File;
use std::io;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Reads from `offset` until `buffer` is full, by the platform's positioned read.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads from `offset` until `buffer` is full, by the platform's positioned read.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Maps `len` bytes from `offset` with memmap2, the plain alternative to smmap.
pub(crate) fn map(file: &File, offset: u64, len: u64) -> memmap2::Mmap {
    let mut options = memmap2::MmapOptions::new();
    options.offset(offset).len(usize::try_from(len).expect("a length that fits the address space"));
    #[allow(unsafe_code, reason = "the benches compare smmap with memmap2")]
    // SAFETY: the file is complete before it gets its name, and no process changes it afterwards.
    let mapped = unsafe { options.map(file) };
    mapped.unwrap_or_else(|error| panic!("cannot map {len} bytes at {offset}: {error}"))
}

/// Builds a manager over data that never changes.
pub(crate) fn build(builder: smmap::MapManagerBuilder) -> smmap::MapManager {
    #[allow(unsafe_code, reason = "`build` is unsafe: the caller promises not to truncate mapped files")]
    // SAFETY: the benches' data is complete before it gets its name, and no process changes it afterwards.
    let manager = unsafe { builder.build() };
    manager.unwrap_or_else(|error| panic!("cannot build a manager: {error}"))
}
