//! The house, held to its plan (see the crate's documentation): who sees whom, which door each dependency has, where
//! `unsafe` and orderings may stand.
//!
//! The checks read the sources as text: code without comments, literals and unit tests, and beside it the ordinary
//! comments. They find what is written by its usual name, and no disguises. What breaks a rule for a reason is listed in
//! [`EXCEPTIONS`], for as long as it does.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

// ---------------------------------------------------------------------------------------------------------------------
// The plan
// ---------------------------------------------------------------------------------------------------------------------

/// The floors, from the ground up. A room sees lower floors; on the ground floor, also what is left of it.
const FLOORS: [&[&str]; 10] = [
    &["sync", "os", "error", "window", "config"],
    &["protocol", "policy"],
    &["fault_guard", "stats"],
    &["mapping"],
    &["region"],
    &["file"],
    &["cache"],
    &["manager"],
    &["read"],
    &["integrations"],
];

/// What the pure columns do without, and why: whole words, so that a list in braces hides nothing.
const PURE: [(&str, &str, &str); 3] = [
    (
        "protocol",
        "concurrency without I/O, and of the machine only crate::sync",
        "atomic std::sync thread fs io path File Instant SystemTime",
    ),
    ("policy window", "a decision, nothing else", "unsafe sync atomic thread fs io time"),
    ("mapping os", "I/O without concurrency", "atomic Mutex RwLock Condvar thread"),
];

/// What is named in these places only. First the dependencies, each with its door.
const DOORWAYS: [(&str, &str); 25] = [
    ("memmap2", "mapping"),
    ("dashmap", "cache/registry"),
    ("arc_swap", "config"),
    ("crossbeam_epoch", "sync"),
    ("crossbeam_utils", "stats cache/wait"),
    ("libc", "os/unix os/sigbus sync/barrier"),
    ("windows_sys", "os/windows sync/barrier"),
    ("memchr", "read/buffer"),
    ("rayon::", "integrations/rayon"),
    ("bytes::", "integrations/bytes"),
    ("stable_deref_trait::", "integrations/stable_deref_trait"),
    ("serde::", "config stats"),
    // Atomics: outside of the protocol there are only counters.
    ("atomic", "sync stats"),
    ("Relaxed", "protocol stats os/sigbus"),
    ("Acquire Release AcqRel SeqCst", "protocol os/sigbus sync/barrier"),
    // Threads and time: one thread that runs and looks at the clock, one way to wait.
    ("thread::Builder Instant", "cache/collector"),
    ("thread::sleep", "cache/wait"),
    ("thread::spawn thread::scope SystemTime::now", ""),
    // The steps of a region's life. The evictor retires by way of `residents`, which knows who is next.
    ("Mapping::map", "cache/load"),
    (".begin_load(", "cache/load"),
    (".publish(", "cache/residents"),
    (".vacate(", "cache/evict cache/mod"),
    (".retire(", "cache/residents cache/collector cache/mod"),
    // What a public type offers to other floors, and not to guests.
    (".cache() .window_if_worth( .demanded_window( .missed_window(", "manager read"),
    (".whole_window(", "read"),
];

/// Where `unsafe` may stand. In `manager` it is the word before `fn build`, and no block.
const UNSAFE: &str = "sync/barrier os/unix os/sigbus os/windows mapping region protocol/slot protocol/ring \
    protocol/announce manager integrations/stable_deref_trait";

const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

const NAMES_OF_NOTHING: &str = "utils util common types helpers inner misc";

const UNFINISHED: &str = "todo! unimplemented! dbg! print! println! eprint! eprintln! .unwrap()";

/// What may lie at the top of the repository; the last line is what cargo adds to a package.
const TOP_LEVEL: &str = "Cargo.toml Cargo.lock README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE-* \
    rustfmt.toml clippy.toml deny.toml .cargo .ci .git .gitignore src tests benches examples loom-tests shuttle-tests \
    docs fuzz issues* target Cargo.toml.orig .cargo_vcs_info.json .cargo-ok";

