//! [`SparseTable<T>`]: an array indexed by 64 bits that grows without moving its elements, and allocates only used
//! parts.
//!
//! The windows of a file live in such a table. An element keeps its address while the table lives. So a slot can
//! contain the count of its own clients (rule 5).
//!
//! The table itself contains the first element, since most files have one window. The other elements are in *leaves* of
//! 16 neighbours. A hash table, the *directory*, finds a leaf by its number. So a look-up takes three loads, whatever
//! the index, and a sparse file of 8 EiB needs a leaf for each window in use and no more. A look-up never waits.
//!
//! # Growth
//!
//! Leaves are only added, and all under one lock: it waits for another thread that allocates a leaf of the same table.
//! An entry of the directory is written once: first the leaf, then its number (Release), by which a look-up recognises
//! it (Acquire). A directory with too many entries is replaced by one of twice the size, which contains all of them.
//! Look-ups may still use the older one, so it is freed with the table. A look-up in it may miss a leaf that was made
//! since, as if the look-up had come before.
#![allow(unsafe_code, reason = "leaves and directories that live as long as their table")]

use std::ops::RangeInclusive;
use std::{hint, iter, ptr};

use crate::sync::{AtomicPtr, AtomicU64, Mutex, Ordering};

/// A leaf has 2⁴ elements, so that a file with few windows needs little memory.
const LEAF_BITS: u32 = 4;

/// The first directory has 2⁴ entries. At most a quarter of the entries of a directory is used: then leaves that follow
/// each other from the first one on are all in their first entries, by the even spread of the hash.
const FIRST_BITS: u32 = 4;

/// Entries after the last place that a hash can select. If they and the entries before them are full, the directory is
/// replaced.
const OVERFLOW: usize = 4;

/// No leaf has this number.
const UNUSED: u64 = u64::MAX;

type Leaf<T> = [T; 1 << LEAF_BITS];

/// A sparse array of elements with fixed addresses.
#[derive(Debug)]
pub(crate) struct SparseTable<T> {
    first: T,
    /// The newest directory, or null before the first leaf.
    directory: AtomicPtr<Directory<T>>,
    /// The number of leaves. Held while a leaf or a directory is made.
    leaves: Mutex<usize>,
}

/// A hash table of leaves, with linear probing.
#[derive(Debug)]
struct Directory<T> {
    entries: Box<[Entry<T>]>,
    /// The number of low bits of a hash that select no entry.
    shift: u32,
    /// The directory that this one replaced, or null. Look-ups may still use it.
    older: AtomicPtr<Directory<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    /// The number of the leaf, or [`UNUSED`].
    number: AtomicU64,
    leaf: AtomicPtr<Leaf<T>>,
}

impl<T> Entry<T> {
    /// Returns the leaf with this number. If the entry has another one, returns the number of that, or [`UNUSED`].
    #[inline]
    fn leaf(&self, number: u64) -> Result<&Leaf<T>, u64> {
        // Acquire: pairs with the Release in `Directory::insert`, which publishes the leaf.
        let found = self.number.load(Ordering::Acquire);
        if found != number {
            return Err(found);
        }
        // Relaxed: the load of the number has synchronized.
        let leaf = self.leaf.load(Ordering::Relaxed);
        debug_assert!(!leaf.is_null(), "a number was found without its leaf");
        // SAFETY: the leaf was stored before its number, so it is not null.
        unsafe { hint::assert_unchecked(!leaf.is_null()) };
        // SAFETY: the leaf is freed with the table, which `self` borrows.
        Ok(unsafe { &*leaf })
    }
}

impl<T> Directory<T> {
    /// Makes a directory of `1 << bits` entries that takes the place of `older`.
    fn new(bits: u32, older: *mut Self) -> Self {
        let entry = || Entry { number: AtomicU64::new(UNUSED), leaf: AtomicPtr::new(ptr::null_mut()) };
        let entries = iter::repeat_with(entry).take((1 << bits) + OVERFLOW).collect();
        Self { entries, shift: u64::BITS - bits, older: AtomicPtr::new(older) }
    }

