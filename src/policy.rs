//! Decisions: what is worth mapping, and who goes first. No atomics, no I/O, no clock: values in, values out.
//!
//! A mapping costs as much as some dozen small reads: the two calls, and a fault for each part that is touched. So a small
//! range of a window that is not mapped is read, unless the window's touches say that a mapping will pay off:
//!
//! 1. *Credit.* Each window has one, mapped or not: its touches, up to 255, halved with each step of the policy's clock. The
//!    clock goes on with the touches of what is not mapped, [`PERIOD`] for each window that the budget holds, and
//!    [`PERIOD_WITH_ROOM`] as long as there is room and nobody has to go. So time stands still while everything is a hit, and
//!    *lately* means the same for caches of any size.
//! 2. *A burst is few touches.* Of touches of one window in a row, by one [cursor](crate::Cursor), the first one counts, and
//!    each [`BURST`]th ([`AccessRun`]), in the credit and for the clock. Who reads a dozen records of a window and never comes back
//!    does not make it hot; but who does come back, to read as many, finds it mapped the sooner.
//! 3. *With room*, a window is mapped at a credit of [`ADMIT_AFTER`], or after so many touches in a row. A reader that
//!    comes and goes does not map what it hardly reads. There is room up to the limit, unless somebody who must have a mapping
//!    found no place free lately: then a part is kept free for those ([`headroom`]).
//! 4. *Without*, the coldest of [`SAMPLE`] goes, if the newcomer's credit is higher by [`MARGIN`]: else windows that are
//!    about as hot as each other would take turns, and each turn costs a mapping. A *floor* remembers whom a newcomer last
//!    failed to beat, so that the next one need not look before it is worth more.
//! 5. *Who stays* gets its window mapped also without room, in the place of one with a credit of up to [`STAY_BEATS`]: a
//!    cursor whose touches go on where the one before ended, [`SCAN`] times or for [`SCAN_BYTES`], or [`STAY`] times in one
//!    window. Since these touches do not count, such a window is among the first to go, and what is hot stays.
//!
//! What must be mapped (a large range, a window as such, a file as one window, a prefetch) is not asked about.
//!
//! The numbers come from `cargo bench --bench pressure -- ratios`, which holds these rules against plain `pread`, against a
//! cache that maps on each miss, and against an oracle that has the hottest windows mapped beforehand: 64 bytes of 2 GiB in
//! windows of 4 MiB, by Zipf's law (0.99) where not said otherwise. Throughput as a multiple of `pread`'s, by the time that the
//! reading thread was on a processor, for which the bench was given such a clock (medians of 5 rounds, and from where to where
//! in several runs; 2 virtual cores of an AMD EPYC that had other work, so a tenth is noise; Linux 6.18, ext4; 2026-11-21):
//!
//! | budget | 5 % | 25 % | 50 % | 100 % | 25 %, other hot windows each 20,000 reads | 100 %, the first 1,000 reads | 5 %, uniform |
//! |---|---|---|---|---|---|---|---|
//! | a cursor's `slice` | 1.2 to 1.5 | 2.1 | 2.5 to 3.0 | 3.8 | 1.6 | 0.85 to 0.96 | 0.93 to 0.96 |
//! | maps on each miss | 0.2 | 0.3 | 0.6 | 2.0 | 0.3 | 0.4 | 0.1 |
//! | `slice`, of the oracle's | 0.75 to 0.87 | 0.83 to 0.86 | 0.82 to 0.88 | 0.88 to 0.94 | | | 0.86 to 1.03 |
//! | `slice` with [`ADMIT_AFTER`] 1 | | | | | | 0.36 | |
//!
//! What is missing to the oracle: it finds a mapped window by an index, has no counts to keep, no policy to ask at a read (some
//! 500 instructions of a slice that is copied, by callgrind), and nothing to learn.
//!
//! How often it copies and evicts has no noise in it: the same reads do so each time. At a budget of 25 %, in 220,000 reads as
//! `benches/contest` draws them: with a [`PERIOD`] of 32 and [`STAY_BEATS`] of 32, a reader beside a scan of all (a place in
//! each page) copies 85,597 times and evicts 29 times, against 26,313 and 85. With one touch counted of each [`BURST`], however
//! long it is, 110,000 reads of the delta chains of a pack copy 20,387 times instead of 15,355 (both with a margin of 16). A
//! [`MARGIN`] of 16 instead of 32 copies 71,240 times instead of 84,326 where other windows are hot every 20,000 reads. But who
//! reads two dozen records around each of many places (the genome of `benches/pressure`), by
//! [`read_at`](crate::MappedFile::read_at), which does not know who reads, then evicts 4,790 times instead of 825, and is
//! slower than `pread` (0.83 instead of 1.17). [`SCAN`], [`SCAN_BYTES`] and [`STAY`] are reckoned, not measured one by one.

