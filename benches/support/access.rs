//! Plain ways to the data of the benches, and a manager over it.

use std::fs::File;
use std::io;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// `pread` until `buffer` is full, wherever the platform keeps it.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// `pread` until `buffer` is full, wherever the platform keeps it.
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

/// A plain map of `len` bytes from `offset`, which is what smmap is measured against.
pub(crate) fn map(file: &File, offset: u64, len: u64) -> memmap2::Mmap {
    let mut options = memmap2::MmapOptions::new();
    options.offset(offset).len(usize::try_from(len).expect("a length that fits the address space"));
    #[allow(unsafe_code, reason = "memmap2's own face is the peer of the bench")]
    // SAFETY: the data of the benches is written once, under another name, and nobody changes it afterwards.
    let mapped = unsafe { options.map(file) };
    mapped.unwrap_or_else(|error| panic!("can't map {len} bytes at {offset}: {error}"))
}

/// A manager over data that never changes.
pub(crate) fn build(builder: smmap::MapManagerBuilder) -> smmap::MapManager {
    #[allow(unsafe_code, reason = "the promise of smmap, which is unsafe to make")]
    // SAFETY: the data of the benches is written once, under another name, and nobody changes it afterwards.
    let manager = unsafe { builder.build() };
    manager.unwrap_or_else(|error| panic!("can't build a manager: {error}"))
}
