//! The seeds of the fuzz targets and what was found by them, each fed to its target: what has been mended stays mended.
//!
//! `scripts/fuzz` looks for more.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    files.sort();
    files
}

#[test]
fn every_seed_holds() {
    let mut failed = Vec::new();
    for (target, body) in bodies::ALL {
        let files = seeds(target);
        assert!(files.len() >= 10, "{target}: only {} seeds", files.len());
        for file in &files {
            let input = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if catch_unwind(|| body(&input)).is_err() {
                failed.push(file.clone());
            }
        }
        println!("{target}: {} seeds", files.len());
    }
    assert!(failed.is_empty(), "{} seeds fail, each for the reason above: {failed:?}", failed.len());
}

#[test]
fn every_target_has_a_body_and_every_folder_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let known: Vec<String> = bodies::ALL.iter().map(|(target, _)| (*target).to_owned()).collect();
    for (folder, suffix) in [("fuzz_targets", ".rs"), ("seeds", "")] {
        let entries = fs::read_dir(fuzz.join(folder)).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .map(|name| name.trim_end_matches(suffix).to_owned())
            .collect();
        names.sort();
        let mut known = known.clone();
        known.sort();
        assert_eq!(names, known, "what is in fuzz/{folder}, and the targets that have a body");
    }
}