/// File, what it does, and why it may.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("cache/mod", "`.begin_load(` in `install`", "a file's first descriptor, which is open already: nothing is mapped"),
    (
        "integrations/rayon",
        "`.whole_window(` in `leases`",
        "what `Windows` yields, by its index; too bare for a public name",
    ),
];

// ---------------------------------------------------------------------------------------------------------------------
// The rules
// ---------------------------------------------------------------------------------------------------------------------

/// Paths that leave the file's room lead down. `lib` is the roof, over all of them.
fn layers(source: &Source) -> Vec<Violation> {
    if source.path == "lib" {
        return Vec::new();
    }
    let own = source.room();
    let sees = |other: &str| match (own, place(own), place(other)) {
        _ if own == other => true,
        // The public names stand in `lib` beside the rooms.
        ("integrations", _, _) => other.starts_with(char::is_uppercase),
        ("protocol", _, _) => other == "sync",
        (_, Some((0, mine)), Some((0, theirs))) => theirs < mine,
        (_, Some((mine, _)), Some((theirs, _))) => theirs < mine,
        _ => false,
    };
    let rule = match own {
        "protocol" => "the protocol sees only sync",
        "integrations" => "guests see only public names",
        _ => "a room sees lower floors only, and not through the roof",
    };
    let forbidden = source.paths_from_root().into_iter().filter(|(_, other)| !sees(other));
    forbidden.map(|(at, other)| source.violation(at, format!("sees `{other}`"), rule)).collect()
}

fn purity(source: &Source) -> Vec<Violation> {
    let pure = PURE.iter().filter(|(rooms, ..)| rooms.split(' ').any(|room| room == source.room()));
    pure.flat_map(|(_, why, words)| source.uses(words, why)).collect()
}

fn doorways(source: &Source) -> Vec<Violation> {
    let is_attribute = |at: &Violation| source.line(at.line).trim_start().starts_with("#[");
    let mut found = Vec::new();
    for (words, doors) in DOORWAYS {
        let is_door = doors.split(' ').any(|door| is_in(&source.path, door));
        let rule = match (words, doors) {
            ("serde::", _) => format!("only in attributes, in: {doors}"),
            (_, "") => "nowhere".to_owned(),
            _ => format!("only in: {doors}"),
        };
        let mut uses = source.uses(words, &rule);
        uses.retain(|at| !is_door || (words == "serde::" && !is_attribute(at)));
        found.append(&mut uses);
    }
    found
}

fn unsafety(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let places = source.find("unsafe");
    let is_allowed = UNSAFE.split(' ').any(|path| path == source.path);
    let mut previous = 0;
    for &at in &places {
        // A comment is about one `unsafe`: not past the one before.
        let line = source.line_number(at);
        let notes = source.notes_above(at, 4.min((line - previous).saturating_sub(1)));
        previous = line;
        let next = source.code[at + "unsafe".len()..].trim_start();
        if !is_allowed || (source.path == "manager" && !next.starts_with("fn build(")) {
            found.push(source.violation(at, "`unsafe`", "not here: see UNSAFE"));
        }
        if (next.starts_with('{') || ident(next) == "impl") && !notes.contains("SAFETY:") {
            found.push(source.violation(at, "`unsafe` without SAFETY", "a comment says why, in the 4 lines above"));
        }
    }
    let dense: String = source.code.split_whitespace().collect();
    let is_declared = dense.contains("allow(unsafe_code,reason=") || dense.contains("expect(unsafe_code,reason=");
    if places.is_empty() == is_declared {
        let at = places.first().copied().unwrap_or(0);
        found.push(source.violation(at, "undeclared", "`unsafe` and allow(unsafe_code, reason = …) come together"));
    }
    found
}

