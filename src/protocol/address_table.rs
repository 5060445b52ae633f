//! [`AddressTable`]: which addresses are ours, and which of them were found to be holes. For a signal handler to ask.
//!
//! A handler interrupts any thread anywhere, so a look-up takes no lock, waits for nobody, makes no memory and retries
//! nothing; and since a process may have tens of thousands of ranges, it costs the same however many there are.
//!
//! # How a range is found
//!
//! A range of 2ⁿ⁻¹ < length ≤ 2ⁿ bytes is of *class* n, and lies in at most two of the aligned *chunks* of 2ⁿ bytes. It has an
//! entry under each, so whoever looks for an address asks, for every class there is, under the one chunk of that class that
//! the address is in. AddressTable do not overlap, so a chunk holds parts of no more than three of its class.
//!
//! Entries stand in [groups](Group) of four, chosen by a hash of class and chunk. What finds its group full goes into the next
//! table, which has four times as many groups. Tables stay where they are, and last as long as `AddressTable`.
//!
//! # Rules
//!
//! 1. *Entries are written under a lock* that no handler takes, and with a turn that is odd meanwhile. A look-up that meets an
//!    odd turn, or another one afterwards, goes on as if the entry were empty: a range is inserted before anybody learns its
//!    address and removed when nobody reads there any more, so an entry that is changing cannot be the one that is looked for.
//! 2. *A hole is noted before it is filled.* Who reads what was filled, and then asks [`faulted_part`](AddressTable::faulted_part), is told. For
//!    the thread that faulted this is the order of its own steps; any other sees the filling by way of the system's page tables,
//!    which order what came before.
//! 3. *The count of torn ranges goes up before the range's own note*, and down again if the range was torn already: so whoever
//!    sees a range torn, or its bytes filled, sees a count above zero, and only then has to look further.
//!
//! The entry under the first chunk of a range carries the note; the other one leads to it.

use std::ops::Range;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, OnceLock, Ordering, fence};

/// Entries that share a hash. More than a chunk can have.
const GROUP: usize = 4;
/// Table n has 2²ⁿ groups: the last of so many is more than there is memory for.
const TABLES: usize = 16;

#[derive(Debug)]
pub(crate) struct AddressTable {
    tables: [OnceLock<Box<[Group]>>; TABLES],
    /// A bit for each class that ever had a range.
    classes: AtomicU64,
    faulted: AtomicUsize,
    writing: Mutex<()>,
}

type Group = [Entry; GROUP];

#[derive(Debug)]
struct Entry {
    /// Odd while the others are being changed.
    turn: AtomicUsize,
    start: AtomicUsize,
    /// 0: the entry is empty.
    end: AtomicUsize,
    /// The hull of the holes that were found; `faulted_end` is 0 if there are none.
    faulted_start: AtomicUsize,
    faulted_end: AtomicUsize,
    holes: AtomicUsize,
}

/// Class, and number of the chunk in that class.
type Key = (u32, usize);

impl Default for Entry {
    fn default() -> Self {
        let zero = || AtomicUsize::new(0);
        Self { turn: zero(), start: zero(), end: zero(), faulted_start: zero(), faulted_end: zero(), holes: zero() }
    }
}

impl Default for AddressTable {
    fn default() -> Self {
        Self {
            tables: std::array::from_fn(|_| OnceLock::new()),
            classes: AtomicU64::new(0),
            faulted: AtomicUsize::new(0),
            writing: Mutex::new(()),
        }
    }
}

impl Entry {
    fn read(&self) -> Option<Range<usize>> {
        // Acquire: pairs with the Release at the end of `write`, so that what is read is not older than the turn.
        let turn = self.turn.load(Ordering::Acquire);
        // Relaxed, both: the turns say whether they belong together.
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        // Acquire: pairs with the Release fence in `write`. If one of the two was newer than the first turn, the second is.
        fence(Ordering::Acquire);
        let is_whole = turn % 2 == 0 && self.turn.load(Ordering::Relaxed) == turn;
        (is_whole && range.end != 0).then_some(range)
    }

    /// By one writer at a time.
    fn write(&self, range: Range<usize>) {
        // Relaxed: only writers change it, one after the other.
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        // Release: pairs with the Acquire fence in `read`.
        fence(Ordering::Release);
        // Relaxed, all: the turns and the fences are around them.
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.faulted_start.store(usize::MAX, Ordering::Relaxed);
        self.faulted_end.store(0, Ordering::Relaxed);
        self.holes.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `read`.
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        // Relaxed: asked by writers only.
        self.end.load(Ordering::Relaxed) == 0
    }
}

impl AddressTable {
    /// Makes a range known, before anybody else learns its address: not empty, and apart from all that are known.
    pub(crate) fn insert(&self, range: Range<usize>) {
        let _writing = self.lock();
        let class = class(&range);
        // Relaxed: as for the entries, whoever may look for this range learns of it in another way, which orders both.
        self.classes.fetch_or(1 << class, Ordering::Relaxed);
        for key in keys(&range) {
            let free = (0..TABLES).find_map(|level| {
                let table = self.tables[level].get_or_init(|| table(level));
                group(table, key).iter().find(|entry| entry.is_empty())
            });
            free.expect("a group that is not full, in tables of more groups than there is memory for")
                .write(range.clone());
        }
    }

