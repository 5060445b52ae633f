//! The functions of [`os`](super) on Unix: Linux, macOS, the BSDs.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::ffi::CString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use super::{Advice, Kind, ReadAhead, Stat};

pub(crate) fn page_size() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: `sysconf` only reads.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
    })
}

/// Returns the granularity of mappings: a mapping starts at a multiple of it in the file.
pub(crate) fn mapping_granularity() -> usize {
    page_size()
}

/// Opens a file for reading. Does not wait for the other end of a pipe, nor make a terminal the controlling one. Waits
/// for a write lease on a regular file, as a plain `open` does.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags | libc::O_NOCTTY).open(path);
    match open(libc::O_NONBLOCK) {
        // The file has a write lease. A pipe would have opened.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && stat_path(path)?.kind == Kind::File => open(0),
        opened => opened,
    }
}

/// Returns `true` if `file` was opened for reading.
pub(crate) fn is_readable(file: &File) -> io::Result<bool> {
    // SAFETY: `F_GETFL` only reads, and the descriptor is open as long as `file` is borrowed.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if flags & libc::O_PATH != 0 {
        return Ok(false);
    }
    Ok(flags & libc::O_ACCMODE != libc::O_WRONLY)
}

pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    let mut stat = from_metadata(&file.metadata()?);
    #[cfg(target_os = "linux")]
    if stat.is_block_device() {
        stat.len = device_len(file)?;
    }
    Ok(stat)
}

/// Returns the length of a block device in bytes.
#[cfg(target_os = "linux")]
fn device_len(device: &File) -> io::Result<u64> {
    /// `_IOR(0x12, 114, size_t)` of Linux's `fs.h`. Some processors have another bit for "read".
    const BLKGETSIZE64: u32 = {
        let has_other_bit = cfg!(any(target_arch = "mips", target_arch = "mips64", target_arch = "powerpc"))
            || cfg!(any(target_arch = "powerpc64", target_arch = "sparc64"));
        let read = if has_other_bit { 1 << 30 } else { 1 << 31 };
        read | (size_of::<usize>() as u32) << 16 | 0x12 << 8 | 114
    };
    let mut len = 0_u64;
    // SAFETY: the kernel writes one `u64` to the pointer, and the descriptor is open as long as `device` is borrowed.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut len) })?;
    Ok(len)
}

/// Examines the file at `path`. Does not tell the length of a block device.
pub(crate) fn stat_path(path: &Path) -> io::Result<Stat> {
    fs::metadata(path).map(|metadata| from_metadata(&metadata))
}

/// Returns what identifies a block device: its number, through each of its nodes. The times of a node say nothing about
/// the content of the device.
#[cfg(target_os = "linux")]
fn of_block_device(node: &Metadata) -> Stat {
    Stat {
        device: node.rdev(),
        inode: Stat::OF_BLOCK_DEVICE,
        born: None,
        len: 0,
        is_sparse: false,
        modified: None,
        changed: None,
        links: 1,
        attributes: [0; 3],
        kind: Kind::File,
    }
}

fn from_metadata(metadata: &Metadata) -> Stat {
    let kind = metadata.file_type();
    #[cfg(target_os = "linux")]
    if kind.is_block_device() {
        return of_block_device(metadata);
    }
    let kind = if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Other("a directory")
    } else if kind.is_fifo() {
        Kind::Other("a pipe")
    } else if kind.is_socket() {
        Kind::Other("a socket")
    } else if kind.is_char_device() {
        Kind::Other("a character device")
    } else if kind.is_block_device() {
        Kind::Other("a block device")
    } else {
        Kind::Other("no regular file")
    };
    Stat {
        device: metadata.dev(),
        inode: metadata.ino().into(),
        born: metadata.created().ok(),
        len: metadata.len(),
        is_sparse: metadata.blocks() < metadata.len().div_ceil(512),
        modified: metadata.modified().ok(),
        changed: Some((metadata.ctime(), metadata.ctime_nsec())),
        links: metadata.nlink(),
        attributes: [metadata.mode(), metadata.uid(), metadata.gid()],
        kind,
    }
}

