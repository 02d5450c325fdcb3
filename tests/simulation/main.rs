//! Conversations of clients, sessions and origins over simulated connections, thousands of them, each made by a seed.
//!
//! A seed decides everything: who asks what, how it is answered, where bytes are cut and delayed, who leaves when. The sessions
//! are hawkey's own; the clients and origins read to the letter what reaches them and know what is due. So a failing seed
//! is printed, and happens again exactly:
//!
//! ```text
//! scripts/simulate                   100,000 seeds
//! scripts/simulate 5000 2000         5,000 seeds from 2000 on
//! scripts/simulate 1 4711            one seed, with everything that happens in it
//! HAWKEY_SEED=4711 cargo test --test simulation replay -- --nocapture       the same without the script
//! ```
//!
//! `cargo test` runs the seeds from 0 to 1999: every fourth is about plain exchanges, about kept connections, about retries, and
//! about tunnels. In most of them other processes take over what can move, again and again.

mod client;
mod driver;
mod handover;
mod ledger;
mod message;
mod network;
mod origin;
mod prng;
mod scenario;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use scenario::Family;
use world::World;

/// Lines of the trace that are printed with a failure.
const LAST_LINES: usize = 60;
/// Failing seeds that are looked for.
const FAILURES_MAX: usize = 20;

/// What came of a seed, and everything that happened.
fn play(seed: u64, prints: bool) -> (Result<(), String>, Vec<String>) {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let trace = lines.clone();
    let mut world = World::new(
        seed,
        Some(Box::new(move |line| {
            if prints {
                println!("{line}");
            }
            trace.borrow_mut().push(line);
        })),
    );
    let result = run(&mut world);
    (result, lines.take())
}

fn run(world: &mut World) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", words.unwrap_or("without words")))
    })
}

/// Runs the seeds of one family, of those that were asked for; tells all about the first that fails.
fn check_family(family: Family) {
    let asked = |name, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().expect("a number"));
    let (first, seeds) = (asked("HAWKEY_FIRST_SEED", 0), asked("HAWKEY_SEEDS", 2000));
    let of_family = (first..first + seeds).filter(|seed| Family::of(*seed) == family);
    let failing: Vec<_> =
        of_family.filter(|seed| run(&mut World::new(*seed, None)).is_err()).take(FAILURES_MAX).collect();
    let Some(seed) = failing.first() else { return };
    let (result, lines) = play(*seed, false);
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    panic!(
        "seed {seed} ({family:?}) fails: {}\n\nThe last of what happened:\n{last}\n\nAll of it again: scripts/simulate 1 {seed}\nFailing seeds: {failing:?}",
        result.err().unwrap_or_else(|| "only without a trace".into()),
    );
}

#[test]
fn exchanges() {
    check_family(Family::Exchanges);
}

#[test]
fn kept_connections() {
    check_family(Family::KeptConnections);
}

#[test]
fn retries() {
    check_family(Family::Retries);
}

#[test]
fn tunnels() {
    check_family(Family::Tunnels);
}

/// Prints what hawkey itself says into the trace.
struct Printer;

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("             hawkey: {}", record.args());
    }

    fn flush(&self) {}
}

#[test]
fn replay_is_exact() {
    let asked = std::env::var("HAWKEY_SEED").ok().map(|text| text.parse::<u64>().expect("HAWKEY_SEED is a number"));
    if asked.is_some() {
        log::set_logger(&Printer).expect("nobody else logs");
        log::set_max_level(log::LevelFilter::Trace);
    }
    for seed in asked.map_or(0..40, |seed| seed..seed + 1) {
        let (result, lines) = play(seed, asked.is_some());
        log::set_max_level(log::LevelFilter::Off);
        let (_, again) = play(seed, false);
        let differs = lines.iter().zip(&again).position(|(first, second)| first != second);
        assert_eq!(differs, None, "seed {seed}: line {differs:?} differs when it is played again");
        assert_eq!(lines.len(), again.len(), "seed {seed} is longer or shorter when it is played again");
        if let Err(wrong) = result {
            panic!("seed {seed} ({:?}) fails: {wrong}", Family::of(seed));
        }
    }
}
