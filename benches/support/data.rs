//! Data of the benches: real bytes, warm in the page cache.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::{MIB, map, read_exact_at};

/// A file of real bytes beside the build, written once and kept.
///
/// It is a sequence of little-endian words, `word(0), word(1), …`, so that every sum over it is known.
#[derive(Debug)]
pub(crate) struct Data {
    path: PathBuf,
    len: u64,
}

impl Data {
    /// The file of `len` bytes, a multiple of 1 MiB; written now if it is not there yet, and read in.
    ///
    /// What the page cache held of it before is dropped first. Pages that came in one by one are many small folios,
    /// pages of a long read are few large ones, and a fresh map of the former costs more than twice that of the
    /// latter: a bench that takes what it finds measures whatever ran before it.
    pub(crate) fn of_len(len: u64) -> Data {
        assert!(len > 0 && len % MIB == 0, "data comes in whole MiB, not in {len} bytes");
        let directory = &directory();
        let path = directory.join(format!("smmap-bench-{}MiB", len / MIB));
        let data = Data { path, len };
        // The name appears only once the file is whole, and the first and last words tell it from a stranger.
        if !data.is_written() {
            data.write(directory).unwrap_or_else(|error| {
                panic!("can't write {len} bytes for the bench into {}: {error}", directory.display())
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
        File::open(&self.path).unwrap_or_else(|error| panic!("can't open {}: {error}", self.path.display()))
    }

    /// The sum of all words, as [`sum_words`] adds them.
    pub(crate) fn sum(&self) -> u64 {
        // Σ (i · STEP + STEP) for i in 0..n = STEP · n(n+1)/2
        let words = u128::from(self.len / 8);
        let triangle = words * (words + 1) / 2;
        STEP.wrapping_mul(triangle as u64)
    }

    /// Reads the file into the page cache if a page of it is missing there, and asserts that all of it is in.
    ///
    /// Tells whether it had to read. Cheap where nothing is missing: call it before each round, because idle pages
    /// may be paged out within seconds.
    pub(crate) fn warm(&self) -> bool {
        let mut missing = 0;
        for attempt in 0..4 {
            missing = self.pages().unwrap_or_else(|error| panic!("can't ask what is resident: {error}")).missing;
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
        // Clean pages: writeback in the middle of a measurement would be noise.
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
                Err(error) => panic!("can't read {}: {error}", self.path.display()),
            }
        }
    }

    /// Takes the file out of the page cache, and asserts that all of it went: nobody may have it mapped.
    ///
    /// `false` where the system cannot be told to, so that nothing cold can be measured.
    pub(crate) fn chill(&self) -> bool {
        if !cfg!(target_os = "linux") {
            return false;
        }
        let resident = || {
            let pages = self.pages().unwrap_or_else(|error| panic!("can't ask what is resident: {error}"));
            pages.total - pages.missing
        };
        for _ in 0..8 {
            self.drop_from_cache();
            if resident() == 0 {
                return true;
            }
        }
        panic!("{} pages of {} do not leave the page cache", resident(), self.path.display());
    }

    /// Best effort: what is dirty or mapped stays, and not every platform can be told.
    fn drop_from_cache(&self) {
        #[cfg(target_os = "linux")]
        residency::drop_clean_pages(&self.open());
    }

    #[cfg(unix)]
    fn pages(&self) -> io::Result<Pages> {
        residency::pages(&self.open())
    }

    /// Nobody to ask here: the file counts as warm once it has been read.
    #[cfg(not(unix))]
    fn pages(&self) -> io::Result<Pages> {
        Ok(Pages { total: 0, missing: 0 })
    }
}

/// Where the data lies: cargo tells a bench; a program of its own lies in the same directory's neighbour.
pub(crate) fn directory() -> PathBuf {
    match option_env!("CARGO_TARGET_TMPDIR") {
        Some(directory) => directory.into(),
        None => {
            let program = std::env::current_exe().unwrap_or_else(|error| panic!("where is this program? {error}"));
            program.ancestors().nth(2).expect("a program of cargo's lies two levels down").join("tmp")
        }
    }
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Word `index` of the data. Never zero within any file that fits a disk, so no block is a hole.
pub(crate) fn word(index: u64) -> u64 {
    (index + 1).wrapping_mul(STEP)
}

/// The wrapping sum of the little-endian words in `bytes`.
///
/// Not inlined: whoever sums runs the same loop, whatever the optimizer thinks of the call's place.
#[inline(never)]
pub(crate) fn sum_words(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    assert!(words.remainder().is_empty(), "a piece of {} bytes is not a row of words", bytes.len());
    words.fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("chunks of 8"))))
}

/// Of a file.
struct Pages {
    total: usize,
    /// Those that are not in the page cache.
    missing: usize,
}

#[cfg(unix)]
mod residency {
    #![allow(unsafe_code, reason = "only the system knows, and decides, what the page cache holds")]

    use std::fs::File;
    use std::io;
    #[cfg(target_os = "linux")]
    use std::os::fd::AsRawFd as _;

    use super::{Pages, map};

    /// What the page cache has of `file`.
    pub(super) fn pages(file: &File) -> io::Result<Pages> {
        // A map that nobody touches: it shows the page cache, without a page of its own.
        let map = map(file, 0, file.metadata()?.len());
        // SAFETY: sysconf only reads a setting.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        let mut pages = vec![0_u8; map.len().div_ceil(page)];
        // SAFETY: the range is exactly the map, which is page-aligned and alive, and `pages` has one byte for each of
        // its pages. The casts only change the constness and signedness that platforms differ in.
        let status = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr().cast()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages { total: pages.len(), missing: pages.iter().filter(|&page| page & 1 == 0).count() })
    }

    /// Asks for the pages of `file` to leave the page cache.
    #[cfg(target_os = "linux")]
    pub(super) fn drop_clean_pages(file: &File) {
        // SAFETY: an advice about a descriptor that is open; it touches no memory of the process.
        let status = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(status, 0, "an advice about an open file was refused");
    }
}