fn orderings(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for word in ORDERINGS.iter().filter(|_| source.room() == "protocol") {
        for at in source.find(word) {
            let notes = source.notes_above(at, 6);
            let is_said =
                notes.contains(word) || (*word == "AcqRel" && notes.contains("Acquire") && notes.contains("Release"));
            if !is_said {
                let what = format!("`{word}` in `{}`", source.function(at));
                found.push(source.violation(at, what, "a comment names the ordering, in the 6 lines above"));
            }
        }
    }
    found
}

fn tidiness(source: &Source) -> Vec<Violation> {
    let mut found = source.uses(UNFINISHED, "finished code only, and no panic without a word");
    if source.path.split('/').any(|name| NAMES_OF_NOTHING.split(' ').any(|nothing| nothing == name)) {
        found.push(source.violation(0, "its name", "a name says what is inside"));
    }
    if source.path != "lib" && place(source.room()).is_none() {
        found.push(source.violation(0, "is in no room", "each file belongs to a room: see FLOORS"));
    }
    found
}

fn unexpected_at_top(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let is_expected = |name: &String| {
        TOP_LEVEL.split(' ').any(|known| match known.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == known,
        })
    };
    names.into_iter().filter(|name| !is_expected(name)).collect()
}

/// Rooms that the drawing in `lib.rs` does not show on their floor.
fn missing_in_drawing(lib: &str) -> Vec<&'static str> {
    let mut missing = Vec::new();
    for (floor, rooms) in FLOORS.iter().enumerate() {
        let below = lib.split_once(&format!("//!  {floor}  ")).map_or("", |(_, below)| below);
        let end = if floor == 0 { "//! ```".to_owned() } else { format!("//!  {}  ", floor - 1) };
        let drawn = below.split_once(&end).map_or("", |(drawn, _)| drawn);
        missing.extend(rooms.iter().filter(|room| find(drawn, room).is_empty()));
    }
    missing
}

// ---------------------------------------------------------------------------------------------------------------------
// The sources
// ---------------------------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Violation {
    path: String,
    line: usize,
    what: String,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}.rs:{}: {}: {}", self.path, self.line, self.what, self.rule)
    }
}

struct Source {
    /// Below `src`, without `.rs`.
    path: String,
    /// Without comments, literals and unit tests, which are blanks; so lines keep their numbers.
    code: String,
    /// The ordinary comments of each line, without documentation.
    notes: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let (mut code, mut notes) = (String::new(), String::new());
        let chars: Vec<char> = text.chars().collect();
        let mut rest = &chars[..];
        while !rest.is_empty() {
            let (kind, len) = token(rest);
            let (now, later) = rest.split_at(len.min(rest.len()));
            for &c in now {
                let blank = if c == '\n' { c } else { ' ' };
                code.push(if kind == Kind::Code { c } else { blank });
                notes.push(if kind == Kind::Note { c } else { blank });
            }
            rest = later;
        }
        let mut source = Self { path: path.to_owned(), code, notes: notes.lines().map(str::to_owned).collect() };
        while let Some(start) = source.code.find("#[cfg(test)]") {
            let end = source.code[start..].find(['{', ';']).map_or(source.code.len(), |at| start + at);
            let end = if source.code[end..].starts_with('{') { end + closing(&source.code[end..]) } else { end };
            let blanks = source.code[start..end].replace(|c| c != '\n', " ");
            source.code.replace_range(start..end, &blanks);
        }
        source
    }

    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn find(&self, word: &str) -> Vec<usize> {
        find(&self.code, word)
    }

    /// Each use of one of these words.
    fn uses(&self, words: &str, rule: &str) -> Vec<Violation> {
        let uses = words.split(' ').flat_map(|word| self.find(word).into_iter().map(move |at| (word, at)));
        uses.map(|(word, at)| self.violation(at, format!("`{word}` in `{}`", self.function(at)), rule)).collect()
    }

    /// The function that it stands in: the last that began before.
    fn function(&self, at: usize) -> &str {
        find(&self.code[..at], "fn").last().map_or("no function", |at| ident(&self.code[at + 3..]))
    }

    fn line_number(&self, at: usize) -> usize {
        1 + self.code[..at].matches('\n').count()
    }

    fn line(&self, number: usize) -> &str {
        self.code.lines().nth(number - 1).unwrap_or_default()
    }

    fn notes_above(&self, at: usize, lines: usize) -> String {
        let last = self.line_number(at);
        self.notes[last.saturating_sub(lines + 1)..last].join("\n")
    }

    fn violation(&self, at: usize, what: impl Into<String>, rule: &str) -> Violation {
        Violation { path: self.path.clone(), line: self.line_number(at), what: what.into(), rule: rule.to_owned() }
    }

    /// What the file names in the root of the crate: by `crate::`, or by so many `super::` that they lead there. (A module
    /// inside of a file would need one more, and is not counted.)
    fn paths_from_root(&self) -> Vec<(usize, String)> {
        let depth = self.path.trim_end_matches("/mod").split('/').count();
        let mut paths = Vec::new();
        for at in self.find("crate::").into_iter().chain(self.find("super::")) {
            let path = &self.code[at..];
            let end = path.trim_start_matches("super::").trim_start_matches("crate::");
            if path.starts_with("crate::") || path.len() - end.len() >= depth * "super::".len() {
                paths.extend(names(end).into_iter().map(|name| (at, name.to_owned())));
            }
        }
        paths
    }
}