    /// Returns the first entry in which the leaf may be.
    #[inline]
    fn place(&self, number: u64) -> usize {
        // Fibonacci hashing (Knuth): multiplies by 2⁶⁴ divided by the golden ratio, and uses the upper bits.
        (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// Returns a leaf if it is in its first entry.
    #[inline]
    fn find_direct(&self, number: u64) -> Option<&Leaf<T>> {
        // SAFETY: a hash without its `shift` low bits is less than the number of entries, without `OVERFLOW`.
        unsafe { self.entries.get_unchecked(self.place(number)) }.leaf(number).ok()
    }

    /// Returns a leaf that is not in its first entry.
    #[cold]
    fn find_displaced(&self, number: u64) -> Option<&Leaf<T>> {
        let entries = self.entries[self.place(number)..].iter().map(|entry| entry.leaf(number));
        entries.take_while(|found| !matches!(found, Err(UNUSED))).find_map(Result::ok)
    }

    /// Inserts a leaf. Returns `false` if the directory has no place for it. The caller holds the lock.
    fn insert(&self, number: u64, leaf: *mut Leaf<T>) -> bool {
        // Relaxed: the lock orders all writers.
        let is_unused = |entry: &&Entry<T>| entry.number.load(Ordering::Relaxed) == UNUSED;
        let Some(entry) = self.entries[self.place(number)..].iter().find(is_unused) else { return false };
        // Relaxed: the number publishes it.
        entry.leaf.store(leaf, Ordering::Relaxed);
        // Release: pairs with the Acquire in `Entry::leaf`.
        entry.number.store(number, Ordering::Release);
        true
    }

    /// Returns the leaves with their numbers.
    fn leaves(&self) -> impl Iterator<Item = (u64, *mut Leaf<T>)> {
        // Acquire and Relaxed: as in `Entry::leaf`.
        let entries = self.entries.iter().map(|entry| (entry.number.load(Ordering::Acquire), entry));
        let used = entries.filter(|(number, _)| *number != UNUSED);
        used.map(|(number, entry)| (number, entry.leaf.load(Ordering::Relaxed)))
    }
}

impl<T> SparseTable<T> {
    /// Returns the element at `index`. Returns `None` if it does not exist yet.
    #[inline]
    pub(crate) fn get(&self, index: u64) -> Option<&T> {
        if index == 0 {
            return Some(&self.first);
        }
        let (directory, number) = (self.directory()?, index >> LEAF_BITS);
        let leaf = directory.find_direct(number).or_else(|| directory.find_displaced(number))?;
        Some(&leaf[index as usize & (leaf.len() - 1)])
    }

    /// Returns the indices of the elements that [`at`](Self::at) makes together with the one at `index`: those of its
    /// leaf. (The table contains the element at 0 from the start.)
    pub(crate) fn made_with(index: u64) -> RangeInclusive<u64> {
        let leaf = (1 << LEAF_BITS) - 1;
        index & !leaf..=index | leaf
    }

    #[inline]
    fn directory(&self) -> Option<&Directory<T>> {
        // Acquire: pairs with the Release in `replace_directory`, which publishes the directory.
        let directory = self.directory.load(Ordering::Acquire);
        // SAFETY: null, or a directory that is freed with the table.
        unsafe { directory.as_ref() }
    }

    /// Calls `visit` with each existing element at an index of at least `first`, in no particular order.
    pub(crate) fn for_each_from(&self, first: u64, mut visit: impl FnMut(u64, &T)) {
        if first == 0 {
            visit(0, &self.first);
        }
        for (number, leaf) in self.directory().into_iter().flat_map(Directory::leaves) {
            // SAFETY: as in `Entry::leaf`.
            let elements = unsafe { &*leaf };
            for (element, digit) in elements.iter().zip(0u64..) {
                let index = number << LEAF_BITS | digit;
                // The table itself contains index 0. Its element in the first leaf stays unused.
                if index >= first && index != 0 {
                    visit(index, element);
                }
            }
        }
    }
}

impl<T: Default> Default for SparseTable<T> {
    fn default() -> Self {
        Self { first: T::default(), directory: AtomicPtr::new(ptr::null_mut()), leaves: Mutex::new(0) }
    }
}

/// An element is made by one thread and may be dropped by another (so `T: Send`).
impl<T: Default + Send> SparseTable<T> {
    /// Returns the element at `index`. Makes it with `T::default()` if it does not exist yet.
    pub(crate) fn at(&self, index: u64) -> &T {
        self.get(index).unwrap_or_else(|| self.make(index))
    }

    #[cold]
    fn make(&self, index: u64) -> &T {
        let mut leaves = self.leaves.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Another thread may have made the leaf before.
        if self.get(index).is_none() {
            *leaves += 1;
            let (number, leaf) = (index >> LEAF_BITS, Box::into_raw(boxed(T::default)));
            let has_room = |directory: &&Directory<T>| 4 * *leaves <= directory.entries.len();
            let is_inserted = self.directory().filter(has_room).is_some_and(|directory| directory.insert(number, leaf));
            if !is_inserted {
                self.replace_directory(number, leaf);
            }
        }
        drop(leaves);
        self.get(index).unwrap_or_else(|| unreachable!("the leaf was inserted"))
    }

    /// Replaces the directory by a larger one with one leaf more. The caller holds the lock.
    fn replace_directory(&self, number: u64, leaf: *mut Leaf<T>) {
        let current = self.directory();
        let mut bits = current.map_or(FIRST_BITS, |directory| u64::BITS - directory.shift + 1);
        let larger = loop {
            // Relaxed: the lock orders all writers.
            let larger = Directory::new(bits, self.directory.load(Ordering::Relaxed));
            let mut leaves = current.into_iter().flat_map(Directory::leaves).chain([(number, leaf)]);
            if leaves.all(|(number, leaf)| larger.insert(number, leaf)) {
                break larger;
            }
            bits += 1;
        };
        // Release: pairs with the Acquire in `directory`.
        self.directory.store(Box::into_raw(Box::new(larger)), Ordering::Release);
    }
}

impl<T> Drop for SparseTable<T> {
    fn drop(&mut self) {
        // Relaxed, twice: what gave this thread exclusive access has ordered all changes.
        let mut next = self.directory.load(Ordering::Relaxed);
        let leaves: Vec<_> = self.directory().into_iter().flat_map(Directory::leaves).collect();
        while !next.is_null() {
            // SAFETY: `replace_directory` made it by `into_raw`, and no look-up is left.
            let directory = unsafe { Box::from_raw(next) };
            next = directory.older.load(Ordering::Relaxed);
        }
        for (_, leaf) in leaves {
            // SAFETY: `make` made it by `into_raw`, and inserted it once in each directory.
            drop(unsafe { Box::from_raw(leaf) });
        }
    }
}

/// Makes an array of `N` values on the heap. It is never on the stack, which may be small.
fn boxed<T, const N: usize>(make: impl FnMut() -> T) -> Box<[T; N]> {
    let boxed: Box<[T]> = iter::repeat_with(make).take(N).collect();
    boxed.try_into().unwrap_or_else(|_| unreachable!("the iterator yields `N` values"))
}

#[cfg(test)]
mod tests {
    use super::SparseTable;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    const SOME: [u64; 14] =
        [0, 1, 15, 16, 17, 1023, 1024, 65_535, 65_536, 1 << 22, 1 << 40, u64::MAX / 3, u64::MAX - 1, u64::MAX];

    #[test]
    fn element_keeps_its_address_and_value_while_the_table_grows() {
        let table = SparseTable::<AtomicU64>::default();
        let addresses: Vec<*const AtomicU64> = SOME
            .iter()
            .map(|&index| {
                assert!(table.get(index).is_none_or(|element| element.load(Ordering::Relaxed) == 0));
                table.at(index).store(index ^ 7, Ordering::Relaxed);
                std::ptr::from_ref(table.at(index))
            })
            .collect();
        (1..5_000).for_each(|index| _ = table.at(index << 9));
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), SOME.len(), "two indices share an element");
        for (&index, &address) in SOME.iter().zip(&addresses) {
            let element = table.get(index).expect("it was made");
            assert!(std::ptr::eq(element, address) && std::ptr::eq(table.at(index), address));
            assert_eq!(element.load(Ordering::Relaxed), index ^ 7);
        }
    }

