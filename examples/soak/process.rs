//! What the system holds for this process, by its own lists.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::world::Failed;

/// Descriptors and threads of this process. None where there is no /proc.
#[derive(Debug)]
pub(crate) struct Held {
    descriptors: Option<usize>,
    threads: Option<usize>,
}

impl Held {
    pub(crate) fn of_process() -> Self {
        let count = |directory| fs::read_dir(directory).ok().map(Iterator::count);
        Self { descriptors: count("/proc/self/fd"), threads: count("/proc/self/task") }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.descriptors.is_none() || self.threads.is_none()
    }

    /// What is more than before.
    pub(crate) fn left_behind(&self, mapped: Option<u64>, before: &Self) -> Option<Failed> {
        let is_clean = mapped.is_none_or(|bytes| bytes == 0)
            && self.descriptors == before.descriptors
            && self.threads == before.threads;
        let what = || format!("left behind: {mapped:?} bytes mapped, {self:?}, and before there were {before:?}");
        (!is_clean).then(|| Failed(what()))
    }
}

pub(crate) fn resident_kib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// A part of a file that the kernel lists as mapped: the file, where its first byte would be in memory, and the addresses.
type Area = (String, u64, Range<u64>);

fn areas_below(dir: &Path) -> Option<Vec<Area>> {
    let list = String::from_utf8_lossy(&fs::read("/proc/self/maps").ok()?).into_owned();
    let dir = dir.to_string_lossy();
    // `start-end permissions offset device inode   path`
    let area = |line: &str| {
        let fields: Vec<_> = line.splitn(6, ' ').collect();
        let &[addresses, _, offset, _, inode, path] = &fields[..] else { return None };
        let path = path.trim_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = addresses.split_once('-')?;
        let (start, end) = (number(start)?, number(end)?);
        path.starts_with(&*dir).then_some((format!("{inode} {path}"), start.wrapping_sub(number(offset)?), start..end))
    };
    Some(list.lines().filter_map(area).collect())
}

pub(crate) fn mapped_below(dir: &Path) -> Option<u64> {
    Some(areas_below(dir)?.iter().map(|(.., area)| area.end - area.start).sum())
}

/// Bytes that were mapped at one moment. The kernel's list is not of one: what is in two of them was there between.
pub(crate) fn surely_mapped_below(dir: &Path) -> Option<u64> {
    let (first, second) = (areas_below(dir)?, areas_below(dir)?);
    let shared = first.iter().flat_map(|(file, base, area)| {
        let same = second.iter().filter(move |other| (&other.0, other.1) == (file, *base));
        same.map(|(.., other)| other.end.min(area.end).saturating_sub(other.start.max(area.start)))
    });
    Some(shared.sum())
}
