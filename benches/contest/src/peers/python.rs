//! Python's smmap, in a process of its own that runs a lap on request.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::support::{Data, directory};

const SCRIPT: &str = include_str!("python_smmap.py");

/// The command that installs Python's smmap for the contest.
pub(crate) const INSTALL_COMMAND: &str = "python3 -m pip install --target benches/contest/target/python smmap";

pub(crate) struct Python {
    child: Child,
    tasks: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) version: String,
}

impl Python {
    /// Starts Python with windows of `window` bytes over the data, and a budget of `budget` bytes. Returns the reason
    /// if Python or its smmap is missing.
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
            .map_err(|error| format!("cannot run python3 ({error})"))?;
        let tasks = child.stdin.take().expect("stdin is piped");
        let mut answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let read = answers.read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim_end().strip_prefix("ready ") {
            Some(version) if read > 0 => Ok(Python { child, tasks, answers, version: version.to_owned() }),
            _ => {
                let output = child.wait_with_output().map_err(|error| error.to_string())?;
                let message = String::from_utf8_lossy(&output.stderr);
                Err(format!("python3 says: {}", message.trim_end().lines().last().unwrap_or("nothing")))
            }
        }
    }

    /// Runs a lap of `reader` over the offsets in a file. Returns its time and the sum of the words read.
    pub(crate) fn lap(&mut self, reader: &str, offsets: &Path, len: usize) -> (Duration, u64) {
        let offsets = offsets.to_str().expect("the path of the target directory is UTF-8");
        writeln!(self.tasks, "{reader}\t{offsets}\t{len}").expect("the process reads its input");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the process answers");
        let (nanos, sum) = line.trim_end().split_once(' ').expect("the answer has two numbers");
        let number = |text: &str| text.parse::<u64>().expect("the answer is a number");
        (Duration::from_nanos(number(nanos)), number(sum))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // The process would end at the end of its input; killing it also ends one that hangs.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Returns the search path: the directory that [`INSTALL_COMMAND`] installs into, then the user's `PYTHONPATH`.
fn search_path() -> OsString {
    let own: PathBuf = directory().parent().expect("the data lies below the target directory").join("python");
    let known = std::env::var_os("PYTHONPATH").unwrap_or_default();
    std::env::join_paths([own].into_iter().chain(std::env::split_paths(&known))).expect("no path contains a colon")
}
