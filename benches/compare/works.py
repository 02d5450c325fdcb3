"""What is measured, and what hawkey is held to: the rows of the table.

A target is a sentence and a function from the figures to hawkey's figure and whether it is met. Ratios are compared as they are shown,
with two decimals.
"""

import dataclasses
import random
import statistics

FLOOR, HAWKEY, NGINX, HAPROXY = "relay", "hawkey", ("nginx", "nginx_64k"), ("haproxy", "haproxy_splice")

ECHO, ECHO_16K, GET, GET_BROWSER, GET_10K = "echo", "echo_16k", "get", "get_browser", "get_10k"
BULK_TUNNEL, BULK_DOWNLOAD, DIAL, BESIDE = "bulk_tunnel", "bulk_download", "dial", "beside"


@dataclasses.dataclass(frozen=True)
class Work:
    """Something that clients do in slices, and what its cost is divided by."""

    key: str
    title: str
    groups: tuple
    per_byte: bool = False


WORKS = [
    Work(ECHO, "32-byte echo", ("echo:64:32",)),
    Work(ECHO_16K, "16 kB echo", ("echo:64:16000",)),
    Work(GET, "GET", ("get:64:100",)),
    Work(GET_BROWSER, "GET, a browser's head", ("get:64:100:browser",)),
    Work(GET_10K, "GET of 10 kB", ("get:64:10000",)),
    Work(BULK_TUNNEL, "a GB through one tunnel", ("stream:1:128",), per_byte=True),
    Work(BULK_DOWNLOAD, "a GB of one download", ("get:1:16777216",), per_byte=True),
    Work(DIAL, "dial, upgrade, message, close", ("dial:16:32",)),
    Work(BESIDE, "echo beside 4 that saturate", ("stream:4:32", "echo:4:32"), per_byte=True),
]

CROWD = 5000
GROWTH = (100, 1000, 5000, 9000)
HALF_HEAD_BYTES = 300


def shuffled(chosen, index):
    """Another order in each round, so that nobody always runs behind the same one."""
    return random.Random(index).sample(chosen, len(chosen))


def ratios_of(costs, others):
    """The ratios round by round."""
    return [one / other for one, other in zip(costs, others, strict=True)]


def median_ratio(costs, others):
    """The median of the ratios round by round."""
    return statistics.median(ratios_of(costs, others))


def standard_error(ratios):
    """By how much their median would differ from run to run on a machine that stays as it is: a bootstrap of the rounds."""
    chance = random.Random(0)
    return statistics.stdev(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(400))


@dataclasses.dataclass
class Row:
    """A line of the table: what is shown for each program, and what hawkey is held to."""

    title: str
    cells: dict
    # (sentence, hawkey's figure, whether it is met)
    targets: list


def rows(figures):
    """All rows for which there are figures."""
    made = []
    for work in WORKS:
        if work.key in figures["works"]:
            made.extend(_beside(figures) if work.key == BESIDE else [_cost(figures, work)])
    if figures.get("crowd"):
        made.append(_crowd(figures["crowd"]))
    memory = figures.get("memory", {})
    for key, title, most in [
        ("idle", "memory of an idle tunnel", 256),
        ("kept", "memory of an idle kept-alive client", 256),
        ("half", "memory of half a request head", 1024),
    ]:
        if key in memory:
            each = {name: figure["each_bytes"] for name, figure in memory[key].items()}
            made.append(_plain(title, each, lambda value: f"{value:,.0f} B", f"≤ {most:,} B", lambda own: own <= most))
    if "idle" in memory:
        left = {name: figure["left_bytes"] / 1024 for name, figure in memory["idle"].items()}
        title = f"memory kept after {CROWD:,} tunnels"
        made.append(_plain(title, left, lambda value: f"{value:,.0f} KiB", "< 512 KiB", lambda own: own < 512))
    if figures.get("start"):
        made.extend(_start(figures["start"]))
    for key, tunnels in [("sleeps_quiet", 0), ("sleeps_crowded", CROWD)]:
        if figures.get(key):
            title = f"wake-ups a second, {tunnels:,} tunnels"
            made.append(_plain(title, figures[key], lambda value: f"{value:.1f}", "0", lambda own: own == 0))
    return [row for row in made if row.cells]


def _plain(title, values, show, sentence, is_met):
    own = values.get(HAWKEY)
    targets = [] if own is None else [(sentence, show(own), is_met(own))]
    return Row(title, {name: show(value) for name, value in values.items()}, targets)


