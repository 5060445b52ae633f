//! [`RadixTable<T>`]: an endless array that grows without moving, and takes memory only where it was touched.
//!
//! A file's windows and the seats of a [`ClockRing`](super::clock_ring::ClockRing) live in one. What stands in a table has an address
//! for as long as the table lives, which is what lets a count be kept *in* a slot (rule 5).
//!
//! The first element stands in the table itself, since most files have one window. Behind it is a radix tree for each
//! number of digits that an index can have, so that small indices never pay for large ones: a sparse file of 8 EiB costs
//! a few nodes for each window touched. A look-up is one load a digit; it never waits. Making a node may wait for another
//! thread that is making the same one, which does nothing but allocate.

use std::{array, iter};

use crate::sync::OnceLock;

/// Elements in a leaf: 2⁴, so that a file of a few windows stays small.
const LEAF_BITS: u32 = 4;
/// Children of an inner node: 2⁶.
const NODE_BITS: u32 = 6;
/// Inner levels that cover all 64 bits of an index.
const LEVELS: usize = (u64::BITS - LEAF_BITS).div_ceil(NODE_BITS) as usize;

#[derive(Debug)]
pub(crate) struct RadixTable<T> {
    first: T,
    /// `roots[n]` holds the indices that need `n` inner levels and no fewer.
    roots: [OnceLock<Node<T>>; LEVELS + 1],
}

#[derive(Debug)]
enum Node<T> {
    Leaf(Box<[T; 1 << LEAF_BITS]>),
    Inner(Box<[OnceLock<Node<T>>; 1 << NODE_BITS]>),
}

impl<T: Default> Default for RadixTable<T> {
    fn default() -> Self {
        Self { first: T::default(), roots: array::from_fn(|_| OnceLock::new()) }
    }
}

impl<T: Default> Node<T> {
    fn new(level: usize) -> Self {
        if level == 0 { Node::Leaf(boxed(T::default)) } else { Node::Inner(boxed(OnceLock::new)) }
    }
}

impl<T: Default> RadixTable<T> {
    /// The element at `index`, made with `T::default()` if nobody asked for it before.
    #[inline]
    pub(crate) fn at(&self, index: u64) -> &T {
        match self.find(index, |place, level| Some(place.get_or_init(|| Node::new(level)))) {
            Some(element) => element,
            None => unreachable!("what is missing on the way is made"),
        }
    }

    /// The element at `index`, if it is there.
    pub(crate) fn get(&self, index: u64) -> Option<&T> {
        self.find(index, |place, _| place.get())
    }

    /// The element at `index`, by the nodes that `enter` finds in their places, each with its level.
    #[inline(always)]
    fn find<'t>(
        &'t self,
        index: u64,
        enter: impl Fn(&'t OnceLock<Node<T>>, usize) -> Option<&'t Node<T>>,
    ) -> Option<&'t T> {
        if index == 0 {
            return Some(&self.first);
        }
        let mut level = levels(index);
        let mut shift = shift(level);
        let mut node = enter(&self.roots[level], level)?;
        loop {
            match node {
                Node::Leaf(elements) => return Some(&elements[index as usize & (elements.len() - 1)]),
                Node::Inner(children) => {
                    level -= 1;
                    node = enter(&children[(index >> shift) as usize & (children.len() - 1)], level)?;
                    shift = shift.saturating_sub(NODE_BITS);
                }
            }
        }
    }

    /// Calls `visit` with each element that exists from `first` on, in no promised order.
    pub(crate) fn for_each_from(&self, first: u64, mut visit: impl FnMut(u64, &T)) {
        if first == 0 {
            visit(0, &self.first);
        }
        for (level, root) in self.roots.iter().enumerate() {
            if let Some(node) = root.get() {
                walk(node, level, 0, first, &mut visit);
            }
        }
    }
}

/// `N` of them, made where they stay and not on the stack, which may be small.
fn boxed<T, const N: usize>(make: impl FnMut() -> T) -> Box<[T; N]> {
    let boxed: Box<[T]> = iter::repeat_with(make).take(N).collect();
    match boxed.try_into() {
        Ok(boxed) => boxed,
        Err(_) => unreachable!("so many were made"),
    }
}

fn walk<T>(node: &Node<T>, level: usize, base: u64, first: u64, visit: &mut impl FnMut(u64, &T)) {
    match node {
        Node::Leaf(elements) => {
            for (element, place) in elements.iter().zip(0u64..) {
                let index = base | place;
                // Index 0 stands in the table itself; its place in the first leaf stays unused.
                if index >= first && index != 0 {
                    visit(index, element);
                }
            }
        }
        Node::Inner(children) => {
            for (child, place) in children.iter().zip(0u64..) {
                if let Some(node) = child.get() {
                    walk(node, level - 1, base | (place << shift(level)), first, visit);
                }
            }
        }
    }
}

/// Inner levels needed to tell `index` from 0.
#[inline]
fn levels(index: u64) -> usize {
    /// By its leading zeros: a look-up costs less than the division.
    const LEVELS_OF: [u8; 65] = {
        let mut levels = [0; 65];
        let mut zeros = 0;
        while zeros <= u64::BITS {
            levels[zeros as usize] = (u64::BITS - zeros).saturating_sub(LEAF_BITS).div_ceil(NODE_BITS) as u8;
            zeros += 1;
        }
        levels
    };
    LEVELS_OF[index.leading_zeros() as usize].into()
}

/// The bits of an index below those that choose a child at this level.
#[inline]
fn shift(level: usize) -> u32 {
    (LEAF_BITS + NODE_BITS * level as u32).saturating_sub(NODE_BITS)
}

#[cfg(test)]
mod tests {
    use super::RadixTable;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    const SOME: [u64; 14] =
        [0, 1, 15, 16, 17, 1023, 1024, 65_535, 65_536, 1 << 22, 1 << 40, u64::MAX / 3, u64::MAX - 1, u64::MAX];

    #[test]
    fn an_element_keeps_its_address_and_its_value() {
        let table = RadixTable::<AtomicU64>::default();
        let addresses: Vec<*const AtomicU64> = SOME
            .iter()
            .map(|&index| {
                table.at(index).store(index ^ 7, Ordering::Relaxed);
                std::ptr::from_ref(table.at(index))
            })
            .collect();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), SOME.len(), "two indices share an element");
        for (&index, &address) in SOME.iter().zip(&addresses) {
            assert_eq!(table.at(index).load(Ordering::Relaxed), index ^ 7);
            assert!(std::ptr::eq(table.at(index), address));
        }
    }

    #[test]
    fn a_walk_visits_what_was_made_and_tells_its_index() {
        let table = RadixTable::<AtomicU64>::default();
        for index in SOME {
            table.at(index).store(index.wrapping_add(1), Ordering::Relaxed);
        }
        for first in [0, 1, 16, 1024, u64::MAX] {
            let mut seen = BTreeSet::new();
            table.for_each_from(first, |index, element| {
                let value = element.load(Ordering::Relaxed);
                if value != 0 || index == u64::MAX {
                    assert_eq!(value, index.wrapping_add(1));
                    assert!(seen.insert(index), "{index} twice");
                }
            });
            assert_eq!(seen, SOME.iter().copied().filter(|&index| index >= first).collect());
        }
    }

    #[test]
    fn an_untouched_table_visits_its_first_element_only() {
        let mut seen = Vec::new();
        RadixTable::<AtomicU64>::default().for_each_from(0, |index, _| seen.push(index));
        assert_eq!(seen, [0]);
    }
}
