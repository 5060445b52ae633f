//! Decides which windows are worth mapping, and which mapped window is evicted for them.
//!
//! All functions are pure: the cache stores the values and acts on the results. A mapping costs about as much as a
//! dozen small reads: two system calls, and a page fault for each part that is accessed. So a small range of an
//! unmapped window is read with `pread` until the window's accesses show that a mapping will pay off. Required mappings
//! (a large range, a whole window, a file as one window, a prefetch) bypass these rules.
//!
//! # Terms
//!
//! - *Access frequency*: the recent accesses of a window, mapped or not, from 0 to 255 ([`Frequency`]). Each step of
//!   the policy's clock halves it.
//! - *Candidate*: an unmapped window that is being accessed. *Victim*: a mapped window without readers that is evicted
//!   for a candidate.
//! - *Run*: consecutive accesses of one window by one [cursor](crate::Cursor) ([`AccessRun`]). *Repeated access*: any
//!   access of a run but the first.
//! - *Sequential reader*: a cursor whose reads start less than [`SEQUENTIAL_SLACK`] bytes after the end of the previous
//!   one.
//! - *Earnings*: the mean access frequency of mapped windows ([`Earnings`]).
//! - *Admission threshold*: the access frequency of the victim that a candidate last failed to beat.
//! - *Pressure*: the state after a required mapping found no free room.
//!
//! # Rules
//!
//! 1. *The clock counts accesses of unmapped windows*, [`PERIOD`] a step for each window that the budget holds, or
//!    [`PERIOD_WITH_ROOM`] while there is room and no window has to be evicted. The clock stands still while all reads
//!    hit. A frequency decays at the same rate per window in a cache of any size.
//! 2. *Repeated accesses count little.* The first access of a run counts, and every [`COUNTED_REPEAT`]th one, both in
//!    the frequency and for the clock. A cursor that reads a dozen records of a window once does not make that window
//!    frequent. A cursor that returns to read as many again does.
//! 3. *With room*, a candidate is mapped at a frequency of [`ADMIT_AFTER`], or after as many repeated accesses. Free
//!    room ends at the limit. Under pressure it ends earlier: [`headroom`] stays free for required mappings.
//! 4. *Mappings that pay off are made sooner.* With room, a candidate of a file that fits the budget is mapped at a
//!    lower frequency, the higher the earnings are: at the first access, once they exceed [`ADMIT_AFTER`] by about what
//!    a mapping and its page faults cost. Until then, mapping each window that is read once would be slower than
//!    `pread`. In a file larger than the budget, it would also take the room of windows that are more frequent.
//! 5. *Without room*, the candidate replaces the least frequent of [`SAMPLE`] victims, if its own frequency exceeds
//!    twice the victim's by [`MARGIN`]. Without the factor, windows of about equal frequency would replace each other
//!    in turn, at the cost of a mapping each time. The admission threshold saves the search for a victim until a
//!    candidate can beat it.
//! 6. *A sustained reader's window* is mapped without room too, in place of a victim with a frequency of up to
//!    [`SUSTAINED_VICTIM_MAX`]. A reader is sustained after [`SEQUENTIAL_ACCESSES`] sequential accesses, after
//!    [`SEQUENTIAL_BYTES`] sequential bytes, or after [`SUSTAINED_REPEATS`] repeated accesses. Most of its accesses are
//!    not counted, so its windows are among the next victims.
//! 7. *A cursor whose runs are long*, of at least [`LONG_RUN`] accesses on the average, maps at the first access of a
//!    run. Without room, that is so if the mean length and the window's frequency together reach [`MAPPING_COST`]: the
//!    accesses to expect then pay for the mapping. Only a run that is read from the file is known to its end. So one
//!    run in [`PROBE_INTERVAL`] is not mapped by this rule, and shows whether runs are still long.
//!
//! Frequencies of windows that are not mapped decide, as in TinyLFU (Einziger, Friedman, Manes, 2017). They are kept
//! for windows of closed files as well, like the ghost entries of ARC (Megiddo, Modha, 2003). Rules 4 and 7 adapt to
//! the workload, as W-TinyLFU adapts its window (Einziger et al., 2018), but by what mappings earned, not by trying.
//!
//! The benchmark `cargo bench --bench pressure -- ratios` compares these rules with plain `pread`, with a cache that
//! maps on every miss, and with an oracle that maps the most frequent windows beforehand.