/// The first names of what follows a `::`: one, or those of a list in braces.
fn names(path: &str) -> Vec<&str> {
    if !path.starts_with('{') {
        return vec![ident(path)];
    }
    let mut depth = 0;
    let list = path[1..closing(path) - 1].split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    list.map(|name| ident(name.trim_start())).filter(|name| !name.is_empty()).collect()
}

fn place(room: &str) -> Option<(usize, usize)> {
    let in_floor = |rooms: &&[&str]| rooms.iter().position(|&known| known == room);
    FLOORS.iter().enumerate().find_map(|(floor, rooms)| Some((floor, in_floor(rooms)?)))
}

fn is_in(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ident(text: &str) -> &str {
    text.split(|c| !is_ident(c)).next().unwrap_or_default()
}

/// Where `word` stands by itself, and, if it ends in `::`, not behind another name and `::`.
fn find(text: &str, word: &str) -> Vec<usize> {
    let stands_alone = |&at: &usize| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let is_path = word.ends_with("::") && before.strip_suffix("::").is_some_and(|name| name.ends_with(is_ident));
        let begins = !(word.starts_with(is_ident) && before.ends_with(is_ident));
        let ends = !(word.ends_with(is_ident) && after.starts_with(is_ident));
        begins && ends && !is_path
    };
    text.match_indices(word).map(|(at, _)| at).filter(stands_alone).collect()
}

/// The length of a block that begins with its brace.
fn closing(block: &str) -> usize {
    let mut depth = 0;
    let end = block.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    end.map_or(block.len(), |end| end + 1)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Note,
    /// Documentation, a comment in `/* */`, or a literal.
    Other,
}

/// What the text begins with, and how long that is.
fn token(text: &[char]) -> (Kind, usize) {
    match *text {
        ['/', '/', c, ..] if c == '!' || (c == '/' && text.get(3) != Some(&'/')) => (Kind::Other, line_end(text)),
        ['/', '/', ..] => (Kind::Note, line_end(text)),
        ['/', '*', ..] => {
            let body = text[2..].windows(2).position(|end| end == ['*', '/']);
            (Kind::Other, body.map_or(text.len(), |body| body + 4))
        }
        ['"', ..] => {
            let mut len = 1;
            while len < text.len() && text[len] != '"' {
                len += if text[len] == '\\' { 2 } else { 1 };
            }
            (Kind::Other, len + 1)
        }
        ['\'', '\\', _, ref rest @ ..] => (Kind::Other, 4 + rest.iter().take_while(|&&c| c != '\'').count()),
        ['\'', _, '\'', ..] => (Kind::Other, 3),
        [c, ..] if is_ident(c) => {
            let len = text.iter().take_while(|&&c| is_ident(c)).count();
            let word: String = text[..len].iter().collect();
            let hashes = text[len..].iter().take_while(|&&c| c == '#').count();
            if ["r", "br", "cr"].contains(&&*word) && text.get(len + hashes) == Some(&'"') {
                let is_end = |end: &[char]| end[0] == '"' && end[1..].iter().all(|&c| c == '#');
                let (start, end) = (len + hashes + 1, hashes + 1);
                let body = text[start..].windows(end).position(is_end).unwrap_or(text.len());
                return (Kind::Other, start + body + end);
            }
            (Kind::Code, len)
        }
        _ => (Kind::Code, 1),
    }
}