    /// Forgets a range, when nobody reads there any more; also one that is not known.
    pub(crate) fn remove(&self, range: Range<usize>) {
        let _writing = self.lock();
        for key in keys(&range) {
            let Some(entry) = self.entry(key, |known| *known == range) else { continue };
            // Relaxed: nobody else looks at it by now.
            if entry.faulted_end.load(Ordering::Relaxed) != 0 {
                self.faulted.fetch_sub(1, Ordering::Relaxed);
            }
            entry.write(0..0);
        }
    }

    /// Notes a hole at `address`: these addresses are to be filled, and then the thread that met it may go on. `None`: the
    /// address is not ours. For a signal handler.
    ///
    /// The hole is the page that the address is in, and those beside it that `is_gone` says are gone too: the first hole of a
    /// range takes no more, each further one up to four times as many as the one before, in either direction. So nothing is
    /// filled that could be read, and a file that was cut short takes few steps.
    pub(crate) fn note_fault(
        &self,
        address: usize,
        page: usize,
        is_gone: impl Fn(usize) -> bool,
    ) -> Option<Range<usize>> {
        let range = self.find(address)?;
        let entry = self.entry(first_key(&range), |known| *known == range)?;
        // Relaxed: how many there were is a hint.
        let before = entry.holes.fetch_add(1, Ordering::Relaxed);
        let more = page.saturating_mul(1 << (2 * before).min(18)) - page;
        let start = address & !(page - 1);
        let is_gone = |at: &usize| is_gone(*at);
        let first = start.saturating_sub(more).max(range.start);
        let last = start.saturating_add(more).min((range.end - 1) & !(page - 1));
        let behind = (start..=last).step_by(page).skip(1).take_while(is_gone).last();
        let ahead = (first..start).step_by(page).rev().take_while(is_gone).last();
        let hole = ahead.unwrap_or(start)..behind.unwrap_or(start).saturating_add(page).min(range.end);
        // Rule 3: this one first. Relaxed, both: ordered by what follows.
        self.faulted.fetch_add(1, Ordering::Relaxed);
        entry.faulted_start.fetch_min(hole.start, Ordering::Relaxed);
        // AcqRel: pairs with itself; whoever finds the range faulted already also finds it counted.
        if entry.faulted_end.fetch_max(hole.end, Ordering::AcqRel) != 0 {
            self.faulted.fetch_sub(1, Ordering::Relaxed);
        }
        Some(hole)
    }

    /// Whether any range is torn, as of about now: one load.
    #[inline]
    pub(crate) fn any_faulted(&self) -> bool {
        // Relaxed: who has to know asks `faulted_part`.
        self.faulted.load(Ordering::Relaxed) != 0
    }

    /// Where among `bytes`, which are part of `range` and which the caller has read, holes were found: a part that has them all,
    /// and what is between them.
    #[inline]
    pub(crate) fn faulted_part(&self, range: Range<usize>, bytes: Range<usize>) -> Option<Range<usize>> {
        // Acquire: rule 2; what was read was read before this is asked.
        fence(Ordering::Acquire);
        if self.any_faulted() { self.holes_in(range, bytes) } else { None }
    }

    #[cold]
    fn holes_in(&self, range: Range<usize>, bytes: Range<usize>) -> Option<Range<usize>> {
        let entry = self.entry(first_key(&range), |known| *known == range)?;
        // Relaxed, both: ordered by the fence in `faulted_part`.
        let (start, end) = (entry.faulted_start.load(Ordering::Relaxed), entry.faulted_end.load(Ordering::Relaxed));
        let faulted = bytes.start.max(start)..bytes.end.min(end);
        (!faulted.is_empty()).then_some(faulted)
    }

