//! Bringing a window into memory before a sequential reader touches it.
//!
//! If the window is not in the page cache, the OS reads it as large pages, which are cheap to map. If the OS cannot do
//! that, the window is read through the descriptor. Either way the disk gets large requests, and more of the file is on
//! its way when the call returns. A window that is in the page cache is left alone: each first touch then maps sixteen
//! pages, or a large one. Mapping all pages in advance (`MADV_POPULATE_READ`) was slower in a warm scan, because it
//! walks over each page.

use super::region::Region;
use crate::os::Advice;

impl Region {
    /// Reads all of the region into memory, if it is not there. `start` is the offset of the region in the file.
    ///
    /// A hint: errors are left to the reader that touches the bytes. It does nothing to the page cache if the file's
    /// descriptor is closed.
    pub(crate) fn prefault(&self, start: u64) {
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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use crate::os::{self, page_cache};
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

    #[test]
    fn sequential_cursor_prefaults_the_next_window() {
        let at = WINDOW as u64;
        let touch: [fn(&mut Cursor, u64); 3] = [
            |cursor, at| assert!(!cursor.window_at(at).unwrap().is_empty()),
            |cursor, at| assert_eq!(cursor.slice(at..at + 9).unwrap(), [7; 9]),
            |cursor, at| {
                cursor.set_position(at);
                cursor.read_exact(&mut [0; 9]).unwrap();
            },
        ];
        for touch in touch {
            let Some((file, is_in_memory)) = cold() else { return };
            let mut cursor = file.cursor();
            touch(&mut cursor, 0);
            touch(&mut cursor, at);
            assert!(is_in_memory(1));
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
