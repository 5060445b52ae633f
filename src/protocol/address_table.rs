//! [`AddressTable`]: the mapped address ranges of the process and their faulted parts, for a signal handler to look up.
//!
//! A fault is an access to a page that the file no longer has. The signal handler fills the page with zeros and notes
//! it here. A handler interrupts any thread at any point. So a look-up takes no lock, does not wait, does not allocate
//! and does not retry. Its cost does not depend on the number of ranges, of which a process may have tens of thousands.
//!
//! # Structure
//!
//! A range is of *class* n if its length is more than 2ⁿ⁻¹ and at most 2ⁿ bytes. It lies in one or two of the aligned
//! *chunks* of 2ⁿ bytes, and has an entry under each of them. A look-up of an address checks, for each class in use,
//! the chunk of that class that contains the address. Ranges do not overlap, so parts of at most three ranges of a
//! class lie in one chunk.
//!
//! Entries are in [groups](Group) of four. A hash of class and chunk selects the group. If a group is full, the entry
//! goes into the next table, which has four times as many groups. Tables never move.
//!
//! # Rules
//!
//! 1. *A writer changes entries under a lock* that no handler takes. (A child of `fork` has no lock: it only removes,
//!    by one store for each entry.) Each entry is a sequence lock: its version is odd
//!    during a change. A look-up that loads an odd version, or two different ones, treats the entry as empty. That is
//!    right, because the changing entry is never the wanted one. A range is inserted before its address is given to any
//!    reader, and removed after the last read.
//! 2. *A handler notes a fault before it fills the page.* A reader that reads filled bytes and then calls
//!    [`faulted_part`](AddressTable::faulted_part) gets the note. For the thread that faulted, program order ensures
//!    this. Another thread sees the filled page through the OS's page tables, whose update is ordered after the note.
//! 3. *A handler increments the count of faulted ranges before it changes the range's own note.* If the range was
//!    faulted already, it decrements the count again. So a reader that sees a range's note, or its filled bytes, sees a
//!    count above 0. Only then must the reader check further.
//!
//! The entry under the first chunk of a range carries the note. The handler gets from the second entry to the first
//! one.

use std::ops::Range;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, OnceLock, Ordering, fence};

/// The number of entries with one hash. It is more than the entries of one chunk.
const GROUP: usize = 4;
/// The number of tables. Table n has 2²ⁿ groups, so the last table would not fit in memory.
const TABLES: usize = 16;

/// Address ranges, found from any address in them.
#[derive(Debug, Default)]
pub(crate) struct AddressTable {
    tables: [OnceLock<Box<[Group]>>; TABLES],
    /// A bit for each class that has ever had a range.
    classes: AtomicU64,
    /// The number of faulted ranges. For a moment it may be higher (rule 3), never lower.
    faulted: AtomicUsize,
    write_lock: Mutex<()>,
}

type Group = [Entry; GROUP];

#[derive(Debug, Default)]
struct Entry {
    /// Odd while a writer changes the other fields.
    version: AtomicUsize,
    start: AtomicUsize,
    /// 0 if the entry is empty.
    end: AtomicUsize,
    /// The smallest range that contains all faulted parts. `faulted_end` is 0 if there are none.
    faulted_start: AtomicUsize,
    faulted_end: AtomicUsize,
    /// The number of faults so far.
    faults: AtomicUsize,
}

/// A class, and the number of a chunk of that class.
type Key = (u32, usize);

impl Entry {
    /// Returns the range. Returns `None` if the entry is empty or just being changed.
    fn read(&self) -> Option<Range<usize>> {
        // Acquire: pairs with the Release at the end of `write`. The fields are not older than the version.
        let version = self.version.load(Ordering::Acquire);
        // Relaxed, both: the two loads of the version show whether the fields belong together.
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        // Acquire: pairs with the Release fence in `write`. If a field is newer than the first version, the second load
        // of the version returns a newer one, too.
        fence(Ordering::Acquire);
        let is_consistent = version % 2 == 0 && self.version.load(Ordering::Relaxed) == version;
        (is_consistent && range.end != 0).then_some(range)
    }

