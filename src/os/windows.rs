//! Windows.
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

fn system_info() -> (usize, usize) {
    static INFO: OnceLock<(usize, usize)> = OnceLock::new();
    *INFO.get_or_init(|| {
        let mut info = MaybeUninit::<SYSTEM_INFO>::uninit();
        // SAFETY: it writes one `SYSTEM_INFO` to where it is told, and cannot fail.
        unsafe { GetSystemInfo(info.as_mut_ptr()) };
        // SAFETY: written above.
        let info = unsafe { info.assume_init() };
        (info.dwPageSize as usize, info.dwAllocationGranularity as usize)
    })
}

pub(crate) fn page_size() -> usize {
    system_info().0
}

/// Where in a file a mapping may start: at multiples of this.
pub(crate) fn mapping_granularity() -> usize {
    system_info().1
}

/// Opens for reading; others may still write, rename and delete. A directory opens too, to be refused by its kind.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
}

/// Whether `file` was opened for reading. Not asked here: the first read tells.
pub(crate) fn is_readable(_file: &File) -> io::Result<bool> {
    Ok(true)
}

pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    let handle = file.as_raw_handle();
    // SAFETY: the handle is open as long as `file` is borrowed.
    let is_disk = unsafe { GetFileType(handle) } == FILE_TYPE_DISK;
    let mut info = MaybeUninit::<BY_HANDLE_FILE_INFORMATION>::zeroed();
    // SAFETY: it writes one `BY_HANDLE_FILE_INFORMATION` to where it is told.
    if is_disk && unsafe { GetFileInformationByHandle(handle, info.as_mut_ptr()) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a structure of integers, for which zeros are a value.
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

/// From 100 ns since 1601.
fn time(time: FILETIME) -> Option<SystemTime> {
    const TO_1970: u64 = 11_644_473_600;
    let ticks = u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    let since_1601 = Duration::new(ticks / 10_000_000, (ticks % 10_000_000) as u32 * 100);
    Some(SystemTime::UNIX_EPOCH + since_1601.checked_sub(Duration::from_secs(TO_1970))?)
}

/// Moves the file's own position too, which nobody else uses: the descriptor is the cache's.
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    match file.seek_read(buf, offset) {
        // ERROR_HANDLE_EOF
        Err(error) if error.raw_os_error() == Some(38) => Ok(0),
        read => read,
    }
}

/// Nothing to do by hand: the mapping's owner gives it back, and that is not refused.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
pub(crate) unsafe fn unmap(_address: *mut u8, _len: usize) -> io::Result<()> {
    Ok(())
}

/// Mappings lie at multiples of 64 KiB, and there is no asking for more.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
pub(crate) unsafe fn realign(_file: &File, _start: u64, address: *mut u8, _len: usize) -> io::Result<*mut u8> {
    Ok(address)
}

/// Nothing: there is no such advice that would be cheap.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
pub(crate) unsafe fn advise(_address: *mut u8, _len: usize, _advice: Advice) {}

/// Cannot be done here.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
pub(crate) unsafe fn populate(_address: *mut u8, _len: usize) -> io::Result<bool> {
    Ok(false)
}

/// Not done here.
///
/// # Safety
///
/// None; `unsafe` because it is elsewhere.
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
    // SAFETY: a structure of integers, for which all zeroes is a value.
    let mut status: MEMORYSTATUSEX = unsafe { std::mem::zeroed() };
    status.dwLength = size_of::<MEMORYSTATUSEX>() as u32;
    // SAFETY: it fills the structure, whose length it was told.
    let succeeded = unsafe { GlobalMemoryStatusEx(&mut status) } != 0;
    succeeded.then_some(status.ullTotalPhys.min(status.ullTotalVirtual))
}

pub(crate) fn map_limit_hint() -> String {
    "this process may be out of address space; lower max_mapped_bytes or max_regions".to_owned()
}

pub(crate) fn descriptor_limit_hint() -> String {
    "this process may have too many handles; lower max_open_files".to_owned()
}
