//! [`Geometry`]: the arithmetic of offsets and windows; and the bounds of ranges.
//!
//! No other module computes where a window starts or ends.

use std::ops::{Bound, Range, RangeBounds};

/// The division of files into windows: aligned spans of one size, or one span for the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Geometry {
    /// One window for the whole file, whatever its length.
    Whole,
    /// Windows of `1 << shift` bytes. A shift takes one cycle, a division up to twenty.
    Shifted(u32),
    /// Windows of this many bytes, which is not a power of two.
    Divided(u64),
}

impl Geometry {
    pub(crate) fn whole_file() -> Self {
        Self::Whole
    }

    /// Returns the geometry of windows of `bytes` bytes: a multiple of the mapping granularity, and not 0.
    pub(crate) fn sliding(bytes: u64) -> Self {
        debug_assert_ne!(bytes, 0, "a window has at least one byte");
        if bytes.is_power_of_two() { Self::Shifted(bytes.trailing_zeros()) } else { Self::Divided(bytes) }
    }

    /// Returns the size of a window, or `None` if each file is one window.
    pub(crate) fn window_bytes(&self) -> Option<u64> {
        match *self {
            Self::Whole => None,
            Self::Shifted(shift) => Some(1 << shift),
            Self::Divided(bytes) => Some(bytes),
        }
    }

    /// Returns the exponent if the window size is a power of two.
    pub(crate) fn shift(&self) -> Option<u32> {
        match *self {
            Self::Shifted(shift) => Some(shift),
            Self::Whole | Self::Divided(_) => None,
        }
    }

    /// Returns the index of the window that contains `offset`, and the offset at which that window starts.
    #[inline]
    pub(crate) fn locate(&self, offset: u64) -> (u64, u64) {
        match *self {
            Self::Whole => (0, 0),
            Self::Shifted(shift) => (offset >> shift, offset >> shift << shift),
            Self::Divided(bytes) => (offset / bytes, offset / bytes * bytes),
        }
    }

    #[inline]
    pub(crate) fn index(&self, offset: u64) -> u64 {
        self.locate(offset).0
    }

    /// Returns the offset at which window `index` starts, saturating at `u64::MAX`.
    #[inline]
    pub(crate) fn start(&self, index: u64) -> u64 {
        index.saturating_mul(self.window_bytes().unwrap_or(0))
    }

    /// Returns the number of windows of a file of `len` bytes.
    pub(crate) fn count(&self, len: u64) -> u64 {
        len.checked_sub(1).map_or(0, |last| self.index(last) + 1)
    }

    /// Returns the bytes of window `index` in a file of `len` bytes. The span is empty if the file ends before the
    /// window.
    #[inline]
    pub(crate) fn span(&self, index: u64, len: u64) -> Range<u64> {
        let Some(bytes) = self.window_bytes() else { return 0..len };
        let start = self.start(index).min(len);
        start..start.saturating_add(bytes).min(len)
    }

    /// Returns `true` if one window contains all of `range`, which must not be empty.
    #[inline]
    pub(crate) fn is_in_one(&self, range: &Range<u64>) -> bool {
        self.window_bytes().is_none_or(|bytes| range.end - self.locate(range.start).1 <= bytes)
    }

    /// Splits `range` at the borders of windows. Each item is the index of a window and the part of `range` in it.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let geometry = *self;
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let index = geometry.index(at);
            let end = geometry.span(index, u64::MAX).end.min(range.end);
            let piece = at..end;
            at = end;
            Some((index, piece))
        })
    }
}