    /// Replaces the entry's range, and clears its note. The caller holds the write lock.
    fn write(&self, range: Range<usize>) {
        // Relaxed: only writers change the version, and the write lock orders them.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Release: pairs with the Acquire fence in `read`. It orders the odd version before the changes of the fields.
        fence(Ordering::Release);
        // Relaxed, all: the versions and fences around them order them.
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.faulted_start.store(usize::MAX, Ordering::Relaxed);
        self.faulted_end.store(0, Ordering::Relaxed);
        self.faults.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire load in `read`. It publishes the fields.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        // Relaxed: only writers call it, and the write lock orders them.
        self.end.load(Ordering::Relaxed) == 0
    }
}

impl AddressTable {
    /// Inserts a range, before its address is given to any other thread. The range must not be empty, nor overlap an
    /// inserted one.
    pub(crate) fn insert(&self, range: Range<usize>) {
        let _guard = self.lock();
        let class = class(&range);
        // Relaxed: a thread that looks up this range got its address from the caller, and that orders this change.
        self.classes.fetch_or(1 << class, Ordering::Relaxed);
        for key in keys(&range) {
            let free = (0..TABLES).find_map(|level| {
                let table = self.tables[level].get_or_init(|| table(level));
                group(table, key).iter().find(|entry| entry.is_empty())
            });
            free.expect("the last table has more groups than fit in memory").write(range.clone());
        }
    }

    /// Removes a range, after its last read. Does nothing if the range is not in the table.
    pub(crate) fn remove(&self, range: Range<usize>) {
        let _guard = self.lock();
        for key in keys(&range) {
            let Some(entry) = self.entry(key, |known| *known == range) else { continue };
            self.uncount(entry);
            entry.write(0..0);
        }
    }

    /// Removes a range, as [`remove`](Self::remove) does, without the lock. For a child of `fork`, where a vanished
    /// thread may hold the lock.
    ///
    /// Only this range's owner changes its entries, because no thread of a child inserts. The range was inserted
    /// completely, because the owner had its address.
    pub(crate) fn remove_in_child(&self, range: Range<usize>) {
        for key in keys(&range) {
            let Some(entry) = self.entry(key, |known| *known == range) else { continue };
            self.uncount(entry);
            // Relaxed: a look-up that still finds the range is for an address in it, and the range has no reader. The
            // version stays, because no other field changes.
            entry.end.store(0, Ordering::Relaxed);
        }
    }

