//! Python's smmap, in a process of its own that does a lap when it is its turn.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::support::{Data, directory};

const SCRIPT: &str = include_str!("python_smmap.py");

/// How to have it take part.
pub(crate) const HOW: &str = "python3 -m pip install --target benches/contest/target/python smmap";

pub(crate) struct Python {
    child: Child,
    tasks: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) version: String,
}

impl Python {
    /// With windows of `window` bytes over the data, and a budget of so many bytes. Or why there is none.
    pub(crate) fn start(data: &Data, window: u64, budget: u64) -> Result<Python, String> {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(data.path())
            .args([window.to_string(), budget.to_string()])
            .env("PYTHONPATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("there is no python3 to be run ({error})"))?;
        let tasks = child.stdin.take().expect("it was piped");
        let mut answers = BufReader::new(child.stdout.take().expect("it was piped"));
        let mut line = String::new();
        let read = answers.read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim_end().strip_prefix("ready ") {
            Some(version) if read > 0 => Ok(Python { child, tasks, answers, version: version.to_owned() }),
            _ => {
                let output = child.wait_with_output().map_err(|error| error.to_string())?;
                let told = String::from_utf8_lossy(&output.stderr);
                Err(format!("python3 says: {}", told.trim_end().lines().last().unwrap_or("nothing")))
            }
        }
    }

    /// A lap of `who`, over the offsets in a file: how long it took, and the sum of what was read.
    pub(crate) fn lap(&mut self, who: &str, offsets: &Path, len: usize) -> (Duration, u64) {
        let offsets = offsets.to_str().expect("cargo's directory has a name in UTF-8");
        writeln!(self.tasks, "{who}\t{offsets}\t{len}").expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        let (nanos, sum) = line.trim_end().split_once(' ').expect("two numbers");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        (Duration::from_nanos(number(nanos)), number(sum))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It ends when it is told nothing more; this is for one that hangs.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What the user has said, and beside the build what [`HOW`] installs.
fn search_path() -> OsString {
    let own: PathBuf = directory().parent().expect("a directory of cargo's").join("python");
    let known = std::env::var_os("PYTHONPATH").unwrap_or_default();
    std::env::join_paths([own].into_iter().chain(std::env::split_paths(&known))).expect("names without colons")
}
