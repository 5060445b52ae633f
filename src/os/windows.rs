//! The functions of [`os`](super) on Windows.
#![allow(unsafe_code, reason = "system calls that std does not offer")]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Foundation::{
    ERROR_COMMITMENT_LIMIT, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY, ERROR_TOO_MANY_OPEN_FILES, FILETIME,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_FLAG_BACKUP_SEMANTICS, FILE_SHARE_DELETE,
    FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_TYPE_DISK, GetFileInformationByHandle, GetFileType,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, GlobalMemoryStatusEx, MEMORYSTATUSEX, SYSTEM_INFO};

use super::{Advice, Kind, Stat};

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
    OpenOptions::new()
        .read(true)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
}

/// Returns `true`. Windows is not asked: the first read fails if `file` was not opened for reading.
pub(crate) fn is_readable(_file: &File) -> io::Result<bool> {
    Ok(true)
}

pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    let handle = file.as_raw_handle();
    // SAFETY: the handle is open as long as `file` is borrowed.
    let is_disk = unsafe { GetFileType(handle) } == FILE_TYPE_DISK;
    let mut info = MaybeUninit::<BY_HANDLE_FILE_INFORMATION>::zeroed();
    // SAFETY: `GetFileInformationByHandle` writes one `BY_HANDLE_FILE_INFORMATION` to the pointer.
    if is_disk && unsafe { GetFileInformationByHandle(handle, info.as_mut_ptr()) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a valid value of this structure of integers.
    let info = unsafe { info.assume_init() };
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Stat {
        device: info.dwVolumeSerialNumber.into(),
        inode: wide(info.nFileIndexHigh, info.nFileIndexLow),
        born: time(info.ftCreationTime),
        len: wide(info.nFileSizeHigh, info.nFileSizeLow),
        modified: time(info.ftLastWriteTime),
        changed: None,
        links: info.nNumberOfLinks.into(),
        attributes: [info.dwFileAttributes, 0, 0],
        kind: match (is_disk, info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY != 0) {
            (false, _) => Kind::Other("a pipe or a device"),
            (true, true) => Kind::Other("a directory"),
            (true, false) => Kind::File,
        },
    })
}

pub(crate) fn stat_path(path: &Path) -> io::Result<Stat> {
    stat(&open(path)?)
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
    match file.seek_read(buf, offset) {
        // ERROR_HANDLE_EOF
        Err(error) if error.raw_os_error() == Some(38) => Ok(0),
        read => read,
    }
}

/// Does nothing: the drop of `MmapRaw` unmaps the mapping, and Windows does not refuse that.
///
/// # Safety
///
/// No requirements; `unsafe` for the same signature as on other systems.
pub(crate) unsafe fn unmap(_address: *mut u8, _len: usize) -> io::Result<()> {
    Ok(())
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
///
/// # Safety
///
/// No requirements; `unsafe` for the same signature as on other systems.
pub(crate) unsafe fn read_ahead(_file: &File, _start: u64, _address: *mut u8, _len: usize) -> bool {
    false
}

fn is_one_of(error: &io::Error, codes: &[u32]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.iter().any(|&known| known as i32 == code))
}

pub(crate) fn is_out_of_maps(error: &io::Error) -> bool {
    is_one_of(error, &[ERROR_NOT_ENOUGH_MEMORY, ERROR_NO_SYSTEM_RESOURCES, ERROR_COMMITMENT_LIMIT])
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

pub(crate) fn map_limit_hint() -> String {
    "this process may be out of address space: lower max_mapped_bytes or max_regions".to_owned()
}

pub(crate) fn descriptor_limit_hint() -> String {
    "this process may have too many handles: lower max_open_files".to_owned()
}