    /// Counts out the range of an entry that is about to be removed, if it was faulted.
    fn uncount(&self, entry: &Entry) {
        // Relaxed: no other thread reads the range any more, so no fault changes the note.
        if entry.faulted_end.load(Ordering::Relaxed) != 0 {
            self.faulted.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Notes a fault at `address`, and returns the addresses that the signal handler must fill before it returns.
    ///
    /// Returns `None` if the address is in no range of the table. Safe to call from a signal handler.
    ///
    /// The result is the page of `address`, and adjacent pages for which `is_gone` returns `true`. The first fault of a
    /// range adds no adjacent page. Fault k + 1 adds up to 4ᵏ − 1 pages in each direction, with k at most 9. So a
    /// readable page is never filled, and a truncated file takes few faults.
    pub(crate) fn note_fault(
        &self,
        address: usize,
        page: usize,
        is_gone: impl Fn(usize) -> bool,
    ) -> Option<Range<usize>> {
        let range = self.find(address)?;
        let entry = self.entry(first_key(&range), |known| *known == range)?;
        // Relaxed: the number of faults only determines how many pages to add.
        let before = entry.faults.fetch_add(1, Ordering::Relaxed);
        let more = page.saturating_mul(1 << (2 * before).min(18)) - page;
        let start = address & !(page - 1);
        let is_gone = |at: &usize| is_gone(*at);
        let first = start.saturating_sub(more).max(range.start);
        let last = start.saturating_add(more).min((range.end - 1) & !(page - 1));
        let after = (start..=last).step_by(page).skip(1).take_while(is_gone).last();
        let ahead = (first..start).step_by(page).rev().take_while(is_gone).last();
        let faulted = ahead.unwrap_or(start)..after.unwrap_or(start).saturating_add(page).min(range.end);
        // Rule 3: the count comes first. Relaxed, both: the AcqRel below orders them.
        self.faulted.fetch_add(1, Ordering::Relaxed);
        entry.faulted_start.fetch_min(faulted.start, Ordering::Relaxed);
        // AcqRel: pairs with itself. A thread that finds the range faulted already also finds it counted.
        if entry.faulted_end.fetch_max(faulted.end, Ordering::AcqRel) != 0 {
            self.faulted.fetch_sub(1, Ordering::Relaxed);
        }
        Some(faulted)
    }

    /// Returns `true` if any range is faulted. The answer may be outdated.
    #[inline]
    pub(crate) fn any_faulted(&self) -> bool {
        // Relaxed: a caller that needs the exact answer calls `faulted_part`.
        self.faulted.load(Ordering::Relaxed) != 0
    }

    /// Returns a part of `bytes` that contains all its faulted pages, or `None` if it has none.
    ///
    /// `bytes` must lie in `range`, and the caller must have read them before. The result also contains the readable
    /// pages between two faulted ones.
    #[inline]
    pub(crate) fn faulted_part(&self, range: Range<usize>, bytes: Range<usize>) -> Option<Range<usize>> {
        // Acquire: orders the caller's reads of the bytes before the loads of the notes (rule 2).
        fence(Ordering::Acquire);
        if self.any_faulted() { self.noted_part(range, bytes) } else { None }
    }

    #[cold]
    fn noted_part(&self, range: Range<usize>, bytes: Range<usize>) -> Option<Range<usize>> {
        let entry = self.entry(first_key(&range), |known| *known == range)?;
        // Relaxed, both: the fence in `faulted_part` orders them.
        let (start, end) = (entry.faulted_start.load(Ordering::Relaxed), entry.faulted_end.load(Ordering::Relaxed));
        let faulted = bytes.start.max(start)..bytes.end.min(end);
        (!faulted.is_empty()).then_some(faulted)
    }

    fn find(&self, address: usize) -> Option<Range<usize>> {
        // Relaxed: as in `insert`.
        let mut classes = self.classes.load(Ordering::Relaxed);
        while classes != 0 {
            let class = classes.trailing_zeros();
            classes &= classes - 1;
            let found = self.entry((class, address >> class), |known| known.contains(&address));
            if let Some(range) = found.and_then(Entry::read) {
                return Some(range);
            }
        }
        None
    }

    /// Returns the entry under `key` for whose range `matches` returns `true`.
    fn entry(&self, key: Key, matches: impl Fn(&Range<usize>) -> bool) -> Option<&Entry> {
        let tables = self.tables.iter().map_while(OnceLock::get);
        tables.flat_map(|table| group(table, key)).find(|entry| entry.read().is_some_and(|known| matches(&known)))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.write_lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Returns the n for which the length is more than 2ⁿ⁻¹ and at most 2ⁿ.
fn class(range: &Range<usize>) -> u32 {
    usize::BITS - (range.len() - 1).leading_zeros()
}

/// Returns the key of the first chunk of `range`.
fn first_key(range: &Range<usize>) -> Key {
    let class = class(range);
    (class, range.start >> class)
}

/// Returns the keys of all chunks of `range`: one or two.
fn keys(range: &Range<usize>) -> impl Iterator<Item = Key> {
    let first = first_key(range);
    let last = (first.0, (range.end - 1) >> first.0);
    [Some(first), (last != first).then_some(last)].into_iter().flatten()
}

fn table(level: usize) -> Box<[Group]> {
    (0..1usize << (2 * level)).map(|_| Group::default()).collect()
}

fn group(table: &[Group], (class, chunk): Key) -> &Group {
    // Fibonacci hashing (Knuth): multiplies by 2⁶⁴ divided by the golden ratio, and uses the upper bits.
    let hash = ((chunk as u64) << 6 ^ u64::from(class)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &table[(hash.rotate_left(32) as usize) & (table.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn find_among_thousands_of_ranges_returns_the_right_one() {
        let table = AddressTable::default();
        // The ranges have many lengths (up to 32 MiB on 64-bit). Some are adjacent, some have gaps between them.
        let classes = usize::BITS as usize / 4 - 2;
        let mut end = PAGE << (usize::BITS / 2);
        let known: Vec<_> = (0..3_000)
            .map(|n: usize| {
                let start = end + n % 3 * PAGE;
                end = start + (PAGE << (n % classes)) + n % 5 * PAGE;
                start..end
            })
            .collect();
        known.iter().for_each(|range| table.insert(range.clone()));
        for range in &known {
            for address in [range.start, range.start + range.len() / 2, range.end - 1] {
                assert_eq!(table.find(address).as_ref(), Some(range));
            }
        }
        let gaps = known.windows(2).filter(|pair| pair[0].end < pair[1].start).map(|pair| pair[0].end);
        assert!(gaps.clone().count() > 500 && gaps.clone().all(|address| table.find(address).is_none()));
        // Removed ranges are not found, and new ranges reuse their entries.
        let (removed, kept) = known.split_at(1_500);
        removed.iter().for_each(|range| table.remove(range.clone()));
        assert!(removed.iter().all(|range| table.find(range.start).is_none()));
        assert!(kept.iter().all(|range| table.find(range.start).as_ref() == Some(range)));
        let tables = |table: &AddressTable| table.tables.iter().filter(|table| table.get().is_some()).count();
        let before = tables(&table);
        removed.iter().for_each(|range| table.insert(range.clone()));
        assert_eq!(tables(&table), before);
    }

    #[test]
    fn note_fault_adds_adjacent_missing_pages_only() {
        let table = AddressTable::default();
        let range = 100 * PAGE..200 * PAGE;
        table.insert(range.clone());
        table.insert(200 * PAGE..201 * PAGE);
        // The file ends before page 110, except for one readable page.
        let note_fault = |page: usize| {
            table.note_fault(page * PAGE + 5, PAGE, |at| {
                assert!(range.contains(&at), "`is_gone` was called for a page of another range");
                at >= 110 * PAGE && at != 150 * PAGE
            })
        };
        let pages = |part: Option<Range<usize>>| part.map(|part| (part.start / PAGE, part.end / PAGE));
        assert_eq!(note_fault(99), None);
        assert!(!table.any_faulted());
        assert_eq!(pages(note_fault(112)), Some((112, 113)));
        assert_eq!(pages(note_fault(113)), Some((110, 117)));
        assert_eq!(pages(note_fault(145)), Some((130, 150)));
        assert_eq!(pages(note_fault(199)), Some((151, 200)));
        let faulted = |start, end| pages(table.faulted_part(range.clone(), start * PAGE..end * PAGE));
        assert_eq!(faulted(100, 200), Some((110, 200)));
        assert_eq!((faulted(100, 111), faulted(199, 200)), (Some((110, 111)), Some((199, 200))));
        assert_eq!(faulted(100, 110), None);
        assert_eq!(table.faulted_part(200 * PAGE..201 * PAGE, 200 * PAGE..201 * PAGE), None);
        // A new range at the same addresses has no note.
        table.remove(range.clone());
        assert!(!table.any_faulted());
        table.insert(range.clone());
        assert_eq!(faulted(100, 200), None);
        assert_eq!(pages(note_fault(112)), Some((112, 113)), "the faults of the old range do not count");
        table.remove(50 * PAGE..51 * PAGE);
    }

    #[test]
    fn range_in_two_chunks_has_one_note() {
        let (table, range) = (AddressTable::default(), 15 * PAGE..18 * PAGE - 7);
        table.insert(range.clone());
        let note_fault = |page: usize| table.note_fault(page * PAGE, PAGE, |_| true);
        assert_eq!(note_fault(17), Some(17 * PAGE..range.end));
        assert_eq!(note_fault(15), Some(range.clone()));
        assert_eq!(table.faulted_part(range.clone(), range.clone()), Some(range.clone()));
        table.remove(range);
        assert!(!table.any_faulted() && note_fault(17).is_none());
    }

    #[test]
    fn remove_in_child_with_the_lock_held_removes_range_and_note() {
        let (table, range) = (AddressTable::default(), 15 * PAGE..18 * PAGE - 7);
        table.insert(range.clone());
        table.insert(18 * PAGE..19 * PAGE);
        let note_fault = |page: usize| table.note_fault(page * PAGE, PAGE, |_| false);
        assert!(note_fault(17).is_some());
        let _held = table.lock();
        table.remove_in_child(range);
        assert!(!table.any_faulted() && (15..18).all(|page| note_fault(page).is_none()));
        assert_eq!(note_fault(18), Some(18 * PAGE..19 * PAGE));
    }

    #[test]
    fn each_faulted_range_is_counted_once() {
        let table = AddressTable::default();
        // Each range lies in one chunk.
        let [one, other, whole] = [16, 17, 18].map(|page| page * PAGE..(page + 1) * PAGE);
        [&one, &other, &whole].into_iter().for_each(|range| table.insert(range.clone()));
        for _ in 0..3 {
            assert!(table.note_fault(one.start, PAGE, |_| false).is_some());
        }
        assert!(table.note_fault(other.start, PAGE, |_| false).is_some());
        table.remove(whole);
        table.remove(one);
        assert!(table.any_faulted());
        table.remove(other);
        assert!(!table.any_faulted());
    }
}
