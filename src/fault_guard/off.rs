//! `fault_guard` without the feature or on an unsupported OS: no faults are known, and no checks are made.

use std::ops::Range;

pub(crate) fn register(_mapping: Range<usize>) {}

pub(crate) fn unregister(_mapping: Range<usize>) {}

#[inline(always)]
pub(crate) fn any_faulted() -> bool {
    false
}

#[inline(always)]
pub(crate) fn faulted_part(_mapping: Range<usize>, _bytes: Range<usize>) -> Option<Range<usize>> {
    None
}

#[inline(always)]
pub(crate) fn is_installed() -> bool {
    false
}