/// Returns `true` if this process, with its effective user and groups, may open the file at `path` for reading.
pub(crate) fn may_read(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: `path` ends with NUL, and the call only reads.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::R_OK, libc::AT_EACCESS) == 0 }
}

#[inline]
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    // No file reaches past the largest offset of the OS.
    if i64::try_from(offset).is_err() {
        return Ok(0);
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // Not `File::read_at`, which is not inlined into other crates.
        let (descriptor, at) = (file.as_raw_fd(), offset as libc::off64_t);
        // SAFETY: the OS writes at most `buf.len()` bytes to `buf`. The descriptor is open as long as `file` is
        // borrowed.
        let read = unsafe { libc::pread64(descriptor, buf.as_mut_ptr().cast(), buf.len(), at) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

/// Unmaps a mapping. The OS may refuse: if it has merged the mapping with its neighbours, removing it from the middle
/// makes one mapping more, which may exceed the limit.
///
/// # Safety
///
/// `address` and `len` must be those of one mapping into which no reference exists.
pub(crate) unsafe fn unmap(address: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: by the contract of this function.
    check(unsafe { libc::munmap(address.cast(), len) })
}

/// Converts the result of a system call that returns 0 if it succeeds.
pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of a large page: most processors map it by one page table entry, or cache it as one in the TLB.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LARGE_PAGE: usize = 2 << 20;

/// Returns a better address for a mapping at `address`, of a file at `start`: the OS can map large pages if the address
/// and `start` have the same distance from a multiple of [`LARGE_PAGE`]. Returns `None` if they have, or if the range
/// contains no whole large page.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn better_address(address: usize, start: u64, len: usize) -> Option<usize> {
    let (page, at) = (LARGE_PAGE, start as usize % LARGE_PAGE);
    let has_large_page = at.next_multiple_of(page) - at + page <= len;
    let off = address.wrapping_sub(at) % page;
    (has_large_page && off != 0).then(|| address.checked_sub(off)).flatten()
}

/// Moves a new mapping to an address at which the OS can map large pages. Returns its address.
///
/// Some file systems place mappings so themselves (ext4); others do not (overlayfs, on which containers run). There a
/// scan of warm data takes about half as long again without this function. The OS fills the address space from the top,
/// so the range just below is most likely free. If it is not, the OS chooses another address.
///
/// If the OS refuses the second mapping, the first one is already unmapped.
///
/// # Safety
///
/// `address` and `len` must be those of a mapping of `file` at `start` into which no reference exists.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) unsafe fn realign(file: &File, start: u64, address: *mut u8, len: usize) -> io::Result<*mut u8> {
    let Some(better) = better_address(address as usize, start, len) else { return Ok(address) };
    // Unmapped first, so that there are never two mappings. If the OS refuses to unmap, the mapping stays as it is.
    // SAFETY: by the contract of this function.
    if unsafe { unmap(address, len) }.is_err() {
        return Ok(address);
    }
    let offset = libc::off64_t::try_from(start).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (protection, flags, file) = (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
    // SAFETY: without `MAP_FIXED` the address is a hint, so no existing mapping is replaced.
    let mapped = unsafe { libc::mmap64(better as *mut libc::c_void, len, protection, flags, file, offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped.cast()) }
}

/// Returns the address unchanged: no benefit is known on this OS. Unsafe only for the signature of the other systems.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) unsafe fn realign(_file: &File, _start: u64, address: *mut u8, _len: usize) -> io::Result<*mut u8> {
    Ok(address)
}

