//! Linux, macOS, the BSDs.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{BufRead, BufReader};
#[cfg(target_os = "linux")]
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::{io, mem};

use super::{Advice, Kind, Stat};

pub(crate) fn page_size() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: `sysconf` only reads.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
    })
}

/// Where in a file a mapping may start: at multiples of this.
pub(crate) fn mapping_granularity() -> usize {
    page_size()
}

/// Opens for reading. Does not wait for the other end of a pipe, and does not make a terminal the process's own.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Whether `file` was opened for reading.
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
    file.metadata().map(|metadata| from_metadata(&metadata))
}

pub(crate) fn stat_path(path: &Path) -> io::Result<Stat> {
    fs::metadata(path).map(|metadata| from_metadata(&metadata))
}

fn from_metadata(metadata: &Metadata) -> Stat {
    let kind = metadata.file_type();
    let kind = if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Other("a directory")
    } else if kind.is_fifo() {
        Kind::Other("a pipe")
    } else if kind.is_socket() {
        Kind::Other("a socket")
    } else if kind.is_block_device() || kind.is_char_device() {
        Kind::Other("a device")
    } else {
        Kind::Other("no regular file")
    };
    Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        born: metadata.created().ok(),
        len: metadata.len(),
        modified: metadata.modified().ok(),
        changed: Some((metadata.ctime(), metadata.ctime_nsec())),
        links: metadata.nlink(),
        attributes: [metadata.mode(), metadata.uid(), metadata.gid()],
        kind,
    }
}

#[inline]
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    // Beyond what the system can express there is no file.
    if i64::try_from(offset).is_err() {
        return Ok(0);
    }
    file.read_at(buf, offset)
}

/// Gives a mapping back. It can be refused: when the system has merged it with its neighbours, taking it out makes one
/// mapping more, which may be one too many.
///
/// # Safety
///
/// `address` and `len` are those of one mapping that nothing refers to any more.
pub(crate) unsafe fn unmap(address: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: the caller's promise.
    match unsafe { libc::munmap(address.cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the page tables of most machines can map by one entry, or keep by one in their caches.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LARGE_PAGE: usize = 2 << 20;

/// Where a mapping should lie that was put at `address` and is of the file from `start` on, so that large pages of the file
/// can be mapped as such: at the same distance from a border of large pages as in the file. `None` if it does already, or has
/// no such page in it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn better_place(address: usize, start: u64, len: usize) -> Option<usize> {
    let (page, at) = (LARGE_PAGE, start as usize % LARGE_PAGE);
    let has_large_page = at.next_multiple_of(page) - at + page <= len;
    let off = address.wrapping_sub(at) % page;
    (has_large_page && off != 0).then(|| address.checked_sub(off)).flatten()
}

/// Maps once more what has just been mapped, if another place suits large pages better; and gives the address where it is now.
/// If that fails, nothing is mapped any more.
///
/// Some file systems look after that themselves (ext4 does); others do not, such as overlayfs, which containers stand on: there
/// a sum over warm data in large folios, vectorized, took 1.6 × as long where it was not done by hand (87 to 102 ms for 1 GiB
/// against 53 to 63; 2026-11-21, Linux 6.18). The system fills its address space from the top, so just below is most likely
/// free; if it is not, the mapping goes wherever the system wants to have it. The next window then fits below this one.
///
/// # Safety
///
/// `address` and `len` are those of a mapping of `file` from `start` on that nothing refers to.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) unsafe fn realign(file: &File, start: u64, address: *mut u8, len: usize) -> io::Result<*mut u8> {
    let Some(better) = better_place(address as usize, start, len) else { return Ok(address) };
    // First, so that there are never two. A mapping that the system does not take back stays as good as it is.
    // SAFETY: the caller's promise.
    if unsafe { unmap(address, len) }.is_err() {
        return Ok(address);
    }
    let offset = libc::off64_t::try_from(start).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (protection, flags, file) = (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
    // SAFETY: without `MAP_FIXED` the address is a wish, and what is mapped there stays.
    let mapped = unsafe { libc::mmap64(better as *mut libc::c_void, len, protection, flags, file, offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped.cast()) }
}

/// There is nothing to gain here, as far as is known.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) unsafe fn realign(_file: &File, _start: u64, address: *mut u8, _len: usize) -> io::Result<*mut u8> {
    Ok(address)
}

/// A hint; that a system does not know it is no error.
///
/// # Safety
///
/// `address` and `len` lie within one mapping of a file, `address` at a page.
pub(crate) unsafe fn advise(address: *mut u8, len: usize, advice: Advice) {
    let will_need = || {
        // SAFETY: the caller's promise; advice changes no byte.
        let _ = unsafe { libc::madvise(address.cast(), len, libc::MADV_WILLNEED) };
    };
    match advice {
        Advice::WillNeed => will_need(),
        // What was not there has been read in.
        Advice::Sequential if cfg!(target_os = "linux") => {}
        Advice::Sequential => will_need(),
    }
}

/// Has the pages there, as touching them would, but reports one that cannot be had. `false`: this system cannot do that, or
/// not now (Linux can since 5.14).
///
/// # Safety
///
/// As for [`advise`].
pub(crate) unsafe fn populate(address: *mut u8, len: usize) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // SAFETY: the caller's promise; it changes no byte.
        if unsafe { libc::madvise(address.cast(), len, libc::MADV_POPULATE_READ) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Past the end of the file, or of a bad medium.
            Some(libc::EFAULT | libc::EHWPOISON | libc::EIO) => Err(error),
            _ => Ok(false),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (address, len);
        Ok(false)
    }
}

