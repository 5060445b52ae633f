//! The data of the benches: files of words, warm in the page cache.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::{MIB, map, read_exact_at};

/// A file of words beside the build, written once and kept.
///
/// The file is the sequence of little-endian words `word(0), word(1), …`, so the sum of any part of it is known.
#[derive(Debug)]
pub(crate) struct Data {
    path: PathBuf,
    len: u64,
}

impl Data {
    /// Returns the file of `len` bytes, a multiple of 1 MiB. Writes it if it is missing, and reads it into the page
    /// cache.
    ///
    /// First drops the file's pages from the page cache. Pages that were read one by one lie in many small folios;
    /// pages of a long read lie in few large ones. A fresh map of small folios costs more than twice as much, so the
    /// measurement would otherwise depend on the program that ran before.
    pub(crate) fn of_len(len: u64) -> Data {
        assert!(len > 0 && len % MIB == 0, "the data must be a positive multiple of 1 MiB long, not {len} bytes");
        let directory = &directory();
        let path = directory.join(format!("smmap-bench-{}MiB", len / MIB));
        let data = Data { path, len };
        // A complete file is renamed to this name. The check of three words rejects a foreign file of that name.
        if !data.is_written() {
            data.write(directory).unwrap_or_else(|error| {
                panic!("cannot write {len} bytes for the bench into {}: {error}", directory.display())
            });
        }
        data.drop_from_cache();
        data.read_through();
        data
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn open(&self) -> File {
        File::open(&self.path).unwrap_or_else(|error| panic!("cannot open {}: {error}", self.path.display()))
    }

    /// Returns the sum of all words, as [`sum_words`] adds them.
    pub(crate) fn sum(&self) -> u64 {
        // Σ (i · STEP + STEP) for i in 0..n = STEP · n(n+1)/2
        let words = u128::from(self.len / 8);
        let triangle = words * (words + 1) / 2;
        STEP.wrapping_mul(triangle as u64)
    }

    /// Reads the file into the page cache if any of its pages is missing there, and panics if pages stay missing.
    ///
    /// Returns `true` if it had to read. Cheap if no page is missing: call it before each round, because the OS may
    /// reclaim idle pages within seconds.
    pub(crate) fn warm(&self) -> bool {
        let mut missing = 0;
        for attempt in 0..4 {
            missing =
                self.pages().unwrap_or_else(|error| panic!("cannot ask the OS for resident pages: {error}")).missing;
            if missing == 0 && (attempt > 0 || cfg!(unix)) {
                return attempt > 0;
            }
            self.read_through();
        }
        panic!(
            "{missing} pages of {} do not stay in the page cache: the bench needs {} MiB of memory for it",
            self.path.display(),
            self.len / MIB
        );
    }

    fn is_written(&self) -> bool {
        fn check(data: &Data) -> io::Result<bool> {
            let file = File::open(&data.path)?;
            if file.metadata()?.len() != data.len {
                return Ok(false);
            }
            let mut bytes = [0; 8];
            for index in [0, data.len / 16, data.len / 8 - 1] {
                read_exact_at(&file, &mut bytes, index * 8)?;
                if u64::from_le_bytes(bytes) != word(index) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        check(self).unwrap_or(false)
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        eprintln!("writing {} MiB to {}", self.len / MIB, self.path.display());
        fs::create_dir_all(directory)?;
        let unfinished = self.path.with_extension(format!("{}.part", std::process::id()));
        let mut file = File::create(&unfinished)?;
        let mut chunk = Vec::with_capacity(MIB as usize);
        for start in (0..self.len).step_by(MIB as usize) {
            chunk.clear();
            for index in start / 8..(start + MIB) / 8 {
                chunk.extend_from_slice(&word(index).to_le_bytes());
            }
            file.write_all(&chunk)?;
        }
        // Write the pages back now: writeback during a measurement would be noise.
        file.sync_all()?;
        fs::rename(unfinished, &self.path)
    }

    fn read_through(&self) {
        let mut file = self.open();
        let mut buffer = vec![0; MIB as usize];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => panic!("cannot read {}: {error}", self.path.display()),
            }
        }
    }

    /// Drops the file from the page cache, and panics if any page stays. The file must not be mapped.
    ///
    /// Returns `false` if the platform has no way to drop it, so that cold scans cannot be measured.
    pub(crate) fn chill(&self) -> bool {
        if !cfg!(target_os = "linux") {
            return false;
        }
        let resident = || {
            let pages = self.pages().unwrap_or_else(|error| panic!("cannot ask the OS for resident pages: {error}"));
            pages.total - pages.missing
        };
        for _ in 0..8 {
            self.drop_from_cache();
            if resident() == 0 {
                return true;
            }
        }
        panic!("{} pages of {} stay in the page cache", resident(), self.path.display());
    }

    /// Drops the file's clean, unmapped pages from the page cache. Does nothing except on Linux.
    fn drop_from_cache(&self) {
        #[cfg(target_os = "linux")]
        residency::drop_clean_pages(&self.open());
    }

    #[cfg(unix)]
    fn pages(&self) -> io::Result<Pages> {
        residency::pages(&self.open())
    }

    /// Reports no missing page: this platform has no such query. `warm` reads the file once instead.
    #[cfg(not(unix))]
    fn pages(&self) -> io::Result<Pages> {
        Ok(Pages { total: 0, missing: 0 })
    }
}

/// Returns the directory of the data: cargo's directory for benches, or `tmp` in the target directory of the program.
pub(crate) fn directory() -> PathBuf {
    match option_env!("CARGO_TARGET_TMPDIR") {
        Some(directory) => directory.into(),
        None => {
            let program = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this program: {error}"));
            program
                .ancestors()
                .nth(2)
                .expect("cargo builds a program two levels below its target directory")
                .join("tmp")
        }
    }
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns word `index` of the data. No word is zero in a file that fits a disk, so no block becomes a hole.
pub(crate) fn word(index: u64) -> u64 {
    (index + 1).wrapping_mul(STEP)
}

/// Returns the wrapping sum of the little-endian words in `bytes`.
///
/// Never inlined, so that all variants run the same machine code.
#[inline(never)]
pub(crate) fn sum_words(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    assert!(words.remainder().is_empty(), "{} bytes are not a whole number of words", bytes.len());
    words.fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("chunks of 8"))))
}