/// Tells the OS how a mapping will be used. Ignores failures.
///
/// # Safety
///
/// The range must lie within one mapping of a file, and `address` must be a multiple of the page size.
pub(crate) unsafe fn advise(address: *mut u8, len: usize, advice: Advice) {
    let advice = match advice {
        Advice::Random => libc::MADV_RANDOM,
        Advice::Normal => libc::MADV_NORMAL,
        #[cfg(target_os = "linux")]
        Advice::SmallPages => libc::MADV_NOHUGEPAGE,
        #[cfg(not(target_os = "linux"))]
        Advice::SmallPages => return,
        // `read_ahead` has already read the missing pages.
        Advice::Sequential if cfg!(target_os = "linux") => return,
        Advice::WillNeed | Advice::Sequential => libc::MADV_WILLNEED,
    };
    // SAFETY: by the contract of this function; advice changes no byte.
    let _ = unsafe { libc::madvise(address.cast(), len, advice) };
}

/// Reads and maps the pages of a range, as accesses would, but returns an error instead of raising SIGBUS. Returns
/// `false` if the OS does not support it (Linux does since 5.14), or cannot do it now.
///
/// # Safety
///
/// As for [`advise`].
pub(crate) unsafe fn populate(address: *mut u8, len: usize) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // SAFETY: by the contract of this function; the call changes no byte.
        let populated = check(unsafe { libc::madvise(address.cast(), len, libc::MADV_POPULATE_READ) });
        match populated {
            Ok(()) => Ok(true),
            // The page is past the end of the file, or the medium failed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON | libc::EIO)) => {
                Err(error)
            }
            Err(_) => Ok(false),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (address, len);
        Ok(false)
    }
}

/// Returns `true` if the last page of a range is in the page cache, or if the OS does not tell.
///
/// For files that the process neither owns nor may write, Linux reports all pages as present.
///
/// # Safety
///
/// As for [`advise`].
#[cfg(target_os = "linux")]
unsafe fn is_end_resident(address: *mut u8, len: usize) -> bool {
    let Some(last) = len.checked_sub(1) else { return true };
    // The end of the mapping is in the page of its last byte, wherever in a page `address` is.
    let last = (address as usize + last) & !(page_size() - 1);
    let mut is_there = 1;
    // Not a read that must not wait (`RWF_NOWAIT`): the OS would start to read at that place.
    // SAFETY: the address is that of the mapping's last page, and `mincore` writes one byte for one page.
    let asked = unsafe { libc::mincore(address.with_addr(last).cast(), 1, &mut is_there) };
    asked != 0 || is_there & 1 == 1
}

/// Returns `true` if this process has accessed the page at an address, or one of a few neighbours that the OS maps with
/// it. Returns `false` if the OS does not tell (`/proc` is not mounted). Nothing need be mapped at the address.
#[cfg(target_os = "linux")]
pub(crate) fn was_accessed(address: usize) -> bool {
    /// The bit of an entry of `/proc/self/pagemap` that marks a page in the page table.
    const PRESENT: u64 = 1 << 63;
    let mut entry = [0; size_of::<u64>()];
    let at = (address / page_size() * entry.len()) as u64;
    let read = File::open("/proc/self/pagemap").and_then(|pages| super::read_fully_at(&pages, &mut entry, at));
    read.is_ok_and(|read| read == entry.len()) && u64::from_ne_bytes(entry) & PRESENT != 0
}

/// Returns `true`: not implemented on this OS.
#[cfg(not(target_os = "linux"))]
pub(crate) fn was_accessed(_address: usize) -> bool {
    true
}

/// Bytes for each call of [`will_need`]. Linux reads at most as much for one call as the disk's read-ahead setting
/// says, 128 KiB by default.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple"))]
const ADVICE_CHUNK: usize = 128 << 10;