fn line_end(text: &[char]) -> usize {
    text.iter().take_while(|&&c| c != '\n').count()
}

fn sources() -> Vec<Source> {
    fn walk(directory: &Path, below: &str, sources: &mut Vec<Source>) {
        for (name, path) in entries(directory) {
            if path.is_dir() {
                walk(&path, &format!("{below}{name}/"), sources);
            } else if let Some(name) = name.strip_suffix(".rs").filter(|name| *name != "tests") {
                sources.push(Source::new(&format!("{below}{name}"), &read(&path)));
            }
        }
    }
    let mut sources = Vec::new();
    walk(&root().join("src"), "", &mut sources);
    assert!(sources.len() > 30, "only {} sources: are these all?", sources.len());
    sources
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file that can be read")
}

fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).expect("a directory that can be read").map(|entry| entry.expect("its entry"));
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// The tests
// ---------------------------------------------------------------------------------------------------------------------

type Check = fn(&Source) -> Vec<Violation>;

const CHECKS: [Check; 6] = [layers, purity, doorways, unsafety, orderings, tidiness];

fn is_excepted(found: &Violation) -> bool {
    EXCEPTIONS.iter().any(|(path, what, _)| *path == found.path && *what == found.what)
}

#[track_caller]
fn holds(check: Check) {
    let sources = sources();
    let found = sources.iter().flat_map(check).filter(|found| !is_excepted(found));
    let report: Vec<_> = found.map(|found| found.to_string()).collect();
    assert!(report.is_empty(), "the sources break the plan of the house:\n{}", report.join("\n"));
}

#[test]
fn dependencies_point_down() {
    holds(layers);
}

#[test]
fn the_pure_columns_are_pure() {
    holds(purity);
}

#[test]
fn everything_comes_in_by_its_door() {
    holds(doorways);
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    holds(unsafety);
}

#[test]
fn every_ordering_of_the_protocol_is_explained() {
    holds(orderings);
}

#[test]
fn the_sources_are_tidy() {
    holds(tidiness);
}

#[test]
fn every_room_is_there_and_drawn_and_nothing_else_lies_about() {
    let sources = sources();
    for room in FLOORS.concat() {
        assert!(sources.iter().any(|source| source.room() == room), "src/{room}: no such room");
    }
    let missing = missing_in_drawing(&read(&root().join("src/lib.rs")));
    assert!(missing.is_empty(), "src/lib.rs: its drawing does not show on their floor: {missing:?}");
    let unexpected = unexpected_at_top(entries(root()).into_iter().map(|(name, _)| name));
    assert!(unexpected.is_empty(), "at the top of the repository: {unexpected:?}: see TOP_LEVEL");
}

#[test]
fn every_dependency_has_a_door() {
    let manifest = read(&root().join("Cargo.toml"));
    let mut section = "";
    for line in manifest.lines() {
        section = if line.starts_with('[') { line } else { section };
        let is_dependency = section.ends_with("dependencies]") && !section.contains("dev-");
        let Some((name, _)) = line.split_once(" = ").filter(|_| is_dependency && !line.starts_with(' ')) else {
            continue;
        };
        let name = name.replace('-', "_");
        assert!(DOORWAYS.iter().any(|(word, _)| word.trim_end_matches(':') == name), "Cargo.toml: {name}: no door");
    }
}

