//! Without the feature, or its system: nothing is known of holes, and nothing is asked.

use std::ops::Range;

pub(crate) fn protect(_mapping: Range<usize>) {}

pub(crate) fn unprotect(_mapping: Range<usize>) {}

#[inline(always)]
pub(crate) fn are_torn() -> bool {
    false
}

#[inline(always)]
pub(crate) fn is_torn(_mapping: Range<usize>, _bytes: &Range<usize>) -> bool {
    false
}

#[inline(always)]
pub(crate) fn may_be_past_the_end(_bytes: &[u8], _offset: u64) -> bool {
    false
}