/// Asks the OS to read the pages of `range` of a file into memory, without waiting for the disk. Returns `false` if it
/// has no call for that. Ignores failures.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple"))]
pub(crate) fn will_need(file: &File, range: Range<u64>) -> bool {
    let mut start = range.start;
    while start < range.end {
        let len = (range.end - start).min(ADVICE_CHUNK as u64);
        let Ok(offset) = libc::off_t::try_from(start) else { break };
        #[cfg(not(target_vendor = "apple"))]
        // SAFETY: the descriptor is open as long as `file` is borrowed, and advice changes no byte.
        let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len as libc::off_t, libc::POSIX_FADV_WILLNEED) };
        #[cfg(target_vendor = "apple")]
        {
            let advice = libc::radvisory { ra_offset: offset, ra_count: len as libc::c_int };
            // SAFETY: the kernel reads one `radvisory`, and the descriptor is open as long as `file` is borrowed.
            let _ = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_RDADVISE, &raw const advice) };
        }
        start += len;
    }
    true
}

/// Returns `false`: not implemented on this OS.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_vendor = "apple")))]
pub(crate) fn will_need(_file: &File, _range: Range<u64>) -> bool {
    false
}

/// Bytes per system call of [`read_through`].
#[cfg(target_os = "linux")]
const READ_CHUNK: usize = 1 << 20;

/// Reads those of `len` bytes of `file` at `start`, which are mapped at `address`, into the page cache that follow the
/// first `skip` ones, unless the last page is already there; or advises the OS to read them by large pages when they
/// are accessed. Ignores failures: later accesses report them.
///
/// # Safety
///
/// As for [`advise`].
#[cfg(target_os = "linux")]
pub(crate) unsafe fn read_ahead(file: &File, start: u64, address: *mut u8, len: usize, skip: usize) -> ReadAhead {
    let skip = skip - skip % page_size();
    // SAFETY: by the contract of this function.
    if skip >= len || unsafe { is_end_resident(address, len) } {
        return ReadAhead::NotNeeded;
    }
    // SAFETY: by the contract of this function.
    if unsafe { advise_large_pages(address, len, skip) } {
        return ReadAhead::OnAccess;
    }
    read_through(file, start + skip as u64..start + len as u64);
    ReadAhead::Done
}

/// Makes the OS read a mapping by large pages, two at a time, when a reader comes to them. Returns `false` if the OS
/// does not do that, or if the mapping without its first `skip` bytes is too short.
///
/// For a mapping with `MADV_HUGEPAGE` the OS reads by large pages, without the copy of a `read`. This takes about half
/// the processor time of [`read_through`], and the next large page is on its way while the reader reads the one before.
/// (With `MADV_POPULATE_READ` the reader would wait for all of it first.) Without the advice, the OS reads only as far
/// as the disk's read-ahead setting, often 128 KiB. For `MADV_WILLNEED` it uses the smallest pages, which make each
/// later mapping dearer.
///
/// # Safety
///
/// As for [`advise`].
#[cfg(target_os = "linux")]
unsafe fn advise_large_pages(address: *mut u8, len: usize, skip: usize) -> bool {
    // For a shorter range, the OS would read more than requested.
    len - skip >= 2 * LARGE_PAGE
        && reads_ahead_by_large_pages()
        // SAFETY: by the contract of this function; advice changes no byte.
        && unsafe { libc::madvise(address.cast(), len, libc::MADV_HUGEPAGE) } == 0
}

/// Returns `true` if the OS reads files by large pages for mappings with `MADV_HUGEPAGE`: Linux since 5.18. (It has
/// `MADV_POPULATE_READ` since 5.14.)
#[cfg(target_os = "linux")]
fn reads_ahead_by_large_pages() -> bool {
    static DOES: OnceLock<bool> = OnceLock::new();
    *DOES.get_or_init(|| {
        // SAFETY: zeros are a valid `utsname`, which consists of arrays of numbers.
        let mut name = unsafe { std::mem::zeroed::<libc::utsname>() };
        // SAFETY: `uname` writes one `utsname` to the pointer. If it fails, the release stays empty.
        unsafe { libc::uname(&raw mut name) };
        let release: Vec<u8> = name.release.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
        is_release_at_least(&release, (5, 18))
    })
}

