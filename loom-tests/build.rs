//! Generates the twins of `twins.rs`: for each, a module with a copy of the protocol and the models, and one fault in
//! it.

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
        .map(|path| (name_in_crate(&here, &path), fs::read_to_string(&path).expect("cannot read a source file")))
        .collect();

    // An earlier build may have generated twins that no longer exist.
    if target.exists() {
        fs::remove_dir_all(&target).expect("cannot remove OUT_DIR/twins");
    }
    fs::create_dir_all(&target).expect("cannot create OUT_DIR/twins");
    let mut modules = String::new();
    for twin in table::TWINS {
        write_twin(twin, &sources, &target.join(twin.name));
        modules += &module(twin, &target.join(twin.name));
    }
    modules += &format!("pub const GENERATED: usize = {};\n", table::TWINS.len());
    fs::write(target.join("mod.rs"), modules).expect("cannot write OUT_DIR/twins/mod.rs");
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).expect("cannot list a source directory");
    entries
        .map(|entry| entry.expect("cannot read a directory entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}

/// Returns the path of a source file as `twins.rs` names it, such as `protocol/slot.rs` or `models/slot.rs`.
fn name_in_crate(here: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(here.join("src")).or_else(|_| path.strip_prefix(here.join("../src")));
    inside.expect("a path below one of the two roots").to_str().expect("a path in UTF-8").replace('\\', "/")
}

fn write_twin(twin: &table::Twin, sources: &[(String, String)], folder: &Path) {
    let mut changes = 0;
    let (model, _) = twin.model.split_once("::").expect("a model named `module::function`");
    for (name, source) in sources {
        let mut source = source.clone();
        if name == "models/mod.rs" {
            // Keep only the module of the twin's model, to shorten the compilation of the many twins.
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
        // In a copy, the crate root is the twin's module. Unit tests of the protocol are removed: they do not run on
        // loom.
        let source = source
            .replace("crate::", &format!("crate::generated::{}::", twin.name))
            .replace("#[cfg(test)]", "#[cfg(any())]");
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a file below the twin's directory"))
            .expect("cannot create a directory");
        fs::write(path, source).expect("cannot write a twin's file");
    }
    assert_eq!(changes, 1, "twin {}: its `from` text must occur in {} exactly once", twin.name, twin.file);
}

fn module(twin: &table::Twin, folder: &Path) -> String {
    let table::Twin { name, model, says, .. } = twin;
    let folder = folder.to_str().expect("a path in UTF-8");
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
