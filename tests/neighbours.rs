//! One noisy connection and small requests beside it. Alone in its program, so that no other test takes its time.

mod support;

use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::*;

/// Small requests of a window, and how often one is sent.
const REQUESTS: usize = 100;
const EVERY: Duration = Duration::from_millis(10);
/// How many times as long the 99th percentile may be beside the tunnel as in quiet, or as without hawkey at the same time: the ends of
/// the tunnel keep a small machine busy too.
const RATIO_MAX: f64 = 10.0;
/// Pairs of windows, of which the median counts: the machine may be busy with others now and then.
const TRIES: usize = 5;
/// What must go through a tunnel in a window before that counts as saturating.
const BYTES_MIN: u64 = 50_000_000;

#[test]
fn a_saturating_tunnel_leaves_small_requests_within_10_times_their_time() {
    let (origin, tunnels) = (Origin::saying("small"), Origin::by_hand());
    let proxy = Proxy::start(&format!(
        "[[route]]\nmatch = \"/\"\nto = \"{origin}\"\n[[route]]\nmatch = \"/tunnel\"\nto = \"{tunnels}\""
    ));
    let mut clients = [Client::connect(&proxy), Client::to(origin.to_string().parse().expect("an address"))];
    let mut ratios: Vec<f64> = (0..3 * TRIES)
        .filter_map(|_| {
            let [quiet, _] = p99s(&mut clients);
            let tunnel = Saturated::new(&proxy, &tunnels);
            let before = MOVED.load(Ordering::Relaxed);
            let [beside, direct] = p99s(&mut clients);
            let bytes = MOVED.load(Ordering::Relaxed) - before;
            tunnel.end();
            println!(
                "p99 {quiet:?} in quiet, {beside:?} beside a tunnel with {bytes} bytes, {direct:?} then without hawkey"
            );
            (bytes >= BYTES_MIN).then(|| beside.as_secs_f64() / quiet.max(direct).as_secs_f64())
        })
        .take(TRIES)
        .collect();
    assert_eq!(ratios.len(), TRIES, "times beside a tunnel with at least {BYTES_MIN} bytes in that second");
    ratios.sort_by(f64::total_cmp);
    let median = ratios[TRIES / 2];
    assert!(median <= RATIO_MAX, "expected at most {RATIO_MAX} times the quiet time, came {median:.1}: {ratios:.1?}");
}

/// For each client, the 99th percentile of what small requests take, but for the time in which the machine woke nobody. They take turns;
/// those of the first are sent at their times, however long the one before took.
fn p99s(clients: &mut [Client; 2]) -> [Duration; 2] {
    let watch = Watch::start();
    let begun = Instant::now();
    let mut took = [Vec::new(), Vec::new()];
    for number in 0..REQUESTS as u32 {
        for (place, client) in clients.iter_mut().enumerate() {
            let due = begun + number * EVERY + place as u32 * EVERY / 2;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // The second waits for the first, and is no slower for that.
            let begun = if place == 0 { due } else { Instant::now() };
            assert_eq!(client.get("/").text(), "small");
            took[place].push((begun, Instant::now()));
        }
    }
    let late_naps = watch.late_naps();
    let without_naps = |(begun, ended): (Instant, Instant)| {
        let lost = late_naps.iter().map(|(due, woken)| ended.min(*woken).saturating_duration_since(begun.max(*due)));
        (ended - begun).saturating_sub(lost.sum())
    };
    took.map(|times| {
        let mut times: Vec<_> = times.into_iter().map(without_naps).collect();
        times.sort();
        times[REQUESTS * 99 / 100 - 1]
    })
}

/// A tunnel with all the bytes in both directions that it takes.
struct Saturated {
    ends: [Wire; 2],
    pumps: Vec<thread::JoinHandle<()>>,
}

/// Bytes that have come out of tunnels.
static MOVED: AtomicU64 = AtomicU64::new(0);

impl Saturated {
    fn new(proxy: &Proxy, tunnels: &Origin) -> Saturated {
        let (client, upstream) = tunnel(proxy, tunnels);
        let ends = [client.writer(), upstream.writer()];
        let pumps = ends.iter().flat_map(|end| [end.writer(), end.writer()]).zip([false, true].into_iter().cycle());
        let pumps = pumps.map(|(end, reads)| thread::spawn(move || pump(&end, reads))).collect();
        let before = MOVED.load(Ordering::Relaxed);
        eventually("the tunnel is busy", || MOVED.load(Ordering::Relaxed) - before > BYTES_MIN);
        Saturated { ends, pumps }
    }

    fn end(self) {
        for end in &self.ends {
            // The other end may have been told already.
            let _ = end.socket().shutdown(Shutdown::Both);
        }
        self.pumps.into_iter().for_each(|pump| pump.join().expect("a pump ends with its tunnel"));
    }
}

/// Sends without end, or reads until the end. It stands back a little behind all others: on a machine of few cores the small
/// requests are to wait for hawkey, not for the ends of the tunnel. Any more, and these would no longer saturate anything.
fn pump(end: &Wire, reads: bool) {
    let _ = rustix::process::nice(5);
    let mut bytes = vec![0; 1 << 18];
    if reads {
        while let Ok(count @ 1..) = std::io::Read::read(&mut end.socket(), &mut bytes) {
            MOVED.fetch_add(count as u64, Ordering::Relaxed);
        }
    } else {
        while end.try_send(&bytes).is_ok() {}
    }
}