use crate::config::Admission;

/// The access frequency from which a candidate is mapped if there is room. With 1, windows that are read once or twice
/// are mapped, and a cold start is slower than with `pread`.
pub(crate) const ADMIT_AFTER: u8 = 8;

/// The part of the [`Earnings`] above [`ADMIT_AFTER`] for which a candidate is mapped one access sooner.
///
/// With 1, a cold start that ends after 1,000 reads is up to a fifth slower than with `pread`, where page faults map
/// large folios.
const SURPLUS: u32 = 3;

/// The amount by which a candidate's access frequency must exceed twice the victim's.
///
/// With 4, uniform reads of data that is a little larger than the budget replace windows in turn.
pub(crate) const MARGIN: u8 = 8;

/// Accesses of unmapped windows per step of the clock, for each window that the budget holds.
///
/// With 8, windows that were frequent before stay mapped about twice as long. With 2, frequencies are so low that
/// chance decides between windows of uniform reads.
const PERIOD: u32 = 4;

/// As [`PERIOD`], while there is room. The step is longer because no frequency of the past keeps a candidate out.
const PERIOD_WITH_ROOM: u32 = 32;

/// The number of windows whose period smaller budgets use.
const PERIOD_WINDOWS: usize = 16;

/// The exclusive upper bound, in bytes, of the gap between one read and the next in a sequential run, and between the
/// start of a window and the first read in it.
pub(crate) const SEQUENTIAL_SLACK: u64 = 4096;

/// Sequential accesses after which a reader is [sustained](Access::Sustained).
const SEQUENTIAL_ACCESSES: u32 = 16;

/// Sequential accesses after which a reader's windows are read ahead, and accesses in no order after which the OS is
/// told not to read ahead.
const SEVERAL: u32 = 3;

/// Bytes of a sequential run, of two accesses or more, after which a reader is sustained. Copying as much costs as much
/// as a mapping.
const SEQUENTIAL_BYTES: u64 = 128 << 10;

/// The interval of repeated accesses that count: the 4th access of a run, the 8th, and so on.
///
/// If a run counted once whatever its length, readers of short chains of records (such as the delta chains of a pack
/// file) would copy about a third more often.
const COUNTED_REPEAT: u32 = 4;

/// Repeated accesses of one window, in any order, after which a reader is sustained. A mapping costs about a twentieth
/// of the reads before it then, so it may come late.
const SUSTAINED_REPEATS: u32 = 256;

/// The mean length of runs from which on they are long. Copying as many records costs as much as a mapping into free
/// room.
const LONG_RUN: u32 = 5;

/// The number of small copies that cost as much as a mapping and the eviction for it.
const MAPPING_COST: u8 = 12;

/// The largest length of a run in the mean. One longer run does not make the runs of a cursor long.
const RUN_MAX: u32 = 16;

/// The weight of the runs before in the mean length: the last run has a weight of 1 in this many.
const RUN_WEIGHT: u32 = 8;

/// The interval of long runs that are read from the file, although they are worth a mapping.
const PROBE_INTERVAL: u32 = 16;

/// The highest access frequency of a victim that is evicted for a sustained reader. It is lower than the number of
/// accesses that such a reader usually still has ahead. See also [`PERIOD`].
const SUSTAINED_VICTIM_MAX: u8 = 128;

/// The lowest count of the pressure word at which pressure lasts. The word starts saturated, so pressure lasts for two
/// steps of the clock.
const PRESSURE_MIN: u8 = u8::MAX >> 2;

/// The number of unused regions from which an evicting thread takes the least frequent.
pub(crate) const SAMPLE: usize = 8;

