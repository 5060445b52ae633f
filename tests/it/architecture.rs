//! Checks which module of `src/` may use which modules and names, and that docs/guarantees.md names existing tests.

use std::fs;

/// The top-level modules of `src/`, bottom to top. A module may use the modules before it; `lib.rs` may use all.
const MODULES: &str =
    "sync os error geometry config protocol policy fault_guard stats mapping cache file manager read integrations";

/// Modules that may use only these others. Integrations use the public names of the crate root.
const RESTRICTED: [(&str, &str); 3] = [("protocol", "sync"), ("policy", "error geometry config"), ("integrations", "")];

/// Names that only these files and directories of `src/` may use.
const DOORWAYS: [(&str, &str); 8] = [
    ("memmap2", "mapping.rs"),
    ("arc_swap", "cache/descriptors.rs"),
    ("dashmap", "cache/registry.rs"),
    ("crossbeam_epoch", "sync/"),
    ("thread::Builder", "cache/collector.rs"),
    ("thread::sleep", "cache/backoff.rs"),
    ("thread::spawn", "none"),
    ("Instant::now", "cache/"),
];

/// Names that the protocol may not use, because the loom models replace only `crate::sync`.
const NOT_IN_PROTOCOL: &str = "std::sync std::thread std::fs std::io Instant";

/// Returns the uses in `source`, the text of `src/<path>`, that the tables above forbid outside of comments and unit
/// tests.
fn forbidden_uses(path: &str, source: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let module = parts[0];
    let restricted = RESTRICTED.iter().find(|(name, _)| *name == module);
    let modules = restricted.map_or(MODULES, |(_, others)| others).split(' ');
    let allowed: Vec<&str> = modules.take_while(|name| *name != module).collect();
    let code = source.split("mod tests {").next().unwrap_or_default().lines();
    let code: Vec<&str> = code.filter_map(|line| line.split("//").next()).collect();
    let code = code.join(" ").replace(&"super::".repeat(parts.len()), "crate::");
    let is_forbidden = |name: &&str| {
        let is_public = module == "integrations" && name.starts_with(char::is_uppercase);
        *name != module && !is_public && !allowed.contains(name)
    };
    let names = code.split("crate::").skip(1).flat_map(first_names).filter(is_forbidden);
    let closed = DOORWAYS.iter().filter(|(_, doors)| !path.starts_with(doors)).map(|(word, _)| *word);
    let words = closed.chain(NOT_IN_PROTOCOL.split(' ').filter(|_| module == "protocol"));
    let unknown = Some(module).filter(|module| !MODULES.split(' ').any(|known| known == *module));
    let faults = names.chain(words.filter(|word| code.contains(word))).chain(unknown).filter(|_| path != "lib.rs");
    faults.map(|name| format!("src/{path}: `{name}` is not allowed here")).collect()
}

/// Returns the first name of a path, or of each path in a list in braces.
fn first_names(path: &str) -> Vec<&str> {
    let (mut names, mut depth, mut is_first) = (Vec::new(), 0, true);
    for (at, c) in path.char_indices() {
        if is_first && c.is_alphabetic() {
            names.extend(path[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next());
        }
        is_first = (is_first && !c.is_alphabetic()) || (depth == 1 && c == ',');
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            break;
        }
    }
    names
}

/// Returns the rows of tables with a last column "test" that name no test as `file::test`, or a missing one.
fn unproven_rows(page: &str, tests: &[(String, String)]) -> Vec<String> {
    let (mut faults, mut in_table) = (Vec::new(), false);
    for line in page.lines() {
        let cell = line.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
        let is_row = in_table && line.starts_with("| ");
        in_table = line.starts_with('|') && (in_table || cell.trim() == "test");
        let mut names = cell.split('`').skip(1).step_by(2).filter(|_| is_row).peekable();
        if is_row && names.peek().is_none() && !line.contains("cannot be shown") {
            faults.push(format!("docs/guarantees.md: no test: {line}"));
        }
        let exists = |name: &str| {
            let (module, test) = (name.split("::").next().unwrap_or(name), name.rsplit("::").next().unwrap_or(name));
            let test = format!("fn {test}(");
            tests.iter().any(|(path, text)| path.split(['/', '.']).any(|part| part == module) && text.contains(&test))
        };
        faults.extend(names.filter(|name| !exists(name)).map(|name| format!("docs/guarantees.md: no test `{name}`")));
    }
    faults
}

/// Returns the path below `folder` and the text of each Rust file in it.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut sources, mut paths) = (Vec::new(), vec![root.clone()]);
    while let Some(path) = paths.pop() {
        if let Ok(entries) = fs::read_dir(&path) {
            paths.extend(entries.map(|entry| entry.expect("an entry of the directory").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).expect("a path below the root").to_string_lossy().replace('\\', "/");
            sources.push((name, fs::read_to_string(path).expect("the source is UTF-8")));
        }
    }
    sources
}

#[test]
fn modules_use_only_what_the_tables_allow() {
    let sources = sources("src");
    assert!(sources.len() > 30, "found only {} sources", sources.len());
    let faults: Vec<_> = sources.iter().flat_map(|(path, text)| forbidden_uses(path, text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let broken = ["crate::cache::A", "crate::{os::{self, A}, cache}", "super::cache::A", "memmap2", "crate::A"];
    assert_eq!(broken.map(|code| forbidden_uses("error.rs", code).len()), [1; 5]);
    assert_eq!(forbidden_uses("protocol/slot.rs", "use std::sync::Mutex; use crate::os;").len(), 2);
    assert_eq!(forbidden_uses("pool.rs", "").len(), 1, "a module that MODULES does not list");
}

#[test]
fn guarantees_name_existing_tests() {
    let faults = unproven_rows(include_str!("../../docs/guarantees.md"), &[sources("tests"), sources("src")].concat());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let tests = [("it/open.rs".to_owned(), "fn a() {}".to_owned())];
    let faults = |cell| unproven_rows(&format!("| what | test |\n|---|---|\n| row | {cell} |\n"), &tests).len();
    assert_eq!(["`open::a`", "cannot be shown", "", "`open::b`", "`open::a`, `read::a`"].map(faults), [0, 0, 1, 1, 1]);
}