    #[test]
    fn for_each_from_visits_existing_elements_with_their_index() {
        let table = SparseTable::<AtomicU64>::default();
        table.for_each_from(0, |index, _| assert_eq!(index, 0, "an unused table has the first element only"));
        for index in SOME {
            table.at(index).store(index.wrapping_add(1), Ordering::Relaxed);
        }
        for first in [0, 1, 16, 1024, u64::MAX] {
            let mut seen = BTreeSet::new();
            table.for_each_from(first, |index, element| {
                let value = element.load(Ordering::Relaxed);
                if value != 0 || index == u64::MAX {
                    assert_eq!(value, index.wrapping_add(1));
                    assert!(seen.insert(index), "index {index} was visited twice");
                }
            });
            assert_eq!(seen, SOME.iter().copied().filter(|&index| index >= first).collect());
        }
    }

    /// Counts its values that exist.
    #[derive(Debug)]
    struct Counted(u64);

    static EXISTING: AtomicUsize = AtomicUsize::new(0);

    impl Default for Counted {
        fn default() -> Self {
            EXISTING.fetch_add(1, Ordering::Relaxed);
            Self(7)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            EXISTING.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// In a sparse file of 15 TiB with windows of 4 KiB, whatever the distance of its windows in use.
    #[test]
    fn table_has_one_leaf_for_each_element_in_use_and_few_entries() {
        for stride in [1 << 4, 1 << 10, 1 << 20, 999_983, 0x9E37_79B9_7F4A_7C15] {
            let table = SparseTable::<Counted>::default();
            (1..=3_000_u64).for_each(|n| assert_eq!(table.at(n.wrapping_mul(stride)).0, 7));
            assert_eq!(EXISTING.load(Ordering::Relaxed), 1 + 3_000 * 16, "stride {stride}");
            let directory = table.directory().expect("the table has leaves");
            assert!(
                directory.entries.len() < 8 * 3_000 + 1_000,
                "{} entries, stride {stride}",
                directory.entries.len()
            );
            let probes = |number: u64| {
                directory.entries[directory.place(number)..]
                    .iter()
                    .position(|entry| entry.number.load(Ordering::Relaxed) == number)
            };
            let all: usize = directory.leaves().map(|(number, _)| probes(number).expect("it is inserted")).sum();
            assert!(all < 3_000, "{all} entries are passed over, stride {stride}");
            drop(table);
            assert_eq!(EXISTING.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn concurrent_threads_make_each_element_once() {
        const INDICES: u64 = 2_000;
        let table = SparseTable::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..INDICES {
                        let index = if thread % 2 == 0 { n } else { INDICES - 1 - n } * 11;
                        table.at(index).fetch_add(1, Ordering::Relaxed);
                        assert!(table.get(index).is_some());
                    }
                });
            }
        });
        (0..INDICES).for_each(|n| assert_eq!(table.at(n * 11).load(Ordering::Relaxed), 4));
        assert!(table.get(u64::MAX).is_none());
    }
}
