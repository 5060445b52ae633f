//! [`SlotlessFrequencies`]: the access frequencies of windows that have no slot.
//!
//! A slot is made when its window is mapped first. In a sparse file, a slot brings a leaf of its table with it (1 KiB),
//! so reads of the file must not make slots. And a file's slots are freed when its last handle and its last region are
//! dropped, so a program that opens a file for each request would never map it. Such frequencies are estimates in a
//! table of fixed size instead, by the identity of the file. Windows that share an entry displace each other: an access
//! of one takes away an access of the other.
//!
//! The table decides only what is mapped. If it takes one file for another, no reader gets other bytes.

use std::iter;

use super::CachedFile;
use crate::policy::Frequency;
use crate::sync::{OnceLock, Ordering, ProcessU64};

/// Entries for each window that the budget holds: many more windows are read than mapped.
const ENTRIES_PER_WINDOW: usize = 8;

/// The sizes of the smallest and the largest table: 32 KiB and 1 MiB.
const ENTRIES: (usize, usize) = (1 << 12, 1 << 17);

/// A table of fixed size, made by the first access.
#[derive(Debug, Default)]
pub(super) struct SlotlessFrequencies {
    /// High half: the tag of a window. Low half: its frequency, as a word. (Not modelled by shuttle: estimates.)
    entries: OnceLock<Box<[ProcessU64]>>,
}

impl SlotlessFrequencies {
    /// Counts an access of a window at time `now` of the policy's clock. Returns the window's frequency, as a word.
    #[inline]
    pub(super) fn record_access(
        &self,
        file: &CachedFile,
        window: u64,
        now: u32,
        windows_in_budget: impl FnOnce() -> usize,
    ) -> u32 {
        let (entry, tag) = entry(self.entries(windows_in_budget), file, window);
        // Relaxed, twice: an estimate. A lost update loses one counted access.
        let found = entry.load(Ordering::Relaxed);
        let (owner, frequency) = (found >> 32, Frequency::from_word(found as u32));
        let (owner, frequency) = if owner == tag {
            (tag, frequency.accessed(now))
        } else if frequency.count(now) > 1 {
            (owner, frequency.displaced(now))
        } else {
            (tag, Frequency::from_word(0).accessed(now))
        };
        entry.store(owner << 32 | u64::from(frequency.to_word()), Ordering::Relaxed);
        if owner == tag { frequency.to_word() } else { 0 }
    }

    /// Keeps the frequency of a window whose slot is freed at time `now`, unless the window with the same entry is more
    /// frequent.
    pub(super) fn keep(
        &self,
        file: &CachedFile,
        window: u64,
        frequency: Frequency,
        now: u32,
        windows_in_budget: impl FnOnce() -> usize,
    ) {
        let (entry, tag) = entry(self.entries(windows_in_budget), file, window);
        // Relaxed, twice, as in `record_access`.
        let found = entry.load(Ordering::Relaxed);
        let (owner, other) = (found >> 32, Frequency::from_word(found as u32));
        let (owner, frequency) = if owner == tag || other.count(now) <= frequency.count(now) {
            (tag, frequency)
        } else {
            (owner, other.displaced(now))
        };
        entry.store(owner << 32 | u64::from(frequency.to_word()), Ordering::Relaxed);
    }

    /// Returns the table. The first call makes it.
    #[inline]
    fn entries(&self, windows_in_budget: impl FnOnce() -> usize) -> &[ProcessU64] {
        match self.entries.get() {
            Some(entries) => entries,
            // Not in the closure, while another thread may wait for this one to initialize the table.
            None => self.make_entries(windows_in_budget()),
        }
    }

    #[cold]
    fn make_entries(&self, windows_in_budget: usize) -> &[ProcessU64] {
        let wanted = windows_in_budget.saturating_mul(ENTRIES_PER_WINDOW).clamp(ENTRIES.0, ENTRIES.1);
        self.entries.get_or_init(|| iter::repeat_with(ProcessU64::default).take(wanted.next_power_of_two()).collect())
    }

    /// Returns the frequency of a window, as a word.
    pub(super) fn get(&self, file: &CachedFile, window: u64) -> u32 {
        let Some(entries) = self.entries.get() else { return 0 };
        let (entry, tag) = entry(entries, file, window);
        // Relaxed: an estimate.
        let found = entry.load(Ordering::Relaxed);
        if found >> 32 == tag { found as u32 } else { 0 }
    }
}