use crate::config::Admission;

/// Touches, lately, that make a window worth mapping where there is room.
pub(crate) const ADMIT_AFTER: u8 = 8;

/// By how much a window has to be hotter than the one that goes for it.
pub(crate) const MARGIN: u8 = 32;

/// Touches of unmapped windows after which the clock goes on, for each window that the budget holds; at least as many as
/// for [`PERIOD_WINDOWS`] of them.
const PERIOD: u32 = 8;
const PERIOD_WITH_ROOM: u32 = 32;
const PERIOD_WINDOWS: usize = 16;

/// The largest gap, in bytes, between the end of one read and the start of the next that still counts as sequential.
pub(crate) const SEQUENTIAL_SLACK: u64 = 4096;

/// Touches in a row, each going on about where the one before it ended, that make somebody one who scans.
const SCAN: u32 = 16;

/// So do so many bytes, in two touches or more: to copy as much costs as much as a mapping.
const SCAN_BYTES: u64 = 128 << 10;

/// Of touches of one window in a row, each one of so many counts.
const BURST: u32 = 4;

/// Touches of one window in a row, in any order, that make somebody one who stays: so many that a mapping that comes too
/// late costs a twentieth of them.
const STAY: u32 = 256;

/// What the victim's credit may be that goes for one who stays: less than the touches that he still has to do, mostly.
const STAY_BEATS: u8 = 128;

/// For two steps of the clock after somebody who must have a mapping found no place free, and had to evict, some are kept free.
const PRESSURE_MIN: u8 = u8::MAX >> 2;

/// How many unused regions an evictor looks at before it takes the coldest.
pub(crate) const SAMPLE: usize = 8;

/// Credit and when it was last touched, as kept in a slot's word of heat, also while nothing is mapped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frequency {
    credit: u8,
    /// The low 24 bits of the clock.
    touched: u32,
}

impl Frequency {
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

/// What a touch of a window says about how it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: it counts as one.
    Counted,
    /// By the reader who touched it last, and nothing else since: one of those that do not count.
    Repeat,
    /// The same, after [`ADMIT_AFTER`] of them.
    Streak,
    /// By one who reads on and on, or here for long. It does not count, but the window is worth mapping as long as that takes.
    Sustained,
}

/// Where one reader was, to know its next touch by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccessRun {
    /// 1 + the window.
    window: u64,
    end: u64,
    /// Touches of this window, before the one to come.
    here: u32,
    /// Touches that went on where the one before them ended.
    on: u32,
    /// Bytes of these, and of the one that they went on from.
    bytes: u64,
}

impl AccessRun {
    /// It reads from `start` to `end`, offsets in the file, in a window that starts at `window_start`. What it reads in a window
    /// that it holds, nobody is told: so who enters the next window at its start goes on as well.
    #[inline]
    pub(crate) fn touch(&mut self, window: u64, window_start: u64, start: u64, end: u64) -> Access {
        let enters = self.window == window && start - window_start < SEQUENTIAL_SLACK;
        let goes_on = enters || start.wrapping_sub(self.end) < SEQUENTIAL_SLACK;
        (self.on, self.bytes) = if goes_on { (self.on.saturating_add(1), self.bytes) } else { (0, 0) };
        self.bytes = self.bytes.saturating_add(end - start);
        self.here = if self.window == window + 1 { self.here.saturating_add(1) } else { 0 };
        self.window = window + 1;
        self.end = end;
        match self.here {
            _ if self.on >= SCAN || self.on > 0 && self.bytes >= SCAN_BYTES => Access::Sustained,
            0 => Access::Counted,
            STAY.. => Access::Sustained,
            here if here % BURST == BURST - 1 => Access::Counted,
            here if here >= ADMIT_AFTER.into() => Access::Streak,
            _ => Access::Repeat,
        }
    }
}

/// The number of touches of unmapped windows after which the clock goes on by one, and credits halve. So *lately* means the
/// same for caches of any size.
pub(crate) fn clock_period(windows_in_budget: usize, has_room: bool) -> u32 {
    let period = if has_room { PERIOD_WITH_ROOM } else { PERIOD };
    u32::try_from(windows_in_budget.max(PERIOD_WINDOWS)).unwrap_or(u32::MAX).saturating_mul(period)
}

