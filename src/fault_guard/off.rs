//! Without the feature, or its system: nothing is known of holes, and nothing is asked.

use std::ops::Range;

pub(crate) fn protect(_mapping: Range<usize>) {}

pub(crate) fn unprotect(_mapping: Range<usize>) {}

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
