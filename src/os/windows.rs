//! The functions of [`os`](super) on Windows.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_COMMITMENT_LIMIT, ERROR_HANDLE_EOF, ERROR_INVALID_FUNCTION, ERROR_NO_SYSTEM_RESOURCES,
    ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_SUPPORTED, ERROR_TOO_MANY_OPEN_FILES, FILETIME,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_FLAG_BACKUP_SEMANTICS, FILE_ID_INFO,
    FILE_INFO_BY_HANDLE_CLASS, FILE_READ_ATTRIBUTES, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FILE_STANDARD_INFO, FILE_TYPE_DISK, FileIdInfo, FileStandardInfo, GetFileInformationByHandle,
    GetFileInformationByHandleEx, GetFileType,
};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, PAGE_READONLY, UnmapViewOfFile,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, GlobalMemoryStatusEx, MEMORYSTATUSEX, SYSTEM_INFO};

use super::{Advice, Kind, ReadAhead, Stat};

/// Returns the page size and the allocation granularity.
fn system_info() -> (usize, usize) {
    static INFO: OnceLock<(usize, usize)> = OnceLock::new();
    *INFO.get_or_init(|| {
        let mut info = MaybeUninit::<SYSTEM_INFO>::uninit();
        // SAFETY: `GetSystemInfo` writes one `SYSTEM_INFO` to the pointer, and cannot fail.
        unsafe { GetSystemInfo(info.as_mut_ptr()) };
        // SAFETY: `GetSystemInfo` has initialised `info`.
        let info = unsafe { info.assume_init() };
        (info.dwPageSize as usize, info.dwAllocationGranularity as usize)
    })
}

pub(crate) fn page_size() -> usize {
    system_info().0
}

/// Returns the granularity of mappings: a mapping starts at a multiple of it in the file.
pub(crate) fn mapping_granularity() -> usize {
    system_info().1
}

/// Opens a file for reading. Other processes may write, rename and delete it at the same time.
///
/// Directories can be opened too: the caller refuses them by their kind.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_shared(OpenOptions::new().read(true), path)
}

fn open_shared(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    options.share_mode(share).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)
}

/// Returns `true` if `file` was opened for reading, by a read of no bytes. A pipe or a device is not asked, since the
/// read could wait.
pub(crate) fn is_readable(file: &File) -> io::Result<bool> {
    Ok(!is_on_disk(file) || !file.seek_read(&mut [], 0).is_err_and(|error| is_one_of(&error, &[ERROR_ACCESS_DENIED])))
}

fn is_on_disk(file: &File) -> bool {
    // SAFETY: the handle is open as long as `file` is borrowed.
    unsafe { GetFileType(file.as_raw_handle()) == FILE_TYPE_DISK }
}

pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    let is_on_disk = is_on_disk(file);
    let mut info = MaybeUninit::<BY_HANDLE_FILE_INFORMATION>::zeroed();
    // SAFETY: `GetFileInformationByHandle` writes one `BY_HANDLE_FILE_INFORMATION` to the pointer, and the handle is
    // open as long as `file` is borrowed.
    if is_on_disk && unsafe { GetFileInformationByHandle(file.as_raw_handle(), info.as_mut_ptr()) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a valid value of this structure of integers.
    let info = unsafe { info.assume_init() };
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    // The numbers of ReFS have 128 bits. FAT has none, and then the OS makes up shorter ones.
    // SAFETY: `FileIdInfo` is the class of `FILE_ID_INFO`, which consists of integers.
    let id = unsafe { information::<FILE_ID_INFO>(file, FileIdInfo) };
    let (device, inode) = match id {
        Some(id) => (id.VolumeSerialNumber, u128::from_ne_bytes(id.FileId.Identifier)),
        None => (info.dwVolumeSerialNumber.into(), wide(info.nFileIndexHigh, info.nFileIndexLow).into()),
    };
    // A file that was deleted while it is open still counts its last link.
    // SAFETY: `FileStandardInfo` is the class of `FILE_STANDARD_INFO`, which consists of integers.
    let standard = unsafe { information::<FILE_STANDARD_INFO>(file, FileStandardInfo) };
    let is_deleted = standard.is_some_and(|standard| standard.DeletePending != 0);
    Ok(Stat {
        device,
        inode,
        // Wine reports the time of the last write instead.
        born: if cfg!(smmap_wine) { None } else { time(info.ftCreationTime) },
        len: wide(info.nFileSizeHigh, info.nFileSizeLow),
        is_sparse: false,
        modified: time(info.ftLastWriteTime),
        changed: None,
        links: if is_deleted { 0 } else { info.nNumberOfLinks.into() },
        attributes: [info.dwFileAttributes, 0, 0],
        kind: match (is_on_disk, info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY != 0) {
            (false, _) => Kind::Other("a pipe or a device"),
            (true, true) => Kind::Other("a directory"),
            (true, false) => Kind::File,
        },
    })
}

