//! Bringing a window into memory before a sequential reader touches it.
//!
//! If the window is not in the page cache, the OS reads it as large pages, which are cheap to map. If the OS cannot do
//! that, the window is read through the descriptor. Either way the disk gets large requests, and more of the file is on
//! its way when the call returns. A window that is in the page cache is left alone: each first touch then maps sixteen
//! pages, or a large one. Mapping all pages in advance (`MADV_POPULATE_READ`) was slower in a warm scan, because it
//! walks over each page.

use super::CachedFile;
use super::region::Region;
use crate::os::Advice;
use crate::sync::Ordering;

/// The [pattern](crate::mapping::Mapping::pattern) of a mapping that was checked, and read if it was not in memory.
const CHECKED: u32 = 1;

impl Region {
    /// Reads all of the region into memory, if it is not there. `start` is the offset of the region in the file.
    ///
    /// A hint: errors are left to the reader that touches the bytes. It does nothing to the page cache if the file's
    /// descriptor is closed. It does nothing at all after its first call for a mapping: a hit makes no system call.
    pub(crate) fn prefault(&self, start: u64) {
        let pattern = self.mapping().pattern();
        // Relaxed, here and below: the word is a hint, and orders nothing. The load spares the readers of a shared window
        // the write.
        let is_checked = pattern.load(Ordering::Relaxed) == CHECKED;
        if is_checked || pattern.swap(CHECKED, Ordering::Relaxed) == CHECKED {
            return;
        }
        // Here it would allocate the pages of holes. All others are in memory, or swapped out.
        if self.file().system.allocates_holes() {
            return;
        }
        if let Some(open) = &*self.file().descriptor.peek() {
            self.mapping().read_ahead(&open.file, start);
        }
        self.mapping().advise(Advice::Sequential);
    }
}

impl CachedFile {
    /// Returns `true` if a window is mapped and its last page is in memory.
    ///
    /// For a cursor that enters the window after it. If the window was read from the disk, the page shows that a reader
    /// came to its end: the cursor does not record its reads inside a window.
    pub(crate) fn is_end_of_window_resident(&self, window: u64) -> bool {
        let client = self.windows().get(window).and_then(|slot| slot.take().ok());
        client.is_some_and(|client| client.mapping().is_end_resident())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::CHECKED;
    use crate::os::{self, page_cache};
    use crate::sync::Ordering;
    use crate::{Admission, Cursor, MapManager, MappedFile, Window};
    use std::fs;
    use std::io::Read as _;

    const WINDOW: usize = 1 << 20;

    /// Returns a file of three windows and one byte, none of it in memory, and a function that returns `true` if all of
    /// a window is in memory. Returns `None` if the OS keeps the file's pages.
    fn cold() -> Option<(MappedFile, impl Fn(usize) -> bool)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![7; 3 * WINDOW + 1]).unwrap();
        // A small read maps its window as well.
        let builder =
            MapManager::builder().window(Window::Sliding { bytes: WINDOW as u64 }).admission(Admission::Always);
        #[allow(unsafe_code, reason = "the promise is kept: no process changes the file")]
        // SAFETY: no process changes the file.
        let maps = unsafe { builder.build() }.unwrap();
        let file = page_cache::drop_pages(&os::open(&path).unwrap()).then(|| maps.open(&path).unwrap())?;
        let is_in_memory = move |window| {
            let pages = page_cache::pages(&os::open(&directory.path().join("file")).unwrap());
            !pages.chunks(WINDOW / os::page_size()).nth(window).unwrap().contains(&false)
        };
        Some((file, is_in_memory))
    }

    const PIECE: u64 = 64 << 10;

    /// Reads some bytes at an offset: an access.
    type Touch = fn(&mut Cursor, u64);
    const TOUCH: [Touch; 3] = [
        |cursor, at| assert!(cursor.window_at(at).unwrap().iter().all(|&byte| byte == 7)),
        |cursor, at| assert_eq!(cursor.slice(at..at + PIECE).unwrap(), [7; PIECE as usize]),
        |cursor, at| {
            cursor.set_position(at);
            cursor.read_exact(&mut [0; PIECE as usize]).unwrap();
        },
    ];

    /// Returns `true` if a cursor that made these accesses prefaulted the window of the last one.
    fn is_prefaulted(file: &MappedFile, touch: Touch, offsets: impl Iterator<Item = u64>) -> bool {
        let mut cursor = file.cursor();
        offsets.for_each(|at| touch(&mut cursor, at));
        cursor.held().region().is_some_and(|region| region.mapping().pattern().load(Ordering::Relaxed) == CHECKED)
    }

    #[test]
    fn sequential_cursor_prefaults_the_next_window() {
        for touch in TOUCH {
            let Some((file, is_in_memory)) = cold() else { return };
            assert!(is_prefaulted(&file, touch, (0..=WINDOW as u64).step_by(PIECE as usize)));
            assert!(is_in_memory(1));
        }
    }

    #[test]
    fn cursor_that_moves_backward_prefaults_nothing() {
        for touch in TOUCH {
            let Some((file, _)) = cold() else { return };
            assert!(!is_prefaulted(&file, touch, [2, 1, 0].map(|window| window * WINDOW as u64).into_iter()));
        }
    }

    #[test]
    fn windows_prefault_each_window() {
        let Some((file, is_in_memory)) = cold() else { return };
        let mut windows = file.windows();
        let last = windows.next_back().unwrap().unwrap();
        assert_eq!((last.len(), is_in_memory(3)), (1, true));
        for window in 0..3 {
            assert_eq!(windows.next().unwrap().unwrap().len(), WINDOW);
            assert!(is_in_memory(window), "{window}");
        }
    }

    /// The window was mapped before its pages left the page cache.
    #[test]
    fn windows_prefault_a_mapped_window() {
        let Some((file, is_in_memory)) = cold() else { return };
        let mut cursor = file.cursor();
        cursor.window_at(WINDOW as u64).unwrap();
        assert!(!is_in_memory(1));
        file.windows().nth(1).unwrap().unwrap();
        assert!(is_in_memory(1));
    }
}
