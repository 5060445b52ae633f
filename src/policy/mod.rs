//! Decisions: what is worth mapping, and who goes first. No atomics, no I/O, no clock: values in, values out.
//!
//! The rule of now is a simple one. Each window has a credit: how often it was touched lately. A window without credit is
//! mapped where there is room. Where there is none, it takes a credit of [`WORTH_MAPPING`], and a duel: the coldest of a few
//! that the evictor looks at goes, if the newcomer's credit is the higher one by [`MARGIN`]. Without the margin, windows
//! that are about as hot as each other would take turns, and each turn costs a mapping.

use crate::config::Admission;

/// Touches, lately, that make a window worth the mapping: about what a mapping costs in small reads.
pub(crate) const WORTH_MAPPING: u8 = 16;

/// By how much a window has to be hotter than the one that goes for it.
pub(crate) const MARGIN: u8 = 16;

/// How many unused regions an evictor looks at before it takes the coldest.
pub(crate) const SAMPLE: usize = 8;

/// Credit and when it was last touched, as kept in a slot's word of heat, also while nothing is mapped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heat {
    credit: u8,
    /// The low 24 bits of the clock.
    touched: u32,
}

impl Heat {
    #[inline]
    pub(crate) fn from_word(word: u32) -> Self {
        Self { credit: word as u8, touched: word >> 8 }
    }

    #[inline]
    pub(crate) fn to_word(self) -> u32 {
        self.touched << 8 | u32::from(self.credit)
    }

    /// As hot as can be, at `now`.
    #[inline]
    pub(crate) fn full(now: u32) -> Self {
        Self { credit: u8::MAX, touched: now & 0x00ff_ffff }
    }

    /// What the touches until `now` are still worth: half for each step of the clock since.
    #[inline]
    pub(crate) fn credit(self, now: u32) -> u8 {
        let age = now.wrapping_sub(self.touched) & 0x00ff_ffff;
        self.credit.checked_shr(age).unwrap_or(0)
    }

    /// Touched once more, at `now`.
    #[inline]
    pub(crate) fn touch(self, now: u32) -> Self {
        Self { credit: self.credit(now).saturating_add(1), touched: now & 0x00ff_ffff }
    }
}

/// Touches of unmapped windows after which the clock goes on by one, and credits halve: twice [`WORTH_MAPPING`] for each
/// window that the budget holds. So *lately* means the same for caches of any size, and a window is worth mapping that
/// gets a quarter to a half of what it would get if all misses went to as many windows as the budget holds.
pub(crate) fn clock_period(windows_in_budget: usize) -> u32 {
    u32::try_from(windows_in_budget.max(1)).unwrap_or(u32::MAX).saturating_mul(2 * u32::from(WORTH_MAPPING))
}

/// Whether a window with this credit is to be mapped where there is no room for it, and how much credit the victim may have
/// that goes for it. `floor` is the credit of the victim that a newcomer last failed to beat.
pub(crate) fn is_worth_a_duel(admission: Admission, credit: u8, floor: u8) -> Option<u8> {
    match admission {
        Admission::Always => Some(u8::MAX),
        Admission::Adaptive => {
            let beats = credit.saturating_sub(MARGIN);
            (credit >= WORTH_MAPPING && floor <= beats).then_some(beats)
        }
    }
}

/// How much of a limit is kept free, so that a reader seldom has to evict: a sixteenth, in whole windows; none of a budget
/// of fewer than sixteen.
pub(crate) fn headroom(limit: usize, window: usize) -> usize {
    (limit / 16).checked_div(window).unwrap_or(0) * window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(times: u32, now: u32) -> Heat {
        (0..times).fold(Heat::from_word(0), |heat, _| heat.touch(now))
    }

    #[test]
    fn credit_grows_with_touches_and_halves_with_time() {
        let heat = touched(40, 7);
        assert_eq!([7, 8, 9, 12, 15, 1_000].map(|now| heat.credit(now)), [40, 20, 10, 1, 0, 0]);
        assert_eq!(heat.touch(8).credit(8), 21);
        assert_eq!(touched(1_000, 0).credit(0), u8::MAX);
    }

    #[test]
    fn lately_is_as_long_for_caches_of_any_size() {
        assert_eq!([0, 1, 10].map(clock_period), [32, 32, 320]);
        assert_eq!(clock_period(usize::MAX), u32::MAX);
    }

    #[test]
    fn it_survives_its_word_and_the_clocks_wrap() {
        let heat = touched(5, u32::MAX);
        assert_eq!(Heat::from_word(heat.to_word()), heat);
        assert_eq!((heat.credit(u32::MAX), heat.credit(0)), (5, 2));
    }

    #[test]
    fn a_newcomer_has_to_be_hot_and_hotter_than_its_victim_by_a_margin() {
        use Admission::{Adaptive, Always};
        assert_eq!(is_worth_a_duel(Adaptive, WORTH_MAPPING - 1, 0), None);
        assert_eq!(is_worth_a_duel(Adaptive, WORTH_MAPPING, 0), Some(WORTH_MAPPING.saturating_sub(MARGIN)));
        assert_eq!(is_worth_a_duel(Adaptive, 100, 100 - MARGIN), Some(100 - MARGIN));
        assert_eq!(is_worth_a_duel(Adaptive, 100, 101 - MARGIN), None);
        assert_eq!(is_worth_a_duel(Always, 0, 255), Some(u8::MAX));
    }

    #[test]
    fn headroom_is_whole_windows() {
        assert_eq!([16, 15, 31, 33].map(|limit| headroom(limit * 100, 100)), [100, 0, 100, 200]);
        assert_eq!(headroom(1_000, 0), 0);
        assert_eq!(headroom(100, 1), 6);
    }
}