/// An access frequency with the time of the last access, as stored in one word of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frequency {
    /// The count at the time `accessed`, saturating at 255.
    count: u8,
    /// The low 24 bits of the clock at the last counted access.
    accessed: u32,
}

impl Frequency {
    #[inline]
    pub(crate) fn from_word(word: u32) -> Self {
        Self { count: word as u8, accessed: word >> 8 }
    }

    #[inline]
    pub(crate) fn to_word(self) -> u32 {
        self.accessed << 8 | u32::from(self.count)
    }

    #[inline]
    pub(crate) fn saturated(now: u32) -> Self {
        Self { count: u8::MAX, accessed: now & 0x00ff_ffff }
    }

    /// Returns the access count at `now`: halved for each step of the clock since the last access.
    #[inline]
    pub(crate) fn count(self, now: u32) -> u8 {
        let age = now.wrapping_sub(self.accessed) & 0x00ff_ffff;
        self.count.checked_shr(age).unwrap_or(0)
    }

    #[inline]
    pub(crate) fn accessed(self, now: u32) -> Self {
        Self { count: self.count(now).saturating_add(1), accessed: now & 0x00ff_ffff }
    }

    /// Returns the frequency with one access less.
    pub(crate) fn displaced(self, now: u32) -> Self {
        Self { count: self.count(now).saturating_sub(1), accessed: now & 0x00ff_ffff }
    }
}

/// The kind of one access of a window, as [`AccessRun::next`] classifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Counts in the window's frequency and, if it is read from the file, for the clock. The other kinds do not. An
    /// access that is mapped counts for the clock, whatever its kind.
    Counted,
    /// As `Counted`, and the first access of a run that is expected to be long: of as many accesses (rule 7).
    LongRun(u8),
    Repeat,
    /// A repeated access with [`ADMIT_AFTER`] or more before it in the run: worth mapping if there is room.
    Streak,
    /// An access by a sustained reader (rule 6): worth mapping in place of another window.
    Sustained,
}

impl Access {
    /// Returns `true` if the access counts in the window's frequency.
    #[inline]
    pub(crate) fn is_counted(self) -> bool {
        matches!(self, Self::Counted | Self::LongRun(_))
    }

    /// Returns `true` if a window of this `frequency` is worth mapping in place of another one that is more frequent.
    fn is_sustained(self, frequency: u8) -> bool {
        match self {
            Self::LongRun(length) => length.saturating_add(frequency) >= MAPPING_COST,
            Self::Sustained => true,
            Self::Counted | Self::Repeat | Self::Streak => false,
        }
    }
}

/// The position of one cursor and the length of its current runs, from which its next access is classified.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccessRun {
    /// 1 + the index of the window accessed last; 0 before the first access.
    window: u64,
    /// The offset in the file at which the last access ended.
    end: u64,
    /// Repeated accesses of `window` so far.
    repeats: u32,
    /// `true` if the current run was served by a mapping. Its further accesses are not reported here.
    is_mapped: bool,
    /// The number of runs so far that were expected to be long.
    long_runs: u32,
    /// The mean length of the runs that were read from the file, times [`RUN_WEIGHT`].
    mean_length: u32,
    /// Accesses of the current sequential run, without its first one.
    sequential: u32,
    /// Bytes of the current sequential run, with its first access.
    sequential_bytes: u64,
    /// Accesses since the last sequential one.
    scattered: u32,
}