/// What the last cells of the tables name: tests, by their own names or a part of them, and files of tests.
#[test]
fn every_test_that_the_guarantees_name_is_there() {
    let mut tests = Vec::new();
    let mut folders = vec![root().join("tests")];
    while let Some(folder) = folders.pop() {
        for (name, path) in entries(&folder) {
            if path.is_dir() {
                folders.push(path.clone());
            } else {
                let source = read(&path);
                let functions = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
                tests.extend(functions.map(|rest| ident(rest).to_owned()));
            }
            tests.push(name.trim_end_matches(".rs").to_owned());
        }
    }
    let page = read(&root().join("docs/guarantees.md"));
    let cells = page.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.rsplit('|').nth(1));
    let names: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let (path, last) = name.rsplit_once("::").unwrap_or(("", name));
        let wanted = last.trim_start_matches("tests/").trim_end_matches(".rs").trim_matches(['…', '*']);
        let is_there = |wanted: &str| tests.iter().any(|test| test.contains(wanted));
        assert!(is_there(wanted) && is_there(path), "docs/guarantees.md: {name}: no such test");
    }
}

#[test]
fn no_entry_of_the_plan_is_out_of_date() {
    let sources = sources();
    let is_used = |word: &str, path: &str| sources.iter().any(|at| is_in(&at.path, path) && !at.find(word).is_empty());
    for (words, doors) in DOORWAYS {
        for door in doors.split(' ').filter(|door| !door.is_empty()) {
            assert!(words.split(' ').any(|word| is_used(word, door)), "DOORWAYS: {words}: not in {door} any more");
        }
    }
    for path in UNSAFE.split(' ') {
        assert!(is_used("unsafe", path), "UNSAFE: nothing of the kind in {path} any more");
    }
    let found: Vec<_> = CHECKS.iter().flat_map(|check| sources.iter().flat_map(check)).collect();
    for (path, what, why) in EXCEPTIONS {
        let is_needed = found.iter().any(|found| found.path == path && found.what == what);
        assert!(is_needed, "EXCEPTIONS: src/{path}.rs: {what}: not needed any more ({why})");
    }
}