/// Returns `true` if the name of a release, such as `6.1.0-18-amd64`, is that of `version` or a later one.
#[cfg(target_os = "linux")]
fn is_release_at_least(release: &[u8], version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map_while(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return false };
    (major, minor) >= version
}

/// Reads a span of a file and discards the bytes, to bring them into the page cache. Stops at the first failure. Large
/// reads make the OS read as far ahead as requested, by ever larger pages.
#[cfg(target_os = "linux")]
fn read_through(file: &File, span: Range<u64>) {
    // All parts are the same few pages, which stay in the processor's cache.
    let mut scratch = [0_u8; 16 << 10];
    let part = libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: scratch.len() };
    let parts = [part; READ_CHUNK / (16 << 10)];
    let at = |offset: u64| libc::off_t::try_from(offset).ok();
    let mut next = span.start;
    while let Some(offset) = at(next).filter(|_| next < span.end) {
        let len = (span.end - next).min(READ_CHUNK as u64) as usize;
        let count = len.div_ceil(scratch.len()) as libc::c_int;
        // SAFETY: each part is the scratch buffer, whose content is not used.
        match unsafe { libc::preadv(file.as_raw_fd(), parts.as_ptr(), count, offset) } {
            read @ 1.. => next += read as u64,
            _ => break,
        }
    }
}

/// Does nothing: not implemented on this OS. Unsafe only for the signature of the other systems.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn read_ahead(_file: &File, _start: u64, _address: *mut u8, _len: usize, _skip: usize) -> ReadAhead {
    ReadAhead::NotNeeded
}

/// Returns `true` if the OS refused a mapping at a limit: of mappings, of address space, or of locked memory.
pub(crate) fn is_out_of_maps(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN))
}

/// Returns `true` if the OS refused a mapping because of the file: its file system maps no files (ENODEV, ENOTSUP), or
/// a security module or a filter forbids it (EACCES, EPERM, ENOSYS).
pub(crate) fn is_unmappable(error: &io::Error) -> bool {
    const ERRORS: [i32; 5] = [libc::ENODEV, libc::ENOTSUP, libc::EACCES, libc::EPERM, libc::ENOSYS];
    error.raw_os_error().is_some_and(|number| ERRORS.contains(&number))
}

/// Returns `true` if the OS refused a descriptor at the limit of the process (EMFILE) or of the system (ENFILE).
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Returns the limit on mappings of a process, or `None` if it is unknown.
pub(crate) fn map_limit() -> Option<usize> {
    fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

fn soft_limit(resource: RlimitResource) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `getrlimit` writes one `rlimit` to the pointer.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "rlim_t is not u64 everywhere")]
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type RlimitResource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type RlimitResource = libc::c_int;

/// Returns the soft limit on descriptors of this process, or `None` if it is unlimited or unknown.
pub(crate) fn descriptor_limit() -> Option<usize> {
    soft_limit(libc::RLIMIT_NOFILE).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Returns the bytes of memory that this process may use: the least of physical memory, control group and `ulimit -v`.
pub(crate) fn memory_limit() -> Option<u64> {
    // SAFETY: `sysconf` only reads.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    let physical = u64::try_from(pages).ok().filter(|&pages| pages > 0).map(|pages| pages * page_size() as u64);
    [physical, control_group_limit(), soft_limit(libc::RLIMIT_AS)].into_iter().flatten().min()
}

/// Returns the smallest memory limit from this process's control group up to the root, in version 2 or version 1.
fn control_group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups
        .lines()
        .filter_map(|line| {
            // The format is hierarchy-ID:controllers:path. In version 2, the list of controllers is empty.
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, Path::new(fields.next()?.trim_start_matches('/')));
            let (root, file) = if controllers.is_empty() {
                (Path::new("/sys/fs/cgroup"), "memory.max")
            } else if controllers.split(',').any(|controller| controller == "memory") {
                (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            } else {
                return None;
            };
            // Inside a container the path may not exist below the mount. Then the limit of the mount's root applies.
            group
                .ancestors()
                .filter_map(|group| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse::<u64>().ok())
                .min()
        })
        .min()
}