/// Returns one class of information about `file`, or `None` if the file system does not offer it.
///
/// # Safety
///
/// `T` must be the structure of `class`, and all zeros must be a valid value of it.
unsafe fn information<T>(file: &File, class: FILE_INFO_BY_HANDLE_CLASS) -> Option<T> {
    let mut info = MaybeUninit::<T>::zeroed();
    let (handle, size) = (file.as_raw_handle(), size_of::<T>() as u32);
    // SAFETY: the OS writes at most `size` bytes to the pointer, and the handle is open as long as `file` is borrowed.
    let succeeded = unsafe { GetFileInformationByHandleEx(handle, class, info.as_mut_ptr().cast(), size) } != 0;
    // SAFETY: the caller promises that zeros are a valid value, and the OS wrote one of this type over them.
    succeeded.then(|| unsafe { info.assume_init() })
}

/// Examines the file at `path` without a right to its content, so that no lock of another program is in the way.
pub(crate) fn stat_path(path: &Path) -> io::Result<Stat> {
    stat(&open_shared(OpenOptions::new().access_mode(FILE_READ_ATTRIBUTES), path)?)
}

/// Returns `true` if this process may open the file at `path` for reading. Tries it.
pub(crate) fn may_read(path: &Path) -> bool {
    open(path).is_ok()
}

/// Converts a time in units of 100 ns since 1601. Returns `None` for a time before 1970.
fn time(time: FILETIME) -> Option<SystemTime> {
    const TO_1970: u64 = 11_644_473_600;
    let ticks = u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    let since_1601 = Duration::new(ticks / 10_000_000, (ticks % 10_000_000) as u32 * 100);
    Some(SystemTime::UNIX_EPOCH + since_1601.checked_sub(Duration::from_secs(TO_1970))?)
}

/// Reads at an offset. It also moves the position of the handle, which no other code uses.
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    // No file is longer. Windows refuses larger ends, and some larger offsets mean "at the end" or "at the position".
    if offset > i64::MAX as u64 - buf.len() as u64 {
        return Ok(0);
    }
    match file.seek_read(buf, offset) {
        Err(error) if is_one_of(&error, &[ERROR_HANDLE_EOF]) => Ok(0),
        read => read,
    }
}

/// Maps `len` bytes of `file`, starting at `start`, for reading. Returns the address of the first byte.
///
/// Without memmap2, which duplicates the file's handle for each mapping and ignores a refused unmap.
pub(crate) fn map(file: &File, start: u64, len: usize) -> io::Result<*mut u8> {
    let (handle, no_attributes, no_name) = (file.as_raw_handle(), ptr::null(), ptr::null());
    // SAFETY: the handle is open as long as `file` is borrowed, and null pointers stand for defaults.
    let section = unsafe { CreateFileMappingW(handle, no_attributes, PAGE_READONLY, 0, 0, no_name) };
    if section.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new, so no other code owns it. The view keeps the section after the handle is closed.
    let section = unsafe { OwnedHandle::from_raw_handle(section) };
    let (high, low) = ((start >> 32) as u32, start as u32);
    // SAFETY: this creates a view at an address of the OS's choice, so it replaces no other memory.
    let view = unsafe { MapViewOfFile(section.as_raw_handle(), FILE_MAP_READ, high, low, len) };
    if view.Value.is_null() { Err(io::Error::last_os_error()) } else { Ok(view.Value.cast()) }
}

/// Unmaps a mapping.
///
/// # Safety
///
/// `address` must be that of a mapping of this process, to which nothing refers any more.
pub(crate) unsafe fn unmap(address: *mut u8, _len: usize) -> io::Result<()> {
    let view = MEMORY_MAPPED_VIEW_ADDRESS { Value: address.cast() };
    // SAFETY: the caller promises that nothing refers to the mapping.
    if unsafe { UnmapViewOfFile(view) } == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the address unchanged: Windows aligns mappings to 64 KiB and offers no other alignment.
///
/// # Safety
///
/// No requirements; `unsafe` for the same signature as on other systems.
pub(crate) unsafe fn realign(_file: &File, _start: u64, address: *mut u8, _len: usize) -> io::Result<*mut u8> {
    Ok(address)
}

/// Does nothing: Windows has no cheap advice of this kind.
///
/// # Safety
///
/// No requirements; `unsafe` for the same signature as on other systems.
pub(crate) unsafe fn advise(_address: *mut u8, _len: usize, _advice: Advice) {}

/// Returns `false`: Windows cannot read the pages of a mapping without accessing them.
///
/// # Safety
///
/// No requirements; `unsafe` for the same signature as on other systems.
pub(crate) unsafe fn populate(_address: *mut u8, _len: usize) -> io::Result<bool> {
    Ok(false)
}

/// Returns `false`: not implemented on Windows.
pub(crate) fn will_need(_file: &File, _range: Range<u64>) -> bool {
    false
}

/// Returns `true`: not implemented on Windows.
pub(crate) fn was_accessed(_address: usize) -> bool {
    true
}

/// Returns `false`: not implemented on Windows.
///
/// # Safety
///
/// No requirements; `unsafe` for the same signature as on other systems.
pub(crate) unsafe fn read_ahead(_file: &File, _start: u64, _address: *mut u8, _len: usize, _skip: usize) -> ReadAhead {
    ReadAhead::NotNeeded
}

fn is_one_of(error: &io::Error, codes: &[u32]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.iter().any(|&known| known as i32 == code))
}