/// Bytes read by one call of [`read_through`].
#[cfg(target_os = "linux")]
const READ_CHUNK: usize = 1 << 20;

/// Has `len` bytes of a file from `start` on, which are mapped at `address`, in the system's page cache, if the last of them
/// is not there; whether it had to. A hint: what cannot be read is left for those to find out who read it.
///
/// # Safety
///
/// As for [`advise`]. (A read that must not wait would tell as well what is there, but begins to read at that place.)
#[cfg(target_os = "linux")]
pub(crate) unsafe fn read_ahead(file: &File, start: u64, address: *mut u8, len: usize) -> bool {
    let Some(last) = len.checked_sub(1) else { return false };
    let mut is_there = 1;
    // SAFETY: the page of the mapping's last byte, and a byte to tell of one page.
    let asked = unsafe { libc::mincore(address.wrapping_add(last - last % page_size()).cast(), 1, &mut is_there) };
    // To who may not know, all is said to be there.
    if asked != 0 || is_there & 1 == 1 {
        return false;
    }
    // SAFETY: the caller's promise.
    if !unsafe { populate_by_large_pages(address, len) } {
        read_through(file, start..start + len as u64);
    }
    true
}

/// Reads a mapping in by its faults, two large pages at a time and one more ahead; whether that was done, to the end.
///
/// For a touch, and for [`populate`], the system reads as far as the disk is set to (128 KiB often), and for `MADV_WILLNEED`
/// with the smallest pages, which make each later map dearer. But a mapping that wants large pages it reads by those, whatever
/// the disk is set to, as far ahead as a long read would, and without the copy that costs a long read most of its time. The
/// wish is taken back at once: who reads here and there, when the pages have gone again, is not to have 4 MiB read for each
/// byte. (They are not mapped as large ones then, until this is asked for again.)
///
/// Measured on 512 MiB in windows of 16 MiB, against `read` of 1 MiB: 0.16 × its processor time and 0.7 × its time, where
/// [`read_through`] takes 0.34 × and 0.7 to 0.8 ×; with a disk set to 128 KiB 0.13 × and 0.7 × against 0.4 × and 0.75 ×
/// (2026-11-21; Linux 6.18, ext4, 2 virtual cores that had other work, the best tenth of the rounds).
///
/// # Safety
///
/// As for [`advise`].
#[cfg(target_os = "linux")]
unsafe fn populate_by_large_pages(address: *mut u8, len: usize) -> bool {
    // Of less, it would read more than was asked for.
    if len < 2 * LARGE_PAGE || !reads_ahead_by_large_pages() {
        return false;
    }
    // SAFETY: the caller's promise; advice changes no byte.
    if unsafe { libc::madvise(address.cast(), len, libc::MADV_HUGEPAGE) } != 0 {
        return false;
    }
    // SAFETY: as above.
    let is_done = unsafe { libc::madvise(address.cast(), len, libc::MADV_POPULATE_READ) } == 0;
    // SAFETY: as above.
    let _ = unsafe { libc::madvise(address.cast(), len, libc::MADV_NOHUGEPAGE) };
    is_done
}