/// Returns a hint for an error message: the limit on mappings, and how to raise it.
pub(crate) fn map_limit_hint(error: &io::Error) -> String {
    // Read line by line: when the OS refuses a mapping, it may also refuse the memory for the whole list. Lines are
    // bytes, since names of files need not be UTF-8.
    let lines = |list| BufReader::new(list).split(b'\n').map_while(Result::ok);
    let held = File::open("/proc/self/maps").map(|list| lines(list).count());
    let mut hint = match (held, map_limit()) {
        (Ok(held), Some(limit)) => {
            format!("this process has {held} of at most {limit} mappings (sysctl vm.max_map_count)")
        }
        _ => "this process may have too many mappings".to_owned(),
    };
    if let Some(limit) = soft_limit(libc::RLIMIT_AS) {
        hint += &format!(", in at most {limit} bytes of address space (ulimit -v)");
    }
    // Linux refuses with ENOMEM at every other limit.
    if let (Some(libc::EAGAIN), Some(limit)) = (error.raw_os_error(), soft_limit(libc::RLIMIT_MEMLOCK)) {
        hint = format!("after mlockall, this process may have at most {limit} bytes of memory (ulimit -l); {hint}");
    }
    hint + "; raise the limit that was hit, or lower max_mapped_bytes or max_regions"
}