pub(crate) fn is_out_of_maps(error: &io::Error) -> bool {
    is_one_of(error, &[ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES, ERROR_COMMITMENT_LIMIT])
}

pub(crate) fn is_unmappable(error: &io::Error) -> bool {
    is_one_of(error, &[ERROR_ACCESS_DENIED, ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED])
}

pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    is_one_of(error, &[ERROR_TOO_MANY_OPEN_FILES, ERROR_NO_SYSTEM_RESOURCES])
}

pub(crate) fn map_limit() -> Option<usize> {
    None
}

pub(crate) fn descriptor_limit() -> Option<usize> {
    None
}

pub(crate) fn memory_limit() -> Option<u64> {
    // SAFETY: all zeros are a valid value of this structure of integers.
    let mut status: MEMORYSTATUSEX = unsafe { std::mem::zeroed() };
    status.dwLength = size_of::<MEMORYSTATUSEX>() as u32;
    // SAFETY: `GlobalMemoryStatusEx` fills the structure, whose length is set.
    let succeeded = unsafe { GlobalMemoryStatusEx(&mut status) } != 0;
    succeeded.then_some(status.ullTotalPhys.min(status.ullTotalVirtual))
}

pub(crate) fn map_limit_hint(_error: &io::Error) -> String {
    "this process may be out of address space: lower max_mapped_bytes or max_regions".to_owned()
}

pub(crate) fn descriptor_limit_hint() -> String {
    "this process may have too many handles: lower max_open_files".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn is_readable_tells_handles_for_writing_only() {
        let on_disk = file_with(b"abc");
        let write_only = OpenOptions::new().write(true).open(on_disk.path()).unwrap();
        assert!(!is_readable(&write_only).unwrap());
        assert!(is_readable(&open(on_disk.path()).unwrap()).unwrap());
    }

    #[test]
    fn stat_path_of_a_file_locked_by_another_program_succeeds() {
        let (file, path) = file_with(b"abc").into_parts();
        drop(file);
        let _locked = OpenOptions::new().read(true).share_mode(0).open(&path).unwrap();
        assert!(open(&path).is_err());
        assert_eq!(stat_path(&path).unwrap().len, 3);
    }

    #[test]
    #[cfg_attr(smmap_wine, ignore = "Wine does not report that a file is to be deleted")]
    fn stat_of_a_deleted_open_file_counts_no_links() {
        let (file, path) = file_with(b"abc").into_parts();
        drop(file);
        let file = open(&path).unwrap();
        assert_eq!(stat(&file).unwrap().links, 1);
        path.close().unwrap();
        assert_eq!(stat(&file).unwrap().links, 0);
    }

    #[test]
    fn read_at_beyond_the_largest_offset_finds_the_end() {
        let file = open(file_with(b"abc").path()).unwrap();
        for offset in [i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX] {
            assert_eq!(read_at(&file, &mut [0; 4], offset).unwrap(), 0, "{offset}");
        }
    }

    #[test]
    fn map_of_a_granule_shows_the_bytes_until_unmapped() {
        let granule = mapping_granularity();
        let content: Vec<u8> = (0..granule + 5).map(|at| (at / 7) as u8).collect();
        let file = open(file_with(&content).path()).unwrap();
        let address = map(&file, granule as u64, 5).unwrap();
        drop(file);
        // SAFETY: five bytes are mapped at this address, and the file is not changed.
        assert_eq!(unsafe { std::slice::from_raw_parts(address, 5) }, &content[granule..]);
        // SAFETY: the mapping is unmapped once, and the slice is gone.
        unsafe { unmap(address, 5) }.unwrap();
        // SAFETY: nothing is mapped there, which the OS reports.
        unsafe { unmap(address, 5) }.unwrap_err();
    }

    #[test]
    fn map_beyond_the_end_is_refused() {
        let file = open(file_with(b"abc").path()).unwrap();
        let error = map(&file, 0, 2 * mapping_granularity()).unwrap_err();
        assert!(!is_out_of_maps(&error) && !is_out_of_descriptors(&error), "{error}");
    }
}