/// Whether the system reads a file by large pages for a mapping that wants them: Linux since 5.18. (`MADV_POPULATE_READ` is
/// older, so it does not tell.)
#[cfg(target_os = "linux")]
fn reads_ahead_by_large_pages() -> bool {
    static DOES: OnceLock<bool> = OnceLock::new();
    *DOES.get_or_init(|| {
        let mut name = mem::MaybeUninit::<libc::utsname>::zeroed();
        // SAFETY: `uname` writes one `utsname` to where it is told.
        if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
            return false;
        }
        // SAFETY: it succeeded, so it has written it.
        let name = unsafe { name.assume_init() };
        let release: Vec<u8> = name.release.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
        is_release_at_least(&release, (5, 18))
    })
}

/// Whether the name of a release, such as `6.1.0-18-amd64`, is of this version or a later one.
#[cfg(target_os = "linux")]
fn is_release_at_least(release: &[u8], version: (u32, u32)) -> bool {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map_while(|digits| {
        let digits = std::str::from_utf8(digits).ok()?;
        digits.parse::<u32>().ok()
    });
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return false };
    (major, minor) >= version
}

/// Reads a span of a file for nobody, as far as it goes.
///
/// By large reads, although nobody wants a copy: the system reads as far ahead as it is asked for, and goes on with ever larger
/// pages.
#[cfg(target_os = "linux")]
fn read_through(file: &File, span: Range<u64>) {
    // All of it goes to the same few pages, which stay in the processor's cache.
    let mut scratch = [0_u8; 16 << 10];
    let part = libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: scratch.len() };
    let parts = [part; READ_CHUNK / (16 << 10)];
    let at = |offset: u64| libc::off_t::try_from(offset).ok();
    let mut next = span.start;
    while let Some(offset) = at(next).filter(|_| next < span.end) {
        let len = (span.end - next).min(READ_CHUNK as u64) as usize;
        let count = len.div_ceil(scratch.len()) as libc::c_int;
        // SAFETY: each part is the scratch, which nobody looks at.
        match unsafe { libc::preadv(file.as_raw_fd(), parts.as_ptr(), count, offset) } {
            read @ 1.. => next += read as u64,
            _ => break,
        }
    }
}

/// Not done here.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn read_ahead(_file: &File, _start: u64, _address: *mut u8, _len: usize) -> bool {
    false
}

/// Whether the system refused a mapping for want of room: of mappings, of address space, of locked memory.
pub(crate) fn is_out_of_maps(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN))
}

/// Whether the system refused a descriptor: of this process (EMFILE), or of all (ENFILE).
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN))
}