/// Returns a hint for an error message: the limit on descriptors, and how to raise it.
pub(crate) fn descriptor_limit_hint() -> String {
    let limit = descriptor_limit().map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    format!("this process may have {limit} descriptors (ulimit -n); raise that, or lower max_open_files")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Helpers that inspect and drop a file's pages in the page cache.
    #[cfg(target_os = "linux")]
    pub(crate) mod page_cache {
        use super::*;
        use crate::mapping::Mapping;

        /// Returns an unlinked file of `len` bytes, all in the page cache.
        pub(crate) fn file_of(len: usize) -> File {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), vec![7; len]).unwrap();
            open(file.path()).unwrap()
        }

        /// Writes the file back and drops its pages. Returns `false`, with a message, if the file system keeps them.
        pub(crate) fn drop_pages(file: &File) -> bool {
            file.sync_all().unwrap();
            // SAFETY: the descriptor is open, and advice changes no byte.
            assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
            let is_gone = !pages(file).contains(&true);
            if !is_gone {
                eprintln!("SKIPPED: read-ahead of cold pages: this file system keeps its pages");
            }
            is_gone
        }

        /// Returns for each page of a nonempty file whether it is in the page cache.
        pub(crate) fn pages(file: &File) -> Vec<bool> {
            let len = file.metadata().unwrap().len() as usize;
            let mapping = Mapping::map(file, 0, len, page_size()).unwrap();
            let mut pages = vec![0; len.div_ceil(page_size())];
            // SAFETY: the range is one mapping, and `pages` has one byte for each of its pages.
            assert_eq!(unsafe { libc::mincore(mapping.address().as_ptr().cast(), len, pages.as_mut_ptr()) }, 0);
            pages.into_iter().map(|page| page & 1 == 1).collect()
        }
    }

    #[test]
    fn limits_of_this_machine_are_plausible() {
        assert!(page_size() >= 4096);
        assert!(memory_limit().is_none_or(|bytes| bytes > 16 << 20));
        assert!(descriptor_limit().is_none_or(|limit| limit > 8));
        let hint = map_limit_hint(&io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(hint.contains("max_regions"), "{hint}");
    }

    #[test]
    fn read_at_beyond_the_largest_offset_reads_nothing() {
        let file = open(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(read_at(&file, &mut [0], u64::MAX).unwrap(), 0);
    }

    #[cfg(target_os = "linux")]
    mod linux {
        use super::*;
        use crate::mapping::Mapping;
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        #[test]
        fn better_address_has_the_offset_of_the_file_in_a_large_page() {
            const PAGE: usize = LARGE_PAGE;
            let at = 64 * PAGE;
            for (address, start, len, better) in [
                // Aligned already.
                (at, 0, PAGE, None),
                (at + 4096, 4096, 2 * PAGE - 4096, None),
                (at + 4096, 0, PAGE, Some(at)),
                (at, 4096, 2 * PAGE - 4096, Some(at - PAGE + 4096)),
                // No whole large page in the range.
                (at + 4096, 0, PAGE - 1, None),
                (at, 4096, 2 * PAGE - 4097, None),
                // No address below.
                (4096, 8192, 4 * PAGE, None),
            ] {
                assert_eq!(better_address(address, start, len), better, "{len} bytes of {start} at {address}");
            }
        }

        #[test]
        fn map_limit_hint_with_a_file_name_that_is_not_text_counts_mappings() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(OsStr::from_bytes(b"not text: \xff"));
            fs::write(&path, b"mapped").unwrap();
            let _mapping = Mapping::map(&open(&path).unwrap(), 0, 6, page_size()).unwrap();
            let hint = map_limit_hint(&io::Error::from_raw_os_error(libc::ENOMEM));
            assert!(hint.contains("vm.max_map_count"), "{hint}");
        }

        #[test]
        fn read_ahead_of_cold_pages_reads_all_and_of_warm_pages_reads_nothing() {
            // The first length is read by `read_through`, the second by large pages.
            for len in [3 * READ_CHUNK + 123, 5 * LARGE_PAGE + 123] {
                let file = page_cache::file_of(len);
                let mapping = Mapping::map(&file, 0, len, page_size()).unwrap();
                assert_eq!(mapping.read_ahead(&file, 0, 0), ReadAhead::NotNeeded, "the pages were just written");
                if !page_cache::drop_pages(&file) {
                    return;
                }
                let read = mapping.read_ahead(&file, 0, 0);
                assert_eq!(read == ReadAhead::OnAccess, len >= 2 * LARGE_PAGE && reads_ahead_by_large_pages());
                // SAFETY: the bytes lie inside the mapping, and no other process has the file.
                let bytes = unsafe { std::slice::from_raw_parts(mapping.address().as_ptr(), len) };
                assert!(bytes.iter().step_by(4096).all(|&byte| byte == 7));
                mapping.advise(Advice::SmallPages);
                assert!(!page_cache::pages(&file).contains(&false), "{len} bytes");
                assert_eq!(mapping.read_ahead(&file, 0, 0), ReadAhead::NotNeeded);
                // Otherwise a later access of an evicted page would read two large pages.
                let maps = fs::read_to_string("/proc/self/smaps").unwrap();
                let first = format!("{:x}-", mapping.address().as_ptr() as usize);
                let mut lines = maps.lines().skip_while(|line| !line.starts_with(&first));
                let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("the mapping is listed");
                assert!(!flags.split(' ').any(|flag| flag == "hg"), "the advice is still set: {flags}");
            }
        }

        #[test]
        fn read_through_past_the_end_stops_at_the_end_of_the_file() {
            let file = page_cache::file_of(5 * LARGE_PAGE);
            if !page_cache::drop_pages(&file) {
                return;
            }
            read_through(&file, 0..6 * LARGE_PAGE as u64);
            assert!(!page_cache::pages(&file).contains(&false));
            read_through(&file, u64::MAX - 1..u64::MAX);
        }

        #[test]
        fn is_release_at_least_compares_numbers() {
            for release in ["5.18.0", "6.1.0-18-amd64", "10.0-rc1"] {
                assert!(is_release_at_least(release.as_bytes(), (5, 18)), "{release}");
            }
            for release in ["5.17.9-arch1", "5.4", "4.19", "5", "", "Linux 6.1", "6.x"] {
                assert!(!is_release_at_least(release.as_bytes(), (5, 18)), "{release}");
            }
        }
    }
}
