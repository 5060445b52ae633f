//! What the file system of a file demands of its readers.
//!
//! On Linux, the number that `fstatfs` returns names the file system. On other systems, each one counts as local.

use std::fs::File;
use std::io;

#[cfg(target_os = "linux")]
use super::identity::{OVERLAYFS, statfs};
use super::{Stat, page_size, read_fully_at, stat};

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "some systems tell none apart")]
pub(crate) enum FileSystem {
    Local,
    /// Overlayfs copies a file of a lower layer up when a program opens it for writing. A descriptor that was opened
    /// before then reports and reads the upper file, but maps the lower one.
    Overlay,
    /// Each call may wait for a server, which may hang: a network file system, or FUSE.
    Served,
    /// The files are in memory, in pages of this many bytes (tmpfs, hugetlbfs). An access to a hole through a mapping
    /// allocates a page. If no page is left, the access raises SIGBUS.
    Memory {
        page: usize,
    },
    /// Each read generates the content, and the length is only an upper bound, one page (sysfs).
    Generated,
}

/// The numbers of these file systems, from `statfs(2)`.
#[cfg(target_os = "linux")]
const TMPFS: u32 = 0x0102_1994;
#[cfg(target_os = "linux")]
const HUGETLBFS: u32 = 0x9584_58f6;
#[cfg(target_os = "linux")]
const SYSFS: u32 = 0x6265_6572;

/// The numbers of other file systems that wait for no server: ext2 to ext4, XFS, Btrfs, ramfs, F2FS, ZFS, SquashFS,
/// EROFS, ISO 9660, UDF, FAT, exFAT, NTFS, bcachefs, JFS, ReiserFS, NILFS and proc.
#[cfg(target_os = "linux")]
const LOCAL: [u32; 18] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x8584_58f6,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0x7371_7368,
    0xe0f5_e1e2,
    0x9660,
    0x1501_3346,
    0x4d44,
    0x2011_bab0,
    0x7366_746e,
    0xca45_1a4e,
    0x3153_464a,
    0x5265_4973,
    0x3434,
    0x9fa0,
];

impl FileSystem {
    /// Returns the file system of an open file, or `Local` if the OS does not tell. The content of a block device is on
    /// the device, not on the file system of its node.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(file: &File, stat: &Stat) -> Self {
        match statfs(file).filter(|_| !stat.is_block_device()) {
            Some((TMPFS, _)) => Self::Memory { page: page_size() },
            Some((HUGETLBFS, block)) if block.is_power_of_two() => Self::Memory { page: block },
            Some((SYSFS, _)) => Self::Generated,
            Some((OVERLAYFS, _)) => Self::Overlay,
            Some((number, _)) if !LOCAL.contains(&number) => Self::Served,
            _ => Self::Local,
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(_file: &File, _stat: &Stat) -> Self {
        Self::Local
    }

    /// Returns the size of the pages that a mapping consists of: a power of two, and no less than the OS's page.
    pub(crate) fn page(self) -> usize {
        if let Self::Memory { page } = self { page } else { page_size() }
    }

    /// Returns `true` if an access to a hole of a file through a mapping allocates a page.
    pub(crate) fn allocates_holes(self) -> bool {
        matches!(self, Self::Memory { .. })
    }

    /// Returns the metadata of an open file of this file system, with the length of its content.
    ///
    /// # Errors
    ///
    /// Returns the error of the OS.
    pub(crate) fn stat(self, file: &File) -> io::Result<Stat> {
        self.with_content_len(stat(file)?, file)
    }

    /// Returns the metadata of an open file with the length of its content.
    pub(crate) fn with_content_len(self, mut stat: Stat, file: &File) -> io::Result<Stat> {
        let bound = page_size();
        if self == Self::Generated && stat.len == bound as u64 {
            stat.len = read_fully_at(file, &mut vec![0; bound], 0)? as u64;
        }
        Ok(stat)
    }
}
