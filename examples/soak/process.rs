//! The resources that the OS holds for this process, from the OS's own lists.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::world::Failed;

/// The numbers of descriptors and threads of this process. `None` on a system without /proc.
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

    /// Returns a failure if bytes are still mapped, or if the numbers differ from those before.
    pub(crate) fn left_behind(&self, mapped: Option<u64>, before: &Self) -> Option<Failed> {
        let is_clean = mapped.is_none_or(|bytes| bytes == 0)
            && self.descriptors == before.descriptors
            && self.threads == before.threads;
        let what = || format!("not released: {mapped:?} bytes mapped, {self:?} after the run, {before:?} before it");
        (!is_clean).then(|| Failed(what()))
    }
}

pub(crate) fn resident_kib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok())
}

/// A mapped part of a file: the file, the address that its first byte would have, and the addresses of the part.
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

/// Returns the bytes that were certainly mapped at one moment. A list of the kernel is no snapshot, but an area in two
/// consecutive lists was mapped between them.
pub(crate) fn surely_mapped_below(dir: &Path) -> Option<u64> {
    let (first, second) = (areas_below(dir)?, areas_below(dir)?);
    let shared = first.iter().flat_map(|(file, base, area)| {
        let same = second.iter().filter(move |other| (&other.0, other.1) == (file, *base));
        same.map(|(.., other)| other.end.min(area.end).saturating_sub(other.start.max(area.start)))
    });
    Some(shared.sum())
}