def _cost(figures, work):
    rounds = figures["works"][work.key]
    costs = {name: [one["cost_ns"] for one in told] for name, told in rounds.items() if told[0]["cost_ns"] is not None}
    ratios = {name: median_ratio(told, costs[FLOOR]) for name, told in costs.items()}
    cells = {name: f"{ratio:.2f}" for name, ratio in ratios.items()}
    floor = statistics.median(costs[FLOOR])
    cells[FLOOR] = f"{floor:.2f} s" if work.per_byte else f"{floor / 1000:.1f} µs"
    targets = []
    if HAWKEY in costs:
        for floor_most, peers, most in {
            ECHO: [(1.02, NGINX, 1.00)],
            ECHO_16K: [(1.05, (), 0)],
            GET: [(1.10, NGINX, 0.85), (None, HAPROXY, 0.85)],
            GET_BROWSER: [],
            GET_10K: [(None, NGINX, 0.90), (None, HAPROXY, 0.90)],
            BULK_TUNNEL: [(1.00, (), 0)],
            BULK_DOWNLOAD: [(1.00, (), 0)],
            DIAL: [(None, NGINX, 0.90)],
        }[work.key]:
            if floor_most:
                targets.append(_ratio_target(ratios_of(costs[HAWKEY], costs[FLOOR]), floor_most, " of the floor"))
            peers = [name for name in peers if name in costs]
            if peers:
                worst = max((ratios_of(costs[HAWKEY], costs[name]) for name in peers), key=statistics.median)
                targets.append(_ratio_target(worst, most, " of nginx" if peers[0] in NGINX else " of HAProxy"))
    return Row(f"CPU: {work.title}", cells, targets)


def _ratio_target(ratios, most, of):
    ratio = statistics.median(ratios)
    return f"≤ {most:.2f}{of}", f"{ratio:.2f} ± {standard_error(ratios):.3f}", round(ratio, 2) <= most


def _beside(figures):
    rounds = figures["works"][BESIDE]

    def medians(key):
        return {name: statistics.median(one[key] for one in told) for name, told in rounds.items()}

    p50, p99 = medians("p50_ms"), medians("p99_ms")
    bulk = {
        name: statistics.median(one["bytes"] / one["seconds"] / 1e9 for one in told) for name, told in rounds.items()
    }
    made = [
        _plain("echo p50 beside 4 that saturate", p50, "{:.2f} ms".format, "≤ 0.3 ms", lambda own: own <= 0.3),
        _plain("echo p99 beside 4 that saturate", p99, "{:.2f} ms".format, "≤ 1 ms", lambda own: own <= 1.0),
        _plain("bulk GB/s meanwhile", bulk, "{:.2f}".format, "≥ 1.5", lambda own: own >= 1.5),
    ]
    if HAWKEY in rounds and HAPROXY[0] in rounds:
        ratios = ratios_of(*[[one["p99_ms"] for one in rounds[name]] for name in (HAWKEY, HAPROXY[0])])
        made[1].targets.append(_ratio_target(ratios, 0.50, " of HAProxy"))
    return made


def _crowd(crowd):
    ratios = {name: ratios_of(told["beside"], told["alone"]) for name, told in crowd.items()}
    cells = {name: f"{statistics.median(own):.2f}" for name, own in ratios.items()}
    targets = [_ratio_target(ratios[HAWKEY], 1.02, "")] if HAWKEY in ratios else []
    return Row(f"CPU: 64 tunnels beside {CROWD:,} idle, to without", cells, targets)


def _start(start):
    def values(key, divisor=1.0):
        return {name: figure[key] / divisor for name, figure in start.items() if figure.get(key) is not None}

    mib = 1024 * 1024
    files = {name: figure for name, figure in start.items() if name != FLOOR and "program_bytes" in figure}
    size = _plain(
        "size",
        {name: figure["program_bytes"] / mib for name, figure in files.items()},
        "{:.2f} MiB".format,
        "≤ 1 MiB",
        lambda own: own <= 1,
    )
    for name, figure in files.items():
        size.cells[name] = size.cells[name].replace(" MiB", f" + {figure['libraries_bytes'] / mib:.1f} MiB")
    size.title = "size of the program + libraries"
    return [
        _plain("resident at start", values("resident_bytes", mib), "{:.2f} MiB".format, "≤ 2 MiB", lambda own: own <= 2),
        _plain("of it anonymous", values("anonymous_bytes", mib), "{:.2f} MiB".format, "≤ 1 MiB", lambda own: own <= 1),
        _plain("ready to accept after", values("ready_ms"), "{:.1f} ms".format, "≤ 2 ms", lambda own: round(own, 1) <= 2),
        size,
    ]
