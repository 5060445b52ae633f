//! File content that identifies its file and offset, and a generator of random choices.

use std::ops::Range;

use crate::{KIB, WINDOW};

/// The content of a file, as parts `(start, generation)`: each part reaches to the start of the next one.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) parts: Vec<(u64, u64)>,
}

impl Content {
    pub(crate) fn of(generation: u64) -> Self {
        Self { parts: vec![(0, generation)] }
    }

    /// Returns the offset of the first of `bytes` that differs from the content at `offset`, or `None` if all are
    /// equal.
    pub(crate) fn first_wrong(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let end = offset + bytes.len() as u64;
        let ends = self.parts.iter().skip(1).map(|part| part.0).chain([u64::MAX]);
        self.parts.iter().zip(ends).find_map(|(&(start, generation), part_end)| {
            let (start, part_end) = (start.max(offset), part_end.min(end));
            let part = bytes.get((start - offset) as usize..part_end.checked_sub(offset)? as usize)?;
            first_wrong(generation, start, part)
        })
    }
}

/// Returns word `index` of a file, of eight bytes. Word 0 is the generation itself.
fn word(generation: u64, mixed: u64, index: u64) -> [u8; 8] {
    if index == 0 { generation } else { mix(mixed ^ index) }.to_le_bytes()
}

pub(crate) fn bytes_of(generation: u64, range: Range<u64>) -> Vec<u8> {
    let mixed = mix(generation);
    let words = range.start / 8..range.end.div_ceil(8);
    let mut bytes: Vec<u8> = words.flat_map(|index| word(generation, mixed, index)).collect();
    bytes.truncate((range.end - range.start / 8 * 8) as usize);
    bytes.drain(..(range.start % 8) as usize);
    bytes
}

fn first_wrong(generation: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mixed = mix(generation);
    let head = ((8 - offset % 8) % 8).min(bytes.len() as u64);
    let (head, rest) = bytes.split_at(head as usize);
    let at = (offset % 8) as usize;
    let first = word(generation, mixed, offset / 8);
    if !head.is_empty() && *head != first[at..at + head.len()] {
        return Some(offset);
    }
    let start = offset + head.len() as u64;
    let mut pieces = (start / 8..).zip(rest.chunks(8));
    let wrong = pieces.find(|(index, piece)| **piece != word(generation, mixed, *index)[..piece.len()])?;
    Some(wrong.0 * 8)
}

/// The finalizer of splitmix64.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// Returns a number below `end`, or 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(crate) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// Returns a range of at most `longest` bytes in a file of `len`. The range often starts near a window boundary or
    /// the end.
    pub(crate) fn range(&mut self, len: u64, longest: u64) -> Range<u64> {
        let start = match self.below(4) {
            0 => (self.below(len / WINDOW + 1) * WINDOW).saturating_sub(self.below(64)),
            1 => len.saturating_sub(self.below(4 * KIB)),
            _ => self.below(len + 1),
        };
        // Short ranges are more frequent than long ones.
        let longest = longest >> self.below(longest.ilog2().into());
        start..(start + self.below(longest + 1)).min(len).max(start)
    }
}