#[test]
fn each_check_can_fail() {
    let broken: [(Check, &str, &str, &str); 33] = [
        (layers, "region", "fn f() {}\nuse crate::cache::Cache;", "sees `cache`"),
        (layers, "file/key", "use crate::{os::{self, Stat}, manager::MapManager};", "sees `manager`"),
        (layers, "file/key", "use super::super::cache::Cache;", "sees `cache`"),
        (layers, "cache/mod", "use super::read::Lease;", "sees `read`"),
        (layers, "cache/load", "fn f() -> crate::Lease {}", "sees `Lease`"),
        (layers, "policy/mod", "use crate::mapping::Mapping;", "sees `mapping`"),
        (layers, "os/mod", "use crate::error::Error;", "sees `error`"),
        (layers, "protocol/slot", "use crate::os::Stat;", "sees `os`"),
        (layers, "integrations/rayon", "use crate::{Lease, region::RegionRef};", "sees `region`"),
        (purity, "protocol/slot", "use std::{fmt, io};", "`io` in `no function`"),
        (purity, "window", "use std::sync::Mutex;", "`sync` in `no function`"),
        (doorways, "cache/load", "use memmap2::Mmap;", "`memmap2` in `no function`"),
        (doorways, "cache/mod", "fn f() { ::bytes::Bytes::new() }", "`bytes::` in `f`"),
        (doorways, "config", "use serde::Serialize;", "`serde::` in `no function`"),
        (doorways, "cache/load", "fn f() { x.load(Ordering::Relaxed) }", "`Relaxed` in `f`"),
        (doorways, "cache/evict", "fn f() { fence(SeqCst) }", "`SeqCst` in `f`"),
        (doorways, "cache/wait", "fn f() { std::thread::spawn(g) }", "`thread::spawn` in `f`"),
        (doorways, "cache/mod", "fn close(&self) { slot.begin_load() }", "`.begin_load(` in `close`"),
        (doorways, "cache/evict", "fn f() { a(); slot.retire() }", "`.retire(` in `f`"),
        (unsafety, "window", "// SAFETY: so.\nunsafe { f() }", "`unsafe`"),
        (unsafety, "manager", "// SAFETY: so.\nunsafe { build() }", "`unsafe`"),
        (unsafety, "region", "// Safe.\nunsafe { f() }", "`unsafe` without SAFETY"),
        (unsafety, "region", "// SAFETY: so.\n\n\n\n\nunsafe impl Send for A {}", "`unsafe` without SAFETY"),
        (unsafety, "region", "// SAFETY: so.\nunsafe { f() }\nunsafe { g() }", "`unsafe` without SAFETY"),
        (unsafety, "region", "/// SAFETY: so.\nunsafe { f() }", "`unsafe` without SAFETY"),
        (unsafety, "region", "unsafe fn f() {}", "undeclared"),
        (unsafety, "region", "#![allow(unsafe_code, reason = \"so\")]", "undeclared"),
        (orderings, "protocol/ring", "fn f() { // Acquire.\na.load(Relaxed) }", "`Relaxed` in `f`"),
        (orderings, "protocol/ring", "fn f() { /// Relaxed.\na.load(Relaxed) }", "`Relaxed` in `f`"),
        (orderings, "protocol/ring", "fn f() { // Acquire.\nfence(AcqRel) }", "`AcqRel` in `f`"),
        (tidiness, "cache/utils", "", "its name"),
        (tidiness, "pool", "", "is in no room"),
        (tidiness, "error", "fn f() { x.unwrap(); }", "`.unwrap()` in `f`"),
    ];
    for (check, path, text, what) in broken {
        let found = check(&Source::new(path, text));
        assert!(found.iter().any(|found| found.what == what && !is_excepted(found)), "{path}: {text}: {found:?}");
    }
    let found = &layers(&Source::new("region", "fn f() {}\n\nuse crate::cache::Cache;"))[0];
    assert!(found.to_string().starts_with("src/region.rs:3: sees `cache`: a room sees"), "{found}");
    assert_eq!(unexpected_at_top(["src", "LICENSE-MIT", "notes.txt"].map(str::to_owned)), ["notes.txt"]);
    assert!(missing_in_drawing("//! # The house\n//!\n//!  2  region\n//!  1  window").contains(&"protocol"));
}

#[test]
fn what_is_no_code_is_not_judged() {
    let harmless = [
        ("region", "/// [`x`](crate::cache)\n//! unsafe { memmap2 }\n/* crate::read::A, .unwrap() */"),
        ("region", "const A: &str = \"crate::cache \\\" unsafe\"; const B: char = '\"'; const C: u8 = b'\\''; // libc"),
        ("region", "const A: &str = br#\"\"crate::cache\" libc\"#; fn f<'a>(x: &'a u8) {} /* 'a' unsafe */"),
        ("region", "#[cfg(test)]\nmod tests { fn f() { if a { unsafe {} } } use crate::cache::A; }\nfn g() {}"),
        ("cache/registry", "use super::CachedFile; use crate::{file::{FileKey, cache}, os};"),
        ("config", "#[derive(serde::Serialize)]\nstruct A { bytes: u8 }"),
        ("integrations/bytes", "use crate::Lease; use bytes::Bytes;"),
        ("protocol/words", "fn f() { // Release: pairs with the Acquire in `get`.\n a.swap(1, Ordering::AcqRel) }"),
    ];
    for (path, text) in harmless {
        let found: Vec<_> = CHECKS.iter().flat_map(|check| check(&Source::new(path, text))).collect();
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
    let code = Source::new("region", "a // b\n\"c\n\" d 'e' r#\"f\"# #[cfg(test)] mod tests { g } h").code;
    assert_eq!(code.split_whitespace().collect::<String>(), "adh");
}
