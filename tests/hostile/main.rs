//! One reading: what hostile clients and upstreams send, and what hawkey makes of it.
//!
//! Each vector of `*.txt` is played twice: to a real hawkey process over sockets, followed by a canary request and with a second
//! client beside it, in front of an upstream with a strict parser of its own; and to a session in memory, whole, byte by
//! byte, and cut in two at every byte. `README.md` tells the format.

mod judge;
mod memory;
mod network;
mod reading;
#[path = "../support/mod.rs"]
mod support;
mod vector;

use std::collections::BTreeMap;

use vector::Vector;

/// Plays the vectors of a file and tells how many there are, of which there must be at least `least`.
fn play(what: &str, text: &str, least: usize) {
    let vectors = vector::parse(text).unwrap_or_else(|error| panic!("{what}.txt:{error}"));
    assert!(vectors.len() >= least, "expected at least {least} {what}, came {}", vectors.len());
    let (ways, cut_wrong, tally) = std::thread::scope(|scope| {
        let in_memory = scope.spawn(|| cut_everywhere(&vectors));
        let tally = network::play_all(&vectors);
        let (ways, wrong) = in_memory.join().expect("the vectors are played in memory");
        (ways, wrong, tally)
    });
    let wrong: BTreeMap<_, _> = tally.wrong.iter().chain(&cut_wrong).map(|(index, why)| (index, why)).collect();
    let double = wrong.values().filter(|why| why.contains("a double reading")).count();
    println!(
        "{what} {}: parser failures {}, double readings {double}, handled cleanly {} of {} ({ways} ways in memory)",
        vectors.len(),
        tally.parser_failures.len(),
        vectors.len() - wrong.len(),
        vectors.len(),
    );
    let shown: Vec<_> = wrong.values().take(20).map(|why| format!("{what}.txt:{why}")).collect();
    assert!(wrong.is_empty(), "{} vectors\n\n{}", wrong.len(), shown.join("\n\n"));
    assert!(tally.parser_failures.is_empty(), "the upstream could not read:\n{}", tally.parser_failures.join("\n"));
}

/// In how many ways they were played, and which went wrong.
fn cut_everywhere(vectors: &[Vector]) -> (usize, Vec<(usize, String)>) {
    let policy = memory::policy();
    let (mut ways, mut wrong) = (0, Vec::new());
    for (index, vector) in vectors.iter().enumerate() {
        match memory::play_every_way(vector, &policy) {
            Ok(count) => ways += count,
            Err(why) => wrong.push((index, format!("{vector}\n{why}"))),
        }
    }
    (ways, wrong)
}

/// Plays the many vectors of a file in memory alone, whole and byte by byte.
fn sweep(what: &str, text: &str, least: usize) {
    let policy = memory::policy();
    let (mut count, mut ways, mut wrong) = (0, 0, Vec::new());
    let read = vector::each_template(text, |vectors| {
        for vector in vectors {
            count += 1;
            match memory::play_both_ways(&vector, &policy) {
                Ok(played) => ways += played,
                Err(why) => wrong.push(format!("{what}.txt:{vector}\n{why}")),
            }
        }
    });
    read.unwrap_or_else(|error| panic!("{what}.txt:{error}"));
    println!("{what} {count}: handled cleanly {} of {count} ({ways} ways in memory)", count - wrong.len());
    assert!(count >= least, "expected at least {least} {what}, came {count}");
    assert!(wrong.is_empty(), "{} vectors\n\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n\n"));
}

#[test]
fn sweeps() {
    sweep("sweeps", include_str!("sweeps.txt"), 90_000);
}

#[test]
fn requests() {
    play("requests", include_str!("requests.txt"), 5000);
}

#[test]
fn responses() {
    play("responses", include_str!("responses.txt"), 1000);
}

#[test]
fn upgrades() {
    play("upgrades", include_str!("upgrades.txt"), 400);
}
