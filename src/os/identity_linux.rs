//! Identity of files on Linux: what tells a file from another one with its inode number, and what this process may
//! open.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The number of overlayfs in `statfs`.
pub(super) const OVERLAYFS: u32 = 0x794c_7630;

/// The number of FUSE in `statfs`.
const FUSE: u32 = 0x6573_5546;

/// The bytes of the largest handle (`MAX_HANDLE_SZ` of the kernel).
const HANDLE_MAX: usize = 128;

/// The kernel's `struct file_handle`, with room for the largest handle.
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; HANDLE_MAX],
}

/// Returns a number that differs between a file and a later one with the same inode number.
///
/// The number is a hash of the handle by which an NFS server names the file. On ext4, XFS, Btrfs and tmpfs the handle
/// contains the generation of the inode. Returns `None` if the file system has no handles, or none that last: FUSE
/// makes a new one after the kernel has forgotten the file, and overlayfs when it copies the file up.
pub(crate) fn generation(file: &File) -> Option<u64> {
    if is_without_generations(statfs(file)?.0) {
        return None;
    }
    hash_of_handle(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// Returns the [`generation`] of the file to which `path` leads.
pub(crate) fn generation_at(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut info = MaybeUninit::uninit();
    // SAFETY: `path` ends with NUL, and the C library writes one `statfs64` to `info`.
    if unsafe { libc::statfs64(path.as_ptr(), info.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has initialised the value.
    let number = unsafe { info.assume_init() }.f_type as u32;
    if is_without_generations(number) {
        return None;
    }
    hash_of_handle(libc::AT_FDCWD, &path, libc::AT_SYMLINK_FOLLOW)
}

fn is_without_generations(number: u32) -> bool {
    matches!(number, OVERLAYFS | FUSE)
}

/// Returns the number of the file's file system, and its block size.
///
/// The 64-bit structure: on 32-bit systems, `fstatfs` fails for file systems with large counts, and always for
/// hugetlbfs.
pub(super) fn statfs(file: &File) -> Option<(u32, usize)> {
    let mut info = MaybeUninit::uninit();
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the C library writes one `statfs64` to `info`.
    if unsafe { libc::fstatfs64(file.as_raw_fd(), info.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has initialised the value.
    let info = unsafe { info.assume_init() };
    Some((info.f_type as u32, info.f_bsize as usize))
}

fn hash_of_handle(directory: libc::c_int, path: &CStr, flags: libc::c_int) -> Option<u64> {
    let mut handle = Handle { len: HANDLE_MAX as u32, kind: 0, bytes: [0; HANDLE_MAX] };
    let mut mount: libc::c_int = 0;
    let (number, path) = (libc::SYS_name_to_handle_at, path.as_ptr());
    // SAFETY: `path` ends with NUL. The kernel writes at most `handle.len` bytes to `handle.bytes`, and one number to
    // `mount`.
    let result = unsafe { libc::syscall(number, directory, path, &raw mut handle, &raw mut mount, flags) };
    if result != 0 {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    handle.kind.hash(&mut hasher);
    handle.bytes.get(..handle.len as usize)?.hash(&mut hasher);
    Some(hasher.finish())
}

/// Returns `true` if the descriptor cannot serve reads of any length at any offset: it only names the file (`O_PATH`),
/// or reads whole blocks (`O_DIRECT`).
///
/// # Errors
///
/// Returns the error of the OS.
pub(crate) fn needs_reopening(file: &File) -> io::Result<bool> {
    // SAFETY: `F_GETFL` only reads, and the descriptor is open as long as `file` is borrowed.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & (libc::O_PATH | libc::O_DIRECT) != 0) }
}

/// Opens the file of a descriptor again for reading, with flags and a position of its own.
///
/// # Errors
///
/// Returns the error of the OS, for example if `/proc` is not mounted.
pub(crate) fn reopen(file: &File) -> io::Result<File> {
    super::open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// The number of the system call `cachestat`, the same on each architecture, which `libc` does not list everywhere.
const CACHESTAT: libc::c_long = 451;

/// Fills `buf` with the bytes of the file at `offset`, if the page cache has all of them. Returns `true` if it did.
///
/// Never reads from the disk. Returns `false` on Linux before 6.5: there a read that must not wait still starts to
/// read.
pub(crate) fn peek_at(file: &File, buf: &mut [u8], offset: u64) -> bool {
    let Ok(at) = i64::try_from(offset) else { return false };
    let descriptor = file.as_raw_fd();
    let range = [offset, buf.len() as u64];
    // The pages in the cache, and four other counts.
    let mut counts = [0_u64; 5];
    // SAFETY: the kernel reads two numbers and writes five. The descriptor is open as long as `file` is borrowed.
    let result = unsafe { libc::syscall(CACHESTAT, descriptor, range.as_ptr(), counts.as_mut_ptr(), 0) };
    let (page, last) = (super::page_size() as u64, buf.len() as u64 - 1);
    if result != 0 || counts[0] < (offset + last) / page - offset / page + 1 {
        return false;
    }
    let part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // The C libraries name this call differently. The kernel takes the offset in two words, of which it ignores the
    // high one where the low one has 64 bits.
    let (low, high) = (at as libc::c_long, (at >> 32) as libc::c_long);
    let number = libc::SYS_preadv2;
    // SAFETY: the kernel writes at most `buf.len()` bytes to `buf`.
    let read = unsafe { libc::syscall(number, descriptor, &raw const part, 1, low, high, libc::RWF_NOWAIT) };
    usize::try_from(read).is_ok_and(|read| read == buf.len())
}