impl AccessRun {
    /// Classifies a read from `start` to `end`, offsets in the file, in `window`, which starts at `window_start`.
    ///
    /// Reads inside the window that the cursor already holds are not reported here. So a cursor also counts as
    /// sequential if it enters the next window near that window's start, and `has_read_to_end` finds that the window
    /// before was read up to its end. Without the latter, a reader of the first bytes of each window would be
    /// sequential.
    #[inline]
    pub(crate) fn next(
        &mut self,
        window: u64,
        window_start: u64,
        start: u64,
        end: u64,
        has_read_to_end: impl FnOnce() -> bool,
    ) -> Access {
        let is_at_start = self.window == window && start - window_start < SEQUENTIAL_SLACK;
        let mut is_sequential = start.wrapping_sub(self.end) < SEQUENTIAL_SLACK;
        if !is_sequential && is_at_start && has_read_to_end() {
            is_sequential = true;
            self.sequential_bytes = self.sequential_bytes.saturating_add(start.saturating_sub(self.end));
        }
        (self.sequential, self.sequential_bytes) =
            if is_sequential { (self.sequential.saturating_add(1), self.sequential_bytes) } else { (0, 0) };
        self.scattered = if is_sequential { 0 } else { self.scattered.saturating_add(1) };
        self.sequential_bytes = self.sequential_bytes.saturating_add(end - start);
        let is_repeated = self.window == window + 1;
        let long_run = if is_repeated {
            self.repeats = self.repeats.saturating_add(1);
            None
        } else {
            self.end_run();
            self.expects_long_run()
        };
        self.window = window + 1;
        self.end = end;
        let is_long_run =
            self.sequential >= SEQUENTIAL_ACCESSES || self.sequential > 0 && self.sequential_bytes >= SEQUENTIAL_BYTES;
        match self.repeats {
            _ if is_long_run => Access::Sustained,
            0 => long_run.unwrap_or(Access::Counted),
            SUSTAINED_REPEATS.. => Access::Sustained,
            repeats if repeats % COUNTED_REPEAT == COUNTED_REPEAT - 1 => Access::Counted,
            repeats if repeats >= ADMIT_AFTER.into() => Access::Streak,
            _ => Access::Repeat,
        }
    }

    /// Returns `true` if none of several last accesses was contiguous with the one before.
    pub(crate) fn is_scattered(&self) -> bool {
        self.scattered >= SEVERAL
    }

    /// Records that a mapping serves the current run.
    pub(crate) fn set_mapped(&mut self) {
        self.is_mapped = true;
    }

    /// Ends the run before the first access of another window.
    fn end_run(&mut self) {
        if !self.is_mapped {
            let length = self.repeats.saturating_add(1).min(RUN_MAX);
            self.mean_length = self.mean_length - self.mean_length / RUN_WEIGHT + length;
        }
        (self.repeats, self.is_mapped) = (0, false);
    }

    /// Returns [`Access::LongRun`] if the run that begins is expected to be long, and is no probe.
    fn expects_long_run(&mut self) -> Option<Access> {
        let length = self.mean_length / RUN_WEIGHT;
        if length < LONG_RUN {
            return None;
        }
        self.long_runs = self.long_runs.wrapping_add(1);
        // At most `RUN_MAX`, so it fits.
        (self.long_runs % PROBE_INTERVAL != 0).then_some(Access::LongRun(length as u8))
    }

    /// Returns `true` if several of the last accesses, or many bytes, were contiguous in the file.
    pub(crate) fn is_sequential(&self) -> bool {
        self.sequential >= SEVERAL || self.sequential > 0 && self.sequential_bytes >= SEQUENTIAL_BYTES
    }
}

/// Returns the number of accesses of unmapped windows after which the clock advances by one step (rule 1).
pub(crate) fn clock_period(windows_in_budget: usize, has_room: bool) -> u32 {
    let period = if has_room { PERIOD_WITH_ROOM } else { PERIOD };
    u32::try_from(windows_in_budget.max(PERIOD_WINDOWS)).unwrap_or(u32::MAX).saturating_mul(period)
}

/// The mean access frequency of mapped windows, in sixteenths: an estimate from samples, as stored in one word.
///
/// While there is room, frequencies hardly decay. So the mean tells how many accesses a mapping serves, together with
/// those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Earnings(u32);

impl Earnings {
    /// The earnings of a cache that has mapped nothing yet.
    pub(crate) const NONE: Self = Self(ADMIT_AFTER as u32 * Self::WEIGHT);

