//! The machine and time of a run, without which its numbers mean little.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{GIB, directory};

pub(crate) struct Machine {
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    pub(crate) fn query() -> Machine {
        let facts = [
            ("date", Some(date(SystemTime::now()))),
            ("commit", commit()),
            ("processor", processor()),
            ("memory", memory()),
            ("system", first_line_of("uname", &["-srm"])),
            ("file system of the data", file_system()),
            ("compiler", first_line_of("rustc", &["--version"])),
            ("load before (others on the machine)", load()),
        ];
        let known = |(name, fact): (_, Option<String>)| (name, fact.unwrap_or_else(|| "unknown".to_owned()));
        Machine { facts: facts.map(known).into() }
    }

    /// The head of the report.
    pub(crate) fn head(&self, took: Duration) -> String {
        let seconds = took.as_secs();
        format!(
            "# The contest\n\nWritten by\n\n\
             ```sh\ncargo run --release --manifest-path benches/contest/Cargo.toml\n```\n\n\
             in {} min {} s. All data is in the page cache, unless a row says otherwise. In each round of a row, all \
             variants do the same reads by turns. A result is the median of the rounds' ratios; a time is the median of \
             the rounds' times. *Trial* is the result of a prototype. Ratios hold on other machines better than times \
             do.\n\n\
             {self}",
            seconds / 60,
            seconds % 60,
        )
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.facts.iter().try_for_each(|(name, fact)| writeln!(f, "- {name}: {fact}"))
    }
}

/// Returns the first line of a command's output, or `None` if the command fails.
fn first_line_of(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

fn commit() -> Option<String> {
    let commit = first_line_of("git", &["rev-parse", "--short=12", "HEAD"])?;
    // Not the report and its plots: an earlier run may have written them.
    let changed = first_line_of("git", &["status", "--porcelain", "--", "../..", ":!REPORT.md", ":!*.svg"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}, with uncommitted changes") })
}

fn processor() -> Option<String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let name = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let virtual_machine = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" hypervisor"));
    Some(format!(
        "{}, {threads} hardware threads{}",
        name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        if virtual_machine { " (a virtual machine)" } else { "" }
    ))
}

fn memory() -> Option<String> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(format!("{:.0} GiB", kib as f64 * 1024.0 / GIB as f64))
}

fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// Returns the file system at the longest mount point above the data.
fn file_system() -> Option<String> {
    let text = fs::read_to_string("/proc/mounts").ok()?;
    let directory = directory();
    let mounts = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        directory.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    // Of several mounts on one point, the last one is visible.
    mounts.max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

/// Formats a date in UTC.
fn date(time: SystemTime) -> String {
    let days = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (mut year, mut left) = (1970, days);
    let leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_formats_known_days() {
        let of = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(of(0), "1970-01-01");
        assert_eq!(of(951_782_400), "2000-02-29");
        assert_eq!(of(1_772_323_199), "2026-02-28");
        assert_eq!(of(1_772_323_200), "2026-03-01");
        assert_eq!(of(1_798_675_200), "2026-12-31");
    }
}
