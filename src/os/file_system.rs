//! What the file system of a file demands of its readers.
//!
//! On Linux, the number that `fstatfs` returns names the file system. Other systems have none of those known here.

use std::fs::File;
use std::io;

use super::{Stat, page_size, read_fully_at, stat};

/// The properties of a file system that the cache has to respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// An access to a mapping never allocates a page of the file.
    Ordinary,
    /// The file system keeps its files in memory, in pages of this many bytes (tmpfs, hugetlbfs). An access to a hole
    /// through a mapping allocates a page. If no page is left, the access raises SIGBUS.
    Memory { page: usize },
    /// Each read generates the content, and the length is only an upper bound, one page (sysfs).
    Generated,
}

impl FileSystem {
    /// Returns the file system of an open file, or `Ordinary` if the OS does not tell.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(file: &File) -> Self {
        /// The numbers of these file systems, from `statfs(2)`.
        const TMPFS: u32 = 0x0102_1994;
        const HUGETLBFS: u32 = 0x9584_58f6;
        const SYSFS: u32 = 0x6265_6572;
        match super::statfs(file) {
            Some((TMPFS, _)) => Self::Memory { page: page_size() },
            Some((HUGETLBFS, block)) if block.is_power_of_two() => Self::Memory { page: block },
            Some((SYSFS, _)) => Self::Generated,
            _ => Self::Ordinary,
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(_file: &File) -> Self {
        Self::Ordinary
    }

    /// Returns the size of the pages that a mapping consists of: a power of two, and no less than the OS's page.
    pub(crate) fn page(self) -> usize {
        match self {
            Self::Memory { page } => page,
            Self::Ordinary | Self::Generated => page_size(),
        }
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
        let mut stat = stat(file)?;
        let bound = page_size();
        if self == Self::Generated && stat.len == bound as u64 {
            stat.len = read_fully_at(file, &mut vec![0; bound], 0)? as u64;
        }
        Ok(stat)
    }
}
