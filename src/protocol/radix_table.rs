//! [`RadixTable<T>`]: an array indexed by 64 bits that grows without moving its elements, and allocates only used
//! parts.
//!
//! The windows of a file and the entries of a [`Slab`](super::slab::Slab) live in such tables. An element keeps its
//! address while the table lives. So a slot can contain the count of its own clients (rule 5).
//!
//! The table itself contains the first element, since most files have one window. The other elements are in radix
//! trees: one tree for each number of digits that an index can have. So a small index needs few levels, and a sparse
//! file of 8 EiB needs a few nodes for each window in use. A look-up takes one load for each digit and never waits.
//! Making a node may wait for another thread that allocates the same node.

use std::iter;
use std::ops::RangeInclusive;

use crate::sync::OnceLock;

/// A leaf has 2⁴ elements, so that a file with few windows needs little memory.
const LEAF_BITS: u32 = 4;
/// An inner node has 2⁶ children.
const NODE_BITS: u32 = 6;
/// The number of inner levels that cover all 64 bits of an index.
const LEVELS: usize = (u64::BITS - LEAF_BITS).div_ceil(NODE_BITS) as usize;

/// A sparse array of elements with fixed addresses.
#[derive(Debug, Default)]
pub(crate) struct RadixTable<T> {
    first: T,
    /// `roots[n]` is the tree of the indices that need exactly `n` inner levels.
    roots: [OnceLock<Node<T>>; LEVELS + 1],
}

#[derive(Debug)]
enum Node<T> {
    Leaf(Box<[T; 1 << LEAF_BITS]>),
    Inner(Box<[OnceLock<Node<T>>; 1 << NODE_BITS]>),
}

impl<T: Default> Node<T> {
    fn new(level: usize) -> Self {
        if level == 0 { Node::Leaf(boxed(T::default)) } else { Node::Inner(boxed(OnceLock::new)) }
    }
}

impl<T: Default> RadixTable<T> {
    /// Returns the element at `index`. Makes it with `T::default()` if it does not exist yet.
    #[inline]
    pub(crate) fn at(&self, index: u64) -> &T {
        let element = self.find(index, |node, level| Some(node.get_or_init(|| Node::new(level))));
        element.unwrap_or_else(|| unreachable!("missing nodes are made on the way"))
    }

    /// Returns the element at `index`. Returns `None` if it does not exist yet.
    pub(crate) fn get(&self, index: u64) -> Option<&T> {
        self.find(index, |node, _| node.get())
    }

    /// Returns the indices of the elements that [`at`](Self::at) makes together with the one at `index`: those of its
    /// leaf. (The table contains the element at 0 from the start.)
    pub(crate) fn made_with(index: u64) -> RangeInclusive<u64> {
        let leaf = (1 << LEAF_BITS) - 1;
        index & !leaf..=index | leaf
    }

    /// Descends to the element at `index`. Calls `enter` with each node and its level, and stops if it returns `None`.
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

    /// Calls `visit` with each existing element at an index of at least `first`, in no particular order.
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

/// Makes an array of `N` values on the heap. It is never on the stack, which may be small.
fn boxed<T, const N: usize>(make: impl FnMut() -> T) -> Box<[T; N]> {
    let boxed: Box<[T]> = iter::repeat_with(make).take(N).collect();
    boxed.try_into().unwrap_or_else(|_| unreachable!("the iterator yields `N` values"))
}

fn walk<T>(node: &Node<T>, level: usize, base: u64, first: u64, visit: &mut impl FnMut(u64, &T)) {
    match node {
        Node::Leaf(elements) => {
            for (element, digit) in elements.iter().zip(0u64..) {
                let index = base | digit;
                // The table itself contains index 0. Its element in the first leaf stays unused.
                if index >= first && index != 0 {
                    visit(index, element);
                }
            }
        }
        Node::Inner(children) => {
            for (child, digit) in children.iter().zip(0u64..) {
                if let Some(node) = child.get() {
                    walk(node, level - 1, base | (digit << shift(level)), first, visit);
                }
            }
        }
    }
}

/// Returns the number of inner levels that `index` needs.
#[inline]
fn levels(index: u64) -> usize {
    /// Indexed by the number of leading zeros. A table look-up costs less than the division.
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

/// Returns the number of index bits below those that select a child at `level`.
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
    fn element_keeps_its_address_and_value_while_the_table_grows() {
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
    fn for_each_from_visits_existing_elements_with_their_index() {
        let table = RadixTable::<AtomicU64>::default();
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
}