/// Returns the entry of a window, and the window's tag. Windows near each other have different entries.
fn entry<'e>(entries: &'e [ProcessU64], file: &CachedFile, window: u64) -> (&'e ProcessU64, u64) {
    // Fibonacci hashing (Knuth): multiplies by 2⁶⁴ divided by the golden ratio, and uses the upper bits.
    let hash = |value: u64| value.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let of_file = u64::from(file.key_hash);
    // Not a division: the number of entries is a power of two.
    let block = window >> entries.len().trailing_zeros();
    let at = of_file.wrapping_add(window).wrapping_add(hash(block)) as usize & (entries.len() - 1);
    (&entries[at], hash(window ^ of_file << 32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::load::tests::{Opened, WINDOW};
    use crate::policy::ADMIT_AFTER;

    const SPARSE: u64 = 1 << 40;

    fn read(opened: &Opened, window: u64) {
        let at = window * WINDOW;
        opened.cache.copy(&opened.file, at..at + 8, &mut [0; 8]).unwrap();
    }

    fn slots(opened: &Opened) -> usize {
        let mut slots = 0;
        opened.file.windows().for_each_from(0, |_, _| slots += 1);
        slots
    }

    #[test]
    fn window_that_is_only_read_has_no_slot() {
        let opened = Opened::new(8, SPARSE);
        (0..10_000).for_each(|n| read(&opened, n * 1_601));
        assert_eq!((slots(&opened), opened.cache.stats().maps), (1, 0), "the table itself contains the first slot");
    }

    #[test]
    fn frequent_window_without_a_slot_is_mapped_and_its_neighbours_keep_their_frequencies() {
        let opened = Opened::new(8, SPARSE);
        let windows = [1_000_000, 1_000_001];
        for accesses in 1..ADMIT_AFTER {
            windows.iter().for_each(|&window| read(&opened, window));
            let frequencies = windows.map(|window| opened.cache.regions.slotless_frequency(&opened.file, window));
            assert_eq!(frequencies, [accesses; 2]);
        }
        assert_eq!(opened.cache.stats().maps, 0);
        read(&opened, windows[0]);
        assert_eq!((slots(&opened), opened.cache.stats().maps), (1 + 16, 1));
        let frequencies = windows.map(|window| opened.cache.regions.frequency(opened.slot(window)));
        assert_eq!(frequencies, [ADMIT_AFTER, ADMIT_AFTER - 1]);
    }

    #[test]
    fn kept_frequency_displaces_only_less_frequent_windows() {
        let opened = Opened::new(8, SPARSE);
        let (frequencies, file) = (SlotlessFrequencies::default(), &opened.file);
        let entries = frequencies.entries(|| 1);
        let place = |window| std::ptr::from_ref(entry(entries, file, window).0);
        let rival = (1..).find(|&window| place(window) == place(0)).expect("there are more windows than entries");
        let accessed = |times| (0..times).fold(Frequency::from_word(0), |frequency, _| frequency.accessed(0));
        let counts = || [0, rival].map(|window| Frequency::from_word(frequencies.get(file, window)).count(0));
        for (window, times, expected) in
            [(0, 5, [5, 0]), (rival, 3, [4, 0]), (rival, 4, [0, 4]), (rival, 2, [0, 2]), (0, 9, [9, 0])]
        {
            frequencies.keep(file, window, accessed(times), 0, || 1);
            assert_eq!(counts(), expected, "{times} accesses of {window}");
        }
    }

    #[test]
    fn window_displaces_another_only_after_as_many_accesses() {
        let opened = Opened::new(8, SPARSE);
        let (frequencies, file) = (SlotlessFrequencies::default(), &opened.file);
        let record = |window| frequencies.record_access(file, window, 0, || 1);
        record(0);
        let entries = frequencies.entries.get().unwrap();
        assert_eq!(entries.len(), ENTRIES.0);
        let place = |window| std::ptr::from_ref(entry(entries, file, window).0);
        let rival = (1..).find(|&window| place(window) == place(0)).expect("there are more windows than entries");
        let counts = || [0, rival].map(|window| Frequency::from_word(frequencies.get(file, window)).count(0));
        record(0);
        record(0);
        assert_eq!(counts(), [3, 0]);
        record(rival);
        record(rival);
        assert_eq!(counts(), [1, 0]);
        record(rival);
        assert_eq!(counts(), [0, 1]);
    }
}