/// Returns the inclusive start and the exclusive end of a range. An open end is `open_end`, or the start if that is
/// larger.
///
/// A bound is `None` if `u64` cannot express it: the start after an excluded maximum, or the end after an included one.
#[inline(always)]
fn bounds(range: &impl RangeBounds<u64>, open_end: u64) -> (Option<u64>, Option<u64>) {
    let start = match range.start_bound() {
        Bound::Included(&start) => Some(start),
        Bound::Excluded(&before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.checked_add(1),
        Bound::Excluded(&end) => Some(end),
        Bound::Unbounded => Some(open_end.max(start.unwrap_or(0))),
    };
    (start, end)
}

/// Returns the start and the end of a range, saturating at `u64::MAX`, which is also the end of an open range. The
/// range may be reversed.
///
/// The caller compares them with a span that ends before `u64::MAX`: no such span contains an open range.
#[inline]
pub(crate) fn ends(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let (start, end) = bounds(range, u64::MAX);
    (start.unwrap_or(u64::MAX), end.unwrap_or(u64::MAX))
}

/// Resolves a range in `len` bytes of a file or a lease.
///
/// # Errors
///
/// Returns the start and the end as the caller gave them if the range is reversed or ends after `len`. A bound that
/// `u64` cannot express is `u64::MAX`.
#[inline]
pub(crate) fn resolve(range: &impl RangeBounds<u64>, len: u64) -> Result<Range<u64>, Range<u64>> {
    match bounds(range, len) {
        (Some(start), Some(end)) if start <= end && end <= len => Ok(start..end),
        (start, end) => Err(start.unwrap_or(u64::MAX)..end.unwrap_or(u64::MAX)),
    }
}

/// Resolves a range in `len` bytes of memory, as indexing a slice does.
///
/// # Panics
///
/// Panics if the range is reversed or ends after `len`.
#[track_caller]
pub(crate) fn resolve_usize(range: &impl RangeBounds<usize>, len: usize) -> Range<usize> {
    let wide = (range.start_bound().map(|&start| start as u64), range.end_bound().map(|&end| end as u64));
    match resolve(&wide, len as u64) {
        // Lossless: both are at most `len`.
        Ok(range) => range.start as usize..range.end as usize,
        Err(Range { start, end }) => panic!("cannot slice {start}..{end} of a lease of {len} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_file_cover_it_without_gaps() {
        for bytes in [4096, 3 * 4096] {
            let geometry = Geometry::sliding(bytes);
            for len in [0, 1, bytes - 1, bytes, bytes + 1, 10 * bytes - 1] {
                let mut at = 0;
                for index in 0..geometry.count(len) {
                    let span = geometry.span(index, len);
                    assert_eq!(span.start, at);
                    assert!(!span.is_empty() && geometry.index(span.end - 1) == index);
                    at = span.end;
                }
                assert_eq!(at, len);
                assert!(geometry.span(geometry.count(len), len).is_empty());
            }
        }
        assert_eq!((Geometry::whole_file().count(9), Geometry::whole_file().span(0, 9)), (1, 0..9));
    }

    #[test]
    fn geometry_near_the_last_offset_does_not_overflow() {
        for geometry in [Geometry::sliding(4096), Geometry::sliding(3 * 4096), Geometry::whole_file()] {
            let last = geometry.index(u64::MAX - 1);
            assert_eq!(geometry.span(last, u64::MAX).end, u64::MAX);
            let Range { start, end } = geometry.span(u64::MAX, 10);
            assert!(start <= end && end <= 10, "{start}..{end} of a file of 10 bytes");
            assert!([0, 4095, 4096, u64::MAX].iter().all(|&at| geometry.locate(at).1 <= at));
            assert_eq!(geometry.pieces(u64::MAX - 2..u64::MAX).map(|(_, piece)| piece.end).last(), Some(u64::MAX));
        }
    }

    #[test]
    fn range_of_one_piece_is_in_one_window() {
        for geometry in [Geometry::sliding(4096), Geometry::sliding(3 * 4096), Geometry::whole_file()] {
            for range in [0..1, 0..4096, 0..4097, 4095..4097, 4096..8192, 8191..12288, 8191..12289, 12288..u64::MAX] {
                let is_one_piece = geometry.pieces(range.clone()).nth(1).is_none();
                assert_eq!(geometry.is_in_one(&range), is_one_piece, "{range:?} in {geometry:?}");
            }
        }
    }

    #[test]
    fn pieces_of_a_range_are_split_at_the_borders_of_windows() {
        let pieces: Vec<_> = Geometry::sliding(4096).pieces(4000..8200).collect();
        assert_eq!(pieces, [(0, 4000..4096), (1, 4096..8192), (2, 8192..8200)]);
        assert_eq!(Geometry::sliding(4096).pieces(5..5).count(), 0);
    }

    #[test]
    fn resolve_of_a_range_agrees_with_slices() {
        assert_eq!(resolve(&(..), 7), Ok(0..7));
        assert_eq!(resolve(&(2..), 7), Ok(2..7));
        assert_eq!(resolve(&(7..), 7), Ok(7..7));
        assert_eq!(resolve(&(..=6), 7), Ok(0..7));
        assert_eq!(resolve(&(3..3), 7), Ok(3..3));
        assert_eq!(resolve(&(8..), 7), Err(8..8));
        assert_eq!(resolve(&(8..8), 7), Err(8..8));
        #[expect(clippy::reversed_empty_ranges, reason = "the test resolves a reversed range")]
        let reversed = 5..3;
        assert_eq!(resolve(&reversed, 7), Err(reversed));
        assert_eq!(resolve(&(0..=u64::MAX), 7), Err(0..u64::MAX));
        let beyond = (Bound::Excluded(u64::MAX), Bound::Unbounded);
        assert_eq!(resolve(&beyond, 7).map_err(|range| (range.start, range.end)), Err((u64::MAX, 7)));
        assert_eq!([resolve_usize(&(3..=5), 7), resolve_usize(&(7..), 7), resolve_usize(&(..), 7)], [3..6, 7..7, 0..7]);
    }

    #[test]
    #[should_panic(expected = "cannot slice 8..8 of a lease of 7 bytes")]
    fn resolve_usize_of_a_range_past_the_end_panics() {
        resolve_usize(&(8..), 7);
    }

    #[test]
    fn ends_of_a_range_saturate() {
        assert_eq!(ends(&(3..5)), (3, 5));
        assert_eq!(ends(&(3..=5)), (3, 6));
        assert_eq!(ends(&(3..)), (3, u64::MAX));
        assert_eq!(ends(&(..=u64::MAX)), (0, u64::MAX));
        assert_eq!(ends(&(Bound::Excluded(3), Bound::Excluded(5))), (4, 5));
    }
}