/// How many mappings a process may have, where that is a number.
pub(crate) fn map_limit() -> Option<usize> {
    fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

fn soft_limit(resource: RlimitResource) -> Option<u64> {
    let mut limit = mem::MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: `getrlimit` writes one `rlimit` to where it is told.
    if unsafe { libc::getrlimit(resource, limit.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: it succeeded, so it has written it.
    let limit = unsafe { limit.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "rlim_t is not u64 everywhere")]
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type RlimitResource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type RlimitResource = libc::c_int;

/// How many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> Option<usize> {
    soft_limit(libc::RLIMIT_NOFILE).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How much memory this process may use: the machine's, or less if its control group or its limits say so.
pub(crate) fn memory_limit() -> Option<u64> {
    // SAFETY: `sysconf` only reads.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    let physical = u64::try_from(pages).ok().filter(|&pages| pages > 0).map(|pages| pages * page_size() as u64);
    [physical, control_group_limit(), soft_limit(libc::RLIMIT_AS)].into_iter().flatten().min()
}

/// The smallest memory limit on the way from this process's control group up to the root; version 2, or else version 1.
fn control_group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups
        .lines()
        .filter_map(|line| {
            // hierarchy-ID:controllers:path; version 2 has no controllers here.
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, Path::new(fields.next()?.trim_start_matches('/')));
            let (root, file) = if controllers.is_empty() {
                (Path::new("/sys/fs/cgroup"), "memory.max")
            } else if controllers.split(',').any(|controller| controller == "memory") {
                (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            } else {
                return None;
            };
            // Inside a container the path may not exist below the mount; then the mount's own root speaks.
            group
                .ancestors()
                .filter_map(|group| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse::<u64>().ok())
                .min()
        })
        .min()
}

/// Which limit on mappings was hit, and how to raise it.
pub(crate) fn map_limit_hint() -> String {
    // Line by line: where a mapping is refused, so may be the memory for a list of all of them. And the names of files
    // need not be text.
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
    hint + "; raise the limit that was hit, or lower max_mapped_bytes or max_regions"
}

/// Which limit on descriptors was hit, and how to raise it.
pub(crate) fn descriptor_limit_hint() -> String {
    let limit = descriptor_limit().map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    format!("this process may have {limit} descriptors (ulimit -n); raise that, or lower max_open_files")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the page cache holds of a file.
    #[cfg(target_os = "linux")]
    pub(crate) mod page_cache {
        use super::*;
        use crate::mapping::Mapping;

        /// A file of so many bytes, all of them in memory. It has no name.
        pub(crate) fn file_of(len: usize) -> File {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), vec![7; len]).unwrap();
            open(file.path()).unwrap()
        }

        /// Writes the file back and drops its pages; `false`, said aloud, where they do not go.
        pub(crate) fn drop_pages(file: &File) -> bool {
            file.sync_all().unwrap();
            // SAFETY: advice about a descriptor that is open.
            assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
            let is_gone = !pages(file).contains(&true);
            if !is_gone {
                eprintln!("SKIPPED: reading in of what is cold: this file system keeps its pages");
            }
            is_gone
        }

        /// Which pages of a file, which is not empty, are there.
        pub(crate) fn pages(file: &File) -> Vec<bool> {
            let len = file.metadata().unwrap().len() as usize;
            let mapping = Mapping::map(file, 0, len).unwrap();
            let mut pages = vec![0; len.div_ceil(page_size())];
            // SAFETY: all of a mapping, and a byte for each of its pages.
            assert_eq!(unsafe { libc::mincore(mapping.address().as_ptr().cast(), len, pages.as_mut_ptr()) }, 0);
            pages.into_iter().map(|page| page & 1 == 1).collect()
        }
    }

    #[test]
    fn this_machine_has_limits_that_make_sense() {
        assert!(page_size() >= 4096);
        assert!(memory_limit().is_none_or(|bytes| bytes > 16 << 20));
        assert!(descriptor_limit().is_none_or(|limit| limit > 8));
        assert!(map_limit_hint().contains("max_regions"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_better_place_is_as_far_from_a_large_page_as_in_the_file() {
        const PAGE: usize = LARGE_PAGE;
        let at = 64 * PAGE;
        assert_eq!(better_place(at, 0, PAGE), None, "well placed");
        assert_eq!(better_place(at + 4096, 0, PAGE), Some(at));
        assert_eq!(better_place(at + 4096, 0, PAGE - 1), None, "no large page in it");
        assert_eq!(better_place(at + 4096, 4096, 2 * PAGE - 4096), None, "well placed");
        assert_eq!(better_place(at, 4096, 2 * PAGE - 4096), Some(at - PAGE + 4096));
        assert_eq!(better_place(at, 4096, 2 * PAGE - 4097), None, "no large page in it");
        assert_eq!(better_place(4096, 8192, 4 * PAGE), None, "nothing is below");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn mappings_are_counted_whatever_their_files_are_called() {
        use crate::mapping::Mapping;
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(OsStr::from_bytes(b"not text: \xff"));
        fs::write(&path, b"mapped").unwrap();
        let _mapping = Mapping::map(&open(&path).unwrap(), 0, 6).unwrap();
        assert!(map_limit_hint().contains("vm.max_map_count"), "{}", map_limit_hint());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn read_ahead_of_cold_pages_reads_all_and_of_warm_pages_reads_nothing() {
        // By a read, and by large pages.
        for len in [3 * READ_CHUNK + 123, 5 * LARGE_PAGE + 123] {
            let file = page_cache::file_of(len);
            let mapping = crate::mapping::Mapping::map(&file, 0, len).unwrap();
            assert!(!mapping.read_ahead(&file, 0), "just written");
            if !page_cache::drop_pages(&file) {
                return;
            }
            assert!(mapping.read_ahead(&file, 0));
            assert!(!page_cache::pages(&file).contains(&false), "{len} bytes");
            assert!(!mapping.read_ahead(&file, 0));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn read_through_past_the_end_stops_at_the_end_of_the_file() {
        let file = page_cache::file_of(5 * LARGE_PAGE);
        if !page_cache::drop_pages(&file) {
            return;
        }
        read_through(&file, 0..6 * LARGE_PAGE as u64);
        assert!(!page_cache::pages(&file).contains(&false));
        read_through(&file, u64::MAX - 1..u64::MAX);
    }

    /// Or each byte that somebody reads there later, when its page has gone, would take two large ones to be read.
    #[test]
    #[cfg(target_os = "linux")]
    fn no_wish_for_large_pages_is_left() {
        let file = page_cache::file_of(4 * LARGE_PAGE);
        let mapping = crate::mapping::Mapping::map(&file, 0, 4 * LARGE_PAGE).unwrap();
        if !page_cache::drop_pages(&file) {
            return;
        }
        assert!(mapping.read_ahead(&file, 0));
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let first = format!("{:x}-", mapping.address().as_ptr() as usize);
        let flags = maps.lines().skip_while(|line| !line.starts_with(&first)).find(|line| line.starts_with("VmFlags:"));
        let flags = flags.expect("the mapping is listed");
        assert!(!flags.split(' ').any(|flag| flag == "hg"), "{flags}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn releases_are_compared_by_their_numbers() {
        for (release, is_at_least) in [
            ("5.18.0", true),
            ("5.17.9-arch1", false),
            ("5.4", false),
            ("6.1.0-18-amd64", true),
            ("10.0-rc1", true),
            ("4.19", false),
            ("5", false),
            ("", false),
            ("Linux 6.1", false),
            ("6.x", false),
        ] {
            assert_eq!(is_release_at_least(release.as_bytes(), (5, 18)), is_at_least, "{release}");
        }
    }

    #[test]
    fn what_was_opened_for_writing_only_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        assert!(!is_readable(&file).unwrap());
        assert!(is_readable(&open(&path).unwrap()).unwrap());
    }

    #[test]
    fn an_offset_beyond_the_possible_reads_nothing() {
        let file = open(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(read_at(&file, &mut [0], u64::MAX).unwrap(), 0);
    }
}