    /// The weight of the samples before: a sample has a weight of 1 in this many.
    const WEIGHT: u32 = 16;

    #[inline]
    pub(crate) fn from_word(word: u32) -> Self {
        Self(word)
    }

    pub(crate) const fn to_word(self) -> u32 {
        self.0
    }

    /// Returns the earnings with one more sample: the access frequency of a mapped window.
    pub(crate) fn sampled(self, frequency: u8) -> Self {
        Self(self.0 - self.0 / Self::WEIGHT + u32::from(frequency))
    }

    /// Returns `true` if a candidate of this `frequency` is mapped where there is room (rule 4): from [`ADMIT_AFTER`]
    /// on, less one for each [`SURPLUS`] accesses that the mean exceeds it by, but not before its first access.
    #[inline]
    pub(crate) fn admit(self, frequency: u8) -> bool {
        let surplus = self.0.saturating_sub(Self::NONE.0);
        frequency > 0 && u32::from(frequency) * (SURPLUS * Self::WEIGHT) + surplus >= Self::NONE.0 * SURPLUS
    }
}

/// Returns `true` if a candidate with this `access` and `frequency` is worth mapping where there is room.
#[inline]
pub(crate) fn admits_with_room(admission: Admission, access: Access, frequency: u8, earnings: Earnings) -> bool {
    admission == Admission::Always
        || matches!(access, Access::Streak | Access::LongRun(_) | Access::Sustained)
        || earnings.admit(frequency)
}

/// Returns the highest access frequency of a victim that may be evicted for a candidate with this `access` and
/// `frequency`. Returns `None` if the candidate must not evict: its frequency is too low, or it does not beat
/// `admission_threshold`.
pub(crate) fn admits_over_victim(
    admission: Admission,
    access: Access,
    frequency: u8,
    admission_threshold: u8,
) -> Option<u8> {
    if admission == Admission::Always {
        return Some(u8::MAX);
    }
    let by_frequency = frequency.checked_sub(MARGIN).map(|beats| beats / 2);
    let beats = by_frequency.max(access.is_sustained(frequency).then_some(SUSTAINED_VICTIM_MAX))?;
    (admission_threshold <= beats).then_some(beats)
}

/// Returns `true` if [`headroom`] must stay free, given the current count of the pressure word. A required mapping that
/// finds no room sets this word to [`Frequency::saturated`].
pub(crate) fn under_pressure(count: u8) -> bool {
    count >= PRESSURE_MIN
}

