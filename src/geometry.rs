//! Offsets and windows: pure arithmetic, and the only place that does it.

use std::ops::{Bound, Range, RangeBounds};

/// How files are cut into windows: aligned spans of one size, or one span for the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Geometry {
    /// One window, whatever the length.
    Whole,
    /// Windows of `1 << shift` bytes. A shift costs a cycle, a division up to twenty.
    Shifted(u32),
    /// Windows of so many bytes, not a power of two.
    Divided(u64),
}

impl Geometry {
    pub(crate) fn whole_file() -> Self {
        Self::Whole
    }

    /// `bytes` is a multiple of the mapping granularity, and not 0.
    pub(crate) fn sliding(bytes: u64) -> Self {
        debug_assert_ne!(bytes, 0, "a window of no bytes");
        if bytes.is_power_of_two() { Self::Shifted(bytes.trailing_zeros()) } else { Self::Divided(bytes) }
    }

    pub(crate) fn window_bytes(&self) -> Option<u64> {
        match *self {
            Self::Whole => None,
            Self::Shifted(shift) => Some(1 << shift),
            Self::Divided(bytes) => Some(bytes),
        }
    }

    /// Of which power of two the size of windows is.
    pub(crate) fn shift(&self) -> Option<u32> {
        match *self {
            Self::Shifted(shift) => Some(shift),
            Self::Whole | Self::Divided(_) => None,
        }
    }

    /// The window that `offset` lies in, and where that starts.
    #[inline]
    pub(crate) fn locate(&self, offset: u64) -> (u64, u64) {
        match *self {
            Self::Whole => (0, 0),
            Self::Shifted(shift) => (offset >> shift, offset >> shift << shift),
            Self::Divided(bytes) => (offset / bytes, offset / bytes * bytes),
        }
    }

    /// The window that `offset` lies in.
    #[inline]
    pub(crate) fn index(&self, offset: u64) -> u64 {
        self.locate(offset).0
    }

    /// Where window `index` starts.
    #[inline]
    pub(crate) fn start(&self, index: u64) -> u64 {
        index.saturating_mul(self.window_bytes().unwrap_or(0))
    }

    /// How many windows a file of `len` bytes has.
    pub(crate) fn count(&self, len: u64) -> u64 {
        match len.checked_sub(1) {
            Some(last) => self.index(last) + 1,
            None => 0,
        }
    }

    /// The bytes of window `index` in a file of `len` bytes; empty if the file ends before it.
    #[inline]
    pub(crate) fn span(&self, index: u64, len: u64) -> Range<u64> {
        let Some(bytes) = self.window_bytes() else { return 0..len };
        let start = self.start(index).min(len);
        start..start.saturating_add(bytes).min(len)
    }

    /// Whether one window has all of `range`, which is not empty.
    #[inline]
    pub(crate) fn is_in_one(&self, range: &Range<u64>) -> bool {
        self.window_bytes().is_none_or(|bytes| range.end - self.locate(range.start).1 <= bytes)
    }

    /// Cuts `range` where windows meet.
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

/// The two ends of a range as they are, for a look whether it lies in something that is known to be short of
/// `u64::MAX`: an end that is open, or that cannot be expressed, lies beyond that.
#[inline]
pub(crate) fn ends(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// What a range means in a file (or lease) of `len` bytes: `Err` with the two ends as they were asked for, if it is
/// reversed or reaches past `len`.
#[inline]
pub(crate) fn resolve(range: &impl RangeBounds<u64>, len: u64) -> Result<Range<u64>, Range<u64>> {
    let start = match range.start_bound() {
        Bound::Included(&start) => Some(start),
        Bound::Excluded(&before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.checked_add(1),
        Bound::Excluded(&end) => Some(end),
        Bound::Unbounded => Some(len.max(start.unwrap_or(0))),
    };
    match (start, end) {
        (Some(start), Some(end)) if start <= end && end <= len => Ok(start..end),
        _ => Err(start.unwrap_or(u64::MAX)..end.unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_a_file_without_gaps() {
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
    fn nothing_overflows_at_the_end_of_the_world() {
        for geometry in [Geometry::sliding(4096), Geometry::sliding(3 * 4096), Geometry::whole_file()] {
            let last = geometry.index(u64::MAX - 1);
            assert_eq!(geometry.span(last, u64::MAX).end, u64::MAX);
            assert!(geometry.span(u64::MAX, 10).len_is_sane());
            assert!([0, 4095, 4096, u64::MAX].iter().all(|&at| geometry.locate(at).1 <= at));
            assert_eq!(geometry.pieces(u64::MAX - 2..u64::MAX).map(|(_, piece)| piece.end).last(), Some(u64::MAX));
        }
    }

    trait Sane {
        fn len_is_sane(&self) -> bool;
    }
    impl Sane for Range<u64> {
        fn len_is_sane(&self) -> bool {
            self.start <= self.end && self.end <= 10
        }
    }

    #[test]
    fn a_range_is_in_one_window_if_it_is_one_piece() {
        for geometry in [Geometry::sliding(4096), Geometry::sliding(3 * 4096), Geometry::whole_file()] {
            for range in [0..1, 0..4096, 0..4097, 4095..4097, 4096..8192, 8191..12288, 8191..12289, 12288..u64::MAX] {
                let is_one_piece = geometry.pieces(range.clone()).nth(1).is_none();
                assert_eq!(geometry.is_in_one(&range), is_one_piece, "{range:?} in {geometry:?}");
            }
        }
    }

    #[test]
    fn pieces_are_cut_at_the_borders() {
        let pieces: Vec<_> = Geometry::sliding(4096).pieces(4000..8200).collect();
        assert_eq!(pieces, [(0, 4000..4096), (1, 4096..8192), (2, 8192..8200)]);
        assert_eq!(Geometry::sliding(4096).pieces(5..5).count(), 0);
    }

    #[test]
    fn ranges_mean_what_slices_mean() {
        assert_eq!(resolve(&(..), 7), Ok(0..7));
        assert_eq!(resolve(&(2..), 7), Ok(2..7));
        assert_eq!(resolve(&(7..), 7), Ok(7..7));
        assert_eq!(resolve(&(..=6), 7), Ok(0..7));
        assert_eq!(resolve(&(3..3), 7), Ok(3..3));
        assert_eq!(resolve(&(8..), 7), Err(8..8));
        assert_eq!(resolve(&(8..8), 7), Err(8..8));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let reversed = 5..3;
        assert_eq!(resolve(&reversed, 7), Err(reversed));
        assert_eq!(resolve(&(0..=u64::MAX), 7), Err(0..u64::MAX));
        let beyond = (Bound::Excluded(u64::MAX), Bound::Unbounded);
        assert_eq!(resolve(&beyond, 7).map_err(|range| (range.start, range.end)), Err((u64::MAX, 7)));
    }

    #[test]
    fn the_ends_of_a_range_are_its_own() {
        assert_eq!(ends(&(3..5)), (3, 5));
        assert_eq!(ends(&(3..=5)), (3, 6));
        assert_eq!(ends(&(3..)), (3, u64::MAX));
        assert_eq!(ends(&(..=u64::MAX)), (0, u64::MAX));
        assert_eq!(ends(&(Bound::Excluded(3), Bound::Excluded(5))), (4, 5));
    }
}