/// The number of a file's pages.
struct Pages {
    total: usize,
    /// The number of pages that are not in the page cache.
    missing: usize,
}

#[cfg(unix)]
mod residency {
    #![allow(unsafe_code, reason = "std cannot query or drop pages of the page cache")]

    use std::fs::File;
    use std::io;
    #[cfg(target_os = "linux")]
    use std::os::fd::AsRawFd as _;

    use super::{Pages, map};

    /// Counts the pages of `file`, and those missing in the page cache.
    pub(super) fn pages(file: &File) -> io::Result<Pages> {
        // `mincore` on an untouched map reports the page cache; the map itself brings in no page.
        let map = map(file, 0, file.metadata()?.len());
        // SAFETY: `sysconf` only reads a setting.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        let mut pages = vec![0_u8; map.len().div_ceil(page)];
        // SAFETY: the range is exactly the map, which is page-aligned and alive, and `pages` has one byte for each of
        // its pages. The casts only change constness and signedness, which differ between platforms.
        let status = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr().cast()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages { total: pages.len(), missing: pages.iter().filter(|&page| page & 1 == 0).count() })
    }

    /// Asks the OS to drop the pages of `file` from the page cache.
    #[cfg(target_os = "linux")]
    pub(super) fn drop_clean_pages(file: &File) {
        // SAFETY: the descriptor is open, and the call touches no memory of the process.
        let status = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(status, 0, "the OS refused `posix_fadvise` on an open file");
    }
}