/// Returns the part of `limit` that stays free under pressure, so that required mappings seldom have to evict.
///
/// This is a sixteenth of `limit`, rounded down to whole windows of `window` units. It is 0 for a limit of fewer than
/// sixteen windows, and if `window` is 0.
pub(crate) fn headroom(limit: usize, window: usize) -> usize {
    (limit / 16).checked_div(window).unwrap_or(0) * window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accessed(times: u32, now: u32) -> Frequency {
        (0..times).fold(Frequency::from_word(0), |frequency, _| frequency.accessed(now))
    }

    #[test]
    fn frequency_grows_with_accesses_and_halves_with_each_clock_step() {
        let frequency = accessed(40, 7);
        assert_eq!([7, 8, 9, 12, 15, 1_000].map(|now| frequency.count(now)), [40, 20, 10, 1, 0, 0]);
        assert_eq!(frequency.accessed(8).count(8), 21);
        assert_eq!(accessed(1_000, 0).count(0), u8::MAX);
        let last = accessed(5, u32::MAX);
        assert_eq!(Frequency::from_word(last.to_word()), last);
        assert_eq!((last.count(u32::MAX), last.count(0)), (5, 2), "the clock wraps");
    }

    #[test]
    fn clock_period_grows_with_the_budget_from_sixteen_windows_on() {
        assert_eq!([0, 1, 16, 17, 100].map(|windows| clock_period(windows, false)), [64, 64, 64, 68, 400]);
        assert_eq!([0, 17, 100].map(|windows| clock_period(windows, true)), [512, 544, 3_200]);
        assert_eq!(clock_period(usize::MAX, true), u32::MAX);
    }

    /// Returns the earnings after many samples of one frequency.
    fn earnings(frequency: u8) -> Earnings {
        (0..1_000).fold(Earnings::NONE, |earnings, _| earnings.sampled(frequency))
    }

    /// Returns the lowest frequency that is admitted.
    fn admit_after(earnings: Earnings) -> Option<u8> {
        (0..=u8::MAX).find(|&frequency| earnings.admit(frequency))
    }

    #[test]
    fn candidate_with_room_is_admitted_from_the_frequency_or_the_streak_on() {
        use Admission::{Adaptive, Always};
        for (admission, access, frequency, earned, is_admitted) in [
            (Adaptive, Access::Counted, ADMIT_AFTER - 1, ADMIT_AFTER, false),
            (Adaptive, Access::Repeat, ADMIT_AFTER - 1, ADMIT_AFTER, false),
            (Adaptive, Access::Counted, ADMIT_AFTER, ADMIT_AFTER, true),
            (Adaptive, Access::Repeat, ADMIT_AFTER, ADMIT_AFTER, true),
            (Adaptive, Access::Counted, ADMIT_AFTER, 0, true),
            (Adaptive, Access::Counted, 1, 100, true),
            (Adaptive, Access::Counted, 0, 100, false),
            (Adaptive, Access::Streak, 0, 0, true),
            (Adaptive, Access::LongRun(0), 0, 0, true),
            (Adaptive, Access::Sustained, 0, 0, true),
            (Always, Access::Counted, 0, 0, true),
        ] {
            let found = admits_with_room(admission, access, frequency, earnings(earned));
            assert_eq!(found, is_admitted, "{admission:?}, {access:?}, {frequency}, {earned} earned");
        }
    }

    #[test]
    fn admission_comes_sooner_the_more_mappings_earn_and_later_again_if_they_do_not() {
        let after = [0, 4, 8, 10, 11, 14, 28, 29, 255].map(|frequency| admit_after(earnings(frequency)));
        assert_eq!(after, [8, 8, 8, 8, 7, 6, 2, 1, 1].map(Some));
        let earned = earnings(40);
        assert_eq!(admit_after((0..4).fold(earned, |earned, _| earned.sampled(2))), Some(1));
        assert_eq!(admit_after((0..40).fold(earned, |earned, _| earned.sampled(2))), Some(8));
        assert_eq!(admit_after(Earnings::NONE.sampled(255)), Some(3), "a sample has a weight of a sixteenth");
        assert_eq!(Earnings::from_word(earned.to_word()), earned);
    }

    #[test]
    fn candidate_without_room_is_admitted_over_a_victim_of_less_than_half_or_if_sustained() {
        use Admission::{Adaptive, Always};
        const MAX: u8 = SUSTAINED_VICTIM_MAX;
        for (admission, access, frequency, threshold, beats) in [
            (Adaptive, Access::Counted, MARGIN - 1, 0, None),
            (Adaptive, Access::Counted, MARGIN, 0, Some(0)),
            (Adaptive, Access::Repeat, MARGIN, 0, Some(0)),
            (Adaptive, Access::Streak, MARGIN - 1, 0, None),
            (Adaptive, Access::Counted, MARGIN + 1, 0, Some(0)),
            (Adaptive, Access::Counted, MARGIN + 2, 0, Some(1)),
            (Adaptive, Access::Counted, MARGIN + 60, 30, Some(30)),
            (Adaptive, Access::Counted, MARGIN + 60, 31, None),
            (Adaptive, Access::LongRun(MAPPING_COST), 0, MAX, Some(MAX)),
            (Adaptive, Access::LongRun(5), MAPPING_COST - 5, MAX, Some(MAX)),
            (Adaptive, Access::LongRun(5), MAPPING_COST - 6, 0, None),
            (Adaptive, Access::LongRun(5), 255, MAX, Some(MAX)),
            (Adaptive, Access::Sustained, 0, 0, Some(MAX)),
            (Adaptive, Access::Sustained, 0, MAX, Some(MAX)),
            (Adaptive, Access::Sustained, 0, MAX + 1, None),
            (Adaptive, Access::Sustained, 255, 0, Some(MAX)),
            (Always, Access::Counted, 0, 255, Some(u8::MAX)),
        ] {
            let found = admits_over_victim(admission, access, frequency, threshold);
            assert_eq!(found, beats, "{admission:?}, {access:?}, {frequency} over {threshold}");
        }
    }

    const BYTES: u64 = 1 << 20;

    /// Returns the kinds of accesses of 64 bytes each at these offsets.
    fn accesses(run: &mut AccessRun, offsets: impl IntoIterator<Item = u64>) -> Vec<Access> {
        let access = |at| run.next(at / BYTES, at / BYTES * BYTES, at, at + 64, || true);
        offsets.into_iter().map(access).collect()
    }

    #[test]
    fn repeated_accesses_in_a_row_count_once_in_four() {
        use Access::{Counted, Repeat};
        let run = &mut AccessRun::default();
        let elsewhere = 5 * BYTES;
        let offsets = [600_000, 300_000, 300_000, elsewhere, 300_000, elsewhere, elsewhere + 500_000];
        assert_eq!(accesses(run, offsets), [Counted, Repeat, Repeat, Counted, Counted, Counted, Repeat]);
        let offsets = [600_000, 300_000, 600_000, 300_000, 600_000, 300_000];
        assert_eq!(accesses(run, offsets), [Counted, Repeat, Repeat, Counted, Repeat, Repeat]);
    }

    #[test]
    fn sequential_reader_is_sustained_until_it_reads_elsewhere() {
        const AFTER: usize = SEQUENTIAL_ACCESSES as usize;
        let run = &mut AccessRun::default();
        // The first access follows no other one.
        let offsets = (0..SEQUENTIAL_ACCESSES + 3).map(|access| 700_000 + u64::from(access) * 64);
        let found = accesses(run, offsets).into_iter().map(|access| access == Access::Sustained);
        assert_eq!(found.collect::<Vec<_>>(), [vec![false; AFTER], vec![true; 3]].concat());
        // Reads in the held window are not reported. The run continues at the start of the next window.
        assert_eq!(accesses(run, [BYTES, 2 * BYTES + SEQUENTIAL_SLACK - 1]), [Access::Sustained; 2]);
        let past_the_slack = 3 * BYTES + SEQUENTIAL_SLACK;
        assert_eq!(accesses(run, [past_the_slack, past_the_slack + 64]), [Access::Counted, Access::Repeat]);
    }

    #[test]
    fn sequential_reader_of_large_pieces_is_sustained_sooner() {
        for (piece, sustained_from) in [(4 << 10, 16), (32 << 10, 3), (64 << 10, 1), (200 << 10, 1)] {
            let run = &mut AccessRun::default();
            // An access elsewhere, of the same size, which does not belong to the run.
            run.next(90, 90 * BYTES, 90 * BYTES, 90 * BYTES + piece, || true);
            let starts = (0..20).map(|at| SEQUENTIAL_SLACK + at * piece);
            let mut found = starts.map(|start| run.next(0, 0, start, start + piece, || true));
            let position = found.position(|access| access == Access::Sustained);
            assert_eq!(position, Some(sustained_from), "pieces of {piece}");
        }
    }

    #[test]
    fn reader_of_the_starts_of_windows_is_sequential_only_if_it_reads_their_ends() {
        for reads_ends in [true, false] {
            let run = &mut AccessRun::default();
            let access = |window| run.next(window, window * BYTES, window * BYTES, window * BYTES + 64, || reads_ends);
            let is_sustained = (0..100).map(access).any(|access| access == Access::Sustained);
            assert_eq!((is_sustained, run.is_sequential(), run.is_scattered()), (reads_ends, reads_ends, !reads_ends));
        }
    }

    /// Returns the kinds of the first accesses of `runs` runs of `length` accesses each, at random places. If
    /// `is_mapped`, a long run is mapped from its first access on, and its other accesses are not reported.
    fn first_accesses(run: &mut AccessRun, runs: u64, length: u64, is_mapped: bool) -> Vec<Access> {
        let one = |number: u64| {
            let start = (number + 1) * 7 * BYTES + 900_000;
            let mut next = |at| accesses(run, [start - at * 64])[0];
            let first = next(0);
            if is_long(first) && is_mapped {
                run.set_mapped();
            } else {
                (1..length).for_each(|at| _ = next(at));
            }
            first
        };
        (0..runs).map(one).collect()
    }

    fn is_long(access: Access) -> bool {
        matches!(access, Access::LongRun(_))
    }

    fn count_long(accesses: &[Access]) -> usize {
        accesses.iter().filter(|&&access| is_long(access)).count()
    }

    #[test]
    fn reader_of_long_runs_is_sustained_from_the_first_access_on_except_for_probes() {
        for (length, expected) in [(1, false), (LONG_RUN - 1, false), (LONG_RUN + 1, true), (100, true)] {
            for is_mapped in [false, true] {
                let run = &mut AccessRun::default();
                first_accesses(run, 100, length.into(), is_mapped);
                let runs = 5 * PROBE_INTERVAL;
                let long = count_long(&first_accesses(run, runs.into(), length.into(), is_mapped));
                assert_eq!(long as u32, if expected { runs - 5 } else { 0 }, "{length}, mapped: {is_mapped}");
            }
        }
    }

    #[test]
    fn reader_whose_runs_become_short_is_not_sustained_after_some_probes() {
        for is_mapped in [false, true] {
            let run = &mut AccessRun::default();
            first_accesses(run, 100, 100, is_mapped);
            let short = first_accesses(run, 20 * u64::from(PROBE_INTERVAL), 1, is_mapped);
            assert!(is_long(short[0]) && short.last() == Some(&Access::Counted), "mapped: {is_mapped}");
        }
    }

    #[test]
    fn one_long_run_does_not_make_the_runs_of_a_reader_long() {
        let run = &mut AccessRun::default();
        first_accesses(run, 20, 2, false);
        first_accesses(run, 1, 10_000, false);
        assert_eq!(count_long(&first_accesses(run, 20, 2, false)), 0);
    }

    #[test]
    fn backward_or_skipping_reader_is_sustained_by_repeats_only() {
        let (streak, sustained) = (usize::from(ADMIT_AFTER), SUSTAINED_REPEATS as usize);
        for step in [-64, SEQUENTIAL_SLACK as i64 + 64] {
            let count = i64::from(SUSTAINED_REPEATS) + 2;
            let offsets = (0..count).map(|access| (500 * BYTES as i64 + access * step) as u64 % 1_000_000);
            let found = accesses(&mut AccessRun::default(), offsets);
            for (at, &access) in found.iter().enumerate() {
                let expected = match at {
                    at if at >= sustained => Access::Sustained,
                    at if at == 0 || (at + 1) % COUNTED_REPEAT as usize == 0 => Access::Counted,
                    at if at >= streak => Access::Streak,
                    _ => Access::Repeat,
                };
                assert_eq!(access, expected, "step {step}: access {at}");
            }
        }
    }

    #[test]
    fn pressure_lasts_for_two_clock_steps() {
        let counts = [0, 1, 2, 3].map(|now| Frequency::saturated(0).count(now));
        assert_eq!(counts.map(under_pressure), [true, true, true, false]);
        assert!(!under_pressure(Frequency::from_word(0).count(0)));
    }

    #[test]
    fn headroom_is_a_sixteenth_in_whole_windows() {
        assert_eq!([16, 15, 31, 33].map(|limit| headroom(limit * 100, 100)), [100, 0, 100, 200]);
        assert_eq!(headroom(1_000, 0), 0);
        assert_eq!(headroom(100, 1), 6);
    }
}