    /// The range that `address` lies in.
    fn find(&self, address: usize) -> Option<Range<usize>> {
        // Relaxed: see `insert`.
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

    /// The entry under `key` whose range `is_it`.
    fn entry(&self, key: Key, is_it: impl Fn(&Range<usize>) -> bool) -> Option<&Entry> {
        let tables = self.tables.iter().map_while(OnceLock::get);
        tables.flat_map(|table| group(table, key)).find(|entry| entry.read().is_some_and(|known| is_it(&known)))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// n, where the length is more than 2ⁿ⁻¹ and not more than 2ⁿ.
fn class(range: &Range<usize>) -> u32 {
    usize::BITS - (range.len() - 1).leading_zeros()
}

fn first_key(range: &Range<usize>) -> Key {
    let class = class(range);
    (class, range.start >> class)
}

/// One or two.
fn keys(range: &Range<usize>) -> impl Iterator<Item = Key> {
    let first = first_key(range);
    let last = (first.0, (range.end - 1) >> first.0);
    [Some(first), (last != first).then_some(last)].into_iter().flatten()
}

fn table(level: usize) -> Box<[Group]> {
    (0..1usize << (2 * level)).map(|_| Group::default()).collect()
}

fn group(table: &[Group], (class, chunk): Key) -> &Group {
    // Multiplied by 2⁶⁴ divided by the golden ratio (Knuth), of which the upper bits are the mixed ones.
    let hash = ((chunk as u64) << 6 ^ u64::from(class)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &table[(hash.rotate_left(32) as usize) & (table.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn an_address_is_found_however_many_ranges_there_are() {
        let ranges = AddressTable::default();
        // Of many lengths (on 64 bit up to 32 MiB), some side by side, some apart.
        let classes = usize::BITS as usize / 4 - 2;
        let mut end = PAGE << (usize::BITS / 2);
        let known: Vec<_> = (0..3_000)
            .map(|n: usize| {
                let start = end + n % 3 * PAGE;
                end = start + (PAGE << (n % classes)) + n % 5 * PAGE;
                start..end
            })
            .collect();
        known.iter().for_each(|range| ranges.insert(range.clone()));
        for range in &known {
            for address in [range.start, range.start + range.len() / 2, range.end - 1] {
                assert_eq!(ranges.find(address).as_ref(), Some(range));
            }
        }
        let gaps = known.windows(2).filter(|pair| pair[0].end < pair[1].start).map(|pair| pair[0].end);
        assert!(gaps.clone().count() > 500 && gaps.clone().all(|address| ranges.find(address).is_none()));
        // What was removed is not found, and leaves its place to others.
        let (gone, kept) = known.split_at(1_500);
        gone.iter().for_each(|range| ranges.remove(range.clone()));
        assert!(gone.iter().all(|range| ranges.find(range.start).is_none()));
        assert!(kept.iter().all(|range| ranges.find(range.start).as_ref() == Some(range)));
        let tables = |ranges: &AddressTable| ranges.tables.iter().filter(|table| table.get().is_some()).count();
        let before = tables(&ranges);
        gone.iter().for_each(|range| ranges.insert(range.clone()));
        assert_eq!(tables(&ranges), before);
    }

    #[test]
    fn holes_take_what_is_gone_and_nothing_else() {
        let ranges = AddressTable::default();
        let range = 100 * PAGE..200 * PAGE;
        ranges.insert(range.clone());
        ranges.insert(200 * PAGE..201 * PAGE);
        // Cut short at page 110, but for one page that can be read.
        let note_fault = |page: usize| {
            ranges.note_fault(page * PAGE + 5, PAGE, |at| {
                assert!(range.contains(&at), "asked for what is not ours");
                at >= 110 * PAGE && at != 150 * PAGE
            })
        };
        let pages = |hole: Option<Range<usize>>| hole.map(|hole| (hole.start / PAGE, hole.end / PAGE));
        assert_eq!(note_fault(99), None);
        assert!(!ranges.any_faulted());
        assert_eq!(pages(note_fault(112)), Some((112, 113)));
        assert_eq!(pages(note_fault(113)), Some((110, 117)));
        assert_eq!(pages(note_fault(145)), Some((130, 150)));
        assert_eq!(pages(note_fault(199)), Some((151, 200)));
        let faulted = |start, end| pages(ranges.faulted_part(range.clone(), start * PAGE..end * PAGE));
        assert_eq!(faulted(100, 200), Some((110, 200)));
        assert_eq!((faulted(100, 111), faulted(199, 200)), (Some((110, 111)), Some((199, 200))));
        assert_eq!(faulted(100, 110), None);
        assert_eq!(ranges.faulted_part(200 * PAGE..201 * PAGE, 200 * PAGE..201 * PAGE), None);
        // The next range at that place is another.
        ranges.remove(range.clone());
        assert!(!ranges.any_faulted());
        ranges.insert(range.clone());
        assert_eq!(faulted(100, 200), None);
        ranges.remove(50 * PAGE..51 * PAGE);
    }

    #[test]
    fn a_range_that_lies_in_two_chunks_is_one() {
        let ranges = AddressTable::default();
        let range = 15 * PAGE..18 * PAGE - 7;
        ranges.insert(range.clone());
        let note_fault = |page: usize| ranges.note_fault(page * PAGE, PAGE, |_| true);
        assert_eq!(note_fault(17), Some(17 * PAGE..range.end));
        assert_eq!(note_fault(15), Some(range.clone()));
        assert_eq!(ranges.faulted_part(range.clone(), range.clone()), Some(range.clone()));
        ranges.remove(range);
        assert!(!ranges.any_faulted() && note_fault(17).is_none());
    }

    #[test]
    fn each_torn_range_is_counted_once() {
        let ranges = AddressTable::default();
        // Each in one chunk.
        let [one, other, whole] = [16, 17, 18].map(|page| page * PAGE..(page + 1) * PAGE);
        [&one, &other, &whole].into_iter().for_each(|range| ranges.insert(range.clone()));
        for _ in 0..3 {
            assert!(ranges.note_fault(one.start, PAGE, |_| false).is_some());
        }
        assert!(ranges.note_fault(other.start, PAGE, |_| false).is_some());
        ranges.remove(whole);
        ranges.remove(one);
        assert!(ranges.any_faulted());
        ranges.remove(other);
        assert!(!ranges.any_faulted());
    }
}