/// Whether a window with this credit is to be mapped where there is room for it.
#[inline]
pub(crate) fn admits_with_room(admission: Admission, touch: Access, credit: u8) -> bool {
    admission == Admission::Always || matches!(touch, Access::Streak | Access::Sustained) || credit >= ADMIT_AFTER
}

/// Whether it is to be mapped also where there is none, and how much credit the victim may have that goes for it. `threshold` is
/// the credit of the victim that a newcomer last failed to beat.
pub(crate) fn admits_over_victim(
    admission: Admission,
    touch: Access,
    credit: u8,
    admission_threshold: u8,
) -> Option<u8> {
    if admission == Admission::Always {
        return Some(u8::MAX);
    }
    let beats = credit.checked_sub(MARGIN).max((touch == Access::Sustained).then_some(STAY_BEATS))?;
    (admission_threshold <= beats).then_some(beats)
}

/// Whether a part of the budget is to be kept free, for those who must have a mapping, after the last of them who found none
/// free has left this credit.
pub(crate) fn under_pressure(credit: u8) -> bool {
    credit >= PRESSURE_MIN
}

/// How much of a limit that is, so that they seldom have to evict: a sixteenth, in whole windows; none of a budget of fewer
/// than sixteen.
pub(crate) fn headroom(limit: usize, window: usize) -> usize {
    (limit / 16).checked_div(window).unwrap_or(0) * window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(times: u32, now: u32) -> Frequency {
        (0..times).fold(Frequency::from_word(0), |frequency, _| frequency.touch(now))
    }

    #[test]
    fn credit_grows_with_touches_and_halves_with_time() {
        let frequency = touched(40, 7);
        assert_eq!([7, 8, 9, 12, 15, 1_000].map(|now| frequency.credit(now)), [40, 20, 10, 1, 0, 0]);
        assert_eq!(frequency.touch(8).credit(8), 21);
        assert_eq!(touched(1_000, 0).credit(0), u8::MAX);
    }

    #[test]
    fn lately_is_as_long_for_caches_of_any_size() {
        assert_eq!([0, 1, 16, 17, 100].map(|windows| clock_period(windows, false)), [128, 128, 128, 136, 800]);
        assert_eq!([0, 17, 100].map(|windows| clock_period(windows, true)), [512, 544, 3_200]);
        assert_eq!(clock_period(usize::MAX, true), u32::MAX);
    }

    #[test]
    fn it_survives_its_word_and_the_clocks_wrap() {
        let frequency = touched(5, u32::MAX);
        assert_eq!(Frequency::from_word(frequency.to_word()), frequency);
        assert_eq!((frequency.credit(u32::MAX), frequency.credit(0)), (5, 2));
    }

    #[test]
    fn with_room_a_window_is_mapped_that_was_touched_some_times() {
        use Admission::{Adaptive, Always};
        for (admission, touch, credit, is_worth) in [
            (Adaptive, Access::Counted, ADMIT_AFTER - 1, false),
            (Adaptive, Access::Repeat, ADMIT_AFTER - 1, false),
            (Adaptive, Access::Counted, ADMIT_AFTER, true),
            (Adaptive, Access::Repeat, ADMIT_AFTER, true),
            (Adaptive, Access::Streak, 0, true),
            (Adaptive, Access::Sustained, 0, true),
            (Always, Access::Counted, 0, true),
        ] {
            assert_eq!(admits_with_room(admission, touch, credit), is_worth, "{admission:?}, {touch:?}, {credit}");
        }
    }

    #[test]
    fn without_room_it_has_to_be_hotter_than_its_victim_by_a_margin() {
        use Admission::{Adaptive, Always};
        for (admission, touch, credit, threshold, beats) in [
            (Adaptive, Access::Counted, MARGIN - 1, 0, None),
            (Adaptive, Access::Counted, MARGIN, 0, Some(0)),
            (Adaptive, Access::Repeat, MARGIN, 0, Some(0)),
            (Adaptive, Access::Streak, MARGIN - 1, 0, None),
            (Adaptive, Access::Counted, 100, 100 - MARGIN, Some(100 - MARGIN)),
            (Adaptive, Access::Counted, 100, 101 - MARGIN, None),
            (Always, Access::Counted, 0, 255, Some(u8::MAX)),
        ] {
            let found = admits_over_victim(admission, touch, credit, threshold);
            assert_eq!(found, beats, "{admission:?}, {touch:?}, {credit} over {threshold}");
        }
    }

    #[test]
    fn who_stays_beats_what_is_lukewarm_however_cold_the_window_is() {
        use Admission::Adaptive;
        assert_eq!(admits_over_victim(Adaptive, Access::Sustained, 0, 0), Some(STAY_BEATS));
        assert_eq!(admits_over_victim(Adaptive, Access::Sustained, 0, STAY_BEATS), Some(STAY_BEATS));
        assert_eq!(admits_over_victim(Adaptive, Access::Sustained, 0, STAY_BEATS + 1), None);
        assert_eq!(admits_over_victim(Adaptive, Access::Sustained, 255, 0), Some(255 - MARGIN), "it is hot besides");
    }

    const BYTES: u64 = 1 << 20;

    /// What a reader's touches say, at these offsets, of 64 bytes each.
    fn touches(run: &mut AccessRun, offsets: impl IntoIterator<Item = u64>) -> Vec<Access> {
        let touch = |at| run.touch(at / BYTES, at / BYTES * BYTES, at, at + 64);
        offsets.into_iter().map(touch).collect()
    }

    #[test]
    fn of_touches_of_a_window_in_a_row_few_count() {
        use Access::{Counted, Repeat};
        let run = &mut AccessRun::default();
        let elsewhere = 5 * BYTES;
        let offsets = [600_000, 300_000, 300_000, elsewhere, 300_000, elsewhere, elsewhere + 500_000];
        assert_eq!(touches(run, offsets), [Counted, Repeat, Repeat, Counted, Counted, Counted, Repeat]);
        let offsets = [600_000, 300_000, 600_000, 300_000, 600_000, 300_000];
        assert_eq!(touches(run, offsets), [Counted, Repeat, Repeat, Counted, Repeat, Repeat]);
    }

    #[test]
    fn who_reads_on_and_on_scans_until_he_goes_elsewhere() {
        let run = &mut AccessRun::default();
        // The first touch goes on from nowhere.
        let offsets = (0..SCAN + 3).map(|touch| 700_000 + u64::from(touch) * 64);
        let found = touches(run, offsets);
        assert_eq!(found.iter().position(|&touch| touch == Access::Sustained), Some(SCAN as usize), "{found:?}");
        assert!(found[SCAN as usize..].iter().all(|&touch| touch == Access::Sustained), "{found:?}");
        // In what it holds it was not seen; it goes on where the next window starts.
        assert_eq!(touches(run, [BYTES, 2 * BYTES + SEQUENTIAL_SLACK - 1]), [Access::Sustained; 2]);
        assert_eq!(touches(run, [3 * BYTES + SEQUENTIAL_SLACK, 3 * BYTES + SEQUENTIAL_SLACK + 64]), [Access::Counted, Access::Repeat]);
    }

    #[test]
    fn who_reads_on_by_large_pieces_scans_sooner() {
        for (piece, scans_from) in [(4 << 10, 16), (32 << 10, 3), (64 << 10, 1), (200 << 10, 1)] {
            let run = &mut AccessRun::default();
            // Somewhere else before, by as much: that was not gone on from.
            run.touch(90, 90 * BYTES, 90 * BYTES, 90 * BYTES + piece);
            let mut found = (0..20).map(|at| run.touch(0, 0, SEQUENTIAL_SLACK + at * piece, SEQUENTIAL_SLACK + (at + 1) * piece));
            assert_eq!(found.position(|touch| touch == Access::Sustained), Some(scans_from), "pieces of {piece}");
        }
    }

    #[test]
    fn who_reads_backwards_or_skips_does_not_scan_but_may_stay() {
        let (short, long) = (usize::from(ADMIT_AFTER), STAY as usize);
        for step in [-64, SEQUENTIAL_SLACK as i64 + 64] {
            let offsets = (0..i64::from(STAY) + 2).map(|touch| (500 * BYTES as i64 + touch * step) as u64 % 1_000_000);
            let found = touches(&mut AccessRun::default(), offsets);
            for (at, &touch) in found.iter().enumerate() {
                let expected = match at {
                    at if at >= long => Access::Sustained,
                    at if at == 0 || (at + 1) % BURST as usize == 0 => Access::Counted,
                    at if at >= short => Access::Streak,
                    _ => Access::Repeat,
                };
                assert_eq!(touch, expected, "{step}: touch {at}");
            }
        }
    }

    #[test]
    fn some_is_kept_free_for_two_steps_of_the_clock() {
        assert_eq!([0, 1, 2, 3].map(|now| under_pressure(Frequency::full(0).credit(now))), [true, true, true, false]);
        assert!(!under_pressure(Frequency::from_word(0).credit(0)));
    }

    #[test]
    fn headroom_is_whole_windows() {
        assert_eq!([16, 15, 31, 33].map(|limit| headroom(limit * 100, 100)), [100, 0, 100, 200]);
        assert_eq!(headroom(1_000, 0), 0);
        assert_eq!(headroom(100, 1), 6);
    }
}
