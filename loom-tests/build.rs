//! Writes the broken twins: for each, a copy of the protocol and of the models with one change, as a module of its own.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "twins.rs"]
mod table;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("twins");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=twins.rs");
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=../src/protocol");

    let sources: Vec<(String, String)> = ["src/epoch.rs", "src/sync.rs", "src/models", "../src/protocol"]
        .into_iter()
        .flat_map(|root| rust_files(&here.join(root)))
        .map(|path| (name_in_crate(&here, &path), fs::read_to_string(&path).expect("a source that can be read")))
        .collect();

    // What an earlier build wrote may be of twins that are gone.
    if target.exists() {
        fs::remove_dir_all(&target).expect("a folder of our own");
    }
    fs::create_dir_all(&target).expect("a folder of our own");
    let mut modules = String::new();
    for twin in table::TWINS {
        write_twin(twin, &sources, &target.join(twin.name));
        modules += &module(twin, &target.join(twin.name));
    }
    modules += &format!("pub const WRITTEN: usize = {};\n", table::TWINS.len());
    fs::write(target.join("mod.rs"), modules).expect("a folder of our own");
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).expect("a folder of sources");
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}

/// `protocol/slot.rs` and `models/slot.rs`, wherever they are.
fn name_in_crate(here: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(here.join("src")).or_else(|_| path.strip_prefix(here.join("../src")));
    inside.expect("one of the two roots").to_str().expect("a plain name").replace('\\', "/")
}

fn write_twin(twin: &table::Twin, sources: &[(String, String)], folder: &Path) {
    let mut changes = 0;
    let (model, _) = twin.model.split_once("::").expect("a model's path");
    for (name, source) in sources {
        let mut source = source.clone();
        if name == "models/mod.rs" {
            // The one that is used: there are many twins to compile.
            source = source
                .lines()
                .filter(|line| !line.starts_with("pub mod") || line.contains(model))
                .collect::<Vec<_>>()
                .join("\n");
        }
        if name == twin.file {
            changes = source.matches(twin.from).count();
            source = source.replace(twin.from, twin.to);
        }
        // Their root is a module here; and the protocol's own unit tests are not for loom.
        let source = source
            .replace("crate::", &format!("crate::written::{}::", twin.name))
            .replace("#[cfg(test)]", "#[cfg(any())]");
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of our own");
        fs::write(path, source).expect("a folder of our own");
    }
    assert_eq!(changes, 1, "twin {}: what it changes has to stand in {} once", twin.name, twin.file);
}

fn module(twin: &table::Twin, folder: &Path) -> String {
    let table::Twin { name, model, says, .. } = twin;
    let folder = folder.to_str().expect("a plain name");
    format!(
        "mod {name} {{\n\
         #[path = {protocol:?}] mod protocol;\n\
         #[path = {sync:?}] mod sync;\n\
         #[path = {epoch:?}] pub(crate) mod epoch;\n\
         #[path = {models:?}] mod models;\n\
         #[test] fn fails() {{ crate::must_fail(models::{model}, {says:?}); }}\n\
         }}\n",
        protocol = format!("{folder}/protocol/mod.rs"),
        sync = format!("{folder}/sync.rs"),
        epoch = format!("{folder}/epoch.rs"),
        models = format!("{folder}/models/mod.rs"),
    )
}
