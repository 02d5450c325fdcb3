"""The picture of docs/benchmarks.md and the README: what was measured, drawn by matplotlib."""

import math
import statistics

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

import works

COLOURS = {
    "relay": "#9a9a9a",
    "hawkey": "#d1495b",
    "nginx": "#2e7d4f",
    "nginx_64k": "#93c2a5",
    "haproxy": "#30638e",
    "lighttpd": "#e0a030",
}
LEGEND = {"relay": "bare relay", "nginx_64k": "nginx with 64 KiB buffers"}
# A bar beyond this is cut, and its figure says how long it would be.
RATIO_MAX = 3.0
SHORT = {
    works.ECHO: "32-byte\necho",
    works.ECHO_16K: "16 kB\necho",
    works.GET: "GET",
    works.GET_10K: "GET of\n10 kB",
    works.BULK_TUNNEL: "bulk,\ntunnel",
    works.BULK_DOWNLOAD: "bulk,\ndownload",
    works.DIAL: "dial and\nclose",
}


def draw(path, figures, kinds):
    """Draws all figures of a full run to an SVG file."""
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "hawkey"})
    titles = {kind.key: kind.title for kind in kinds}
    picture, axes = pyplot.subplots(2, 3, figsize=(11, 6.4), height_ratios=(1.15, 1), layout="constrained")
    wide = axes[0, 0].get_gridspec()
    for each in axes[0]:
        each.remove()
    _costs(picture.add_subplot(wide[0, :]), figures)
    _bars(axes[1, 0], "memory of an idle tunnel, bytes", _memory(figures), "{:,.0f}")
    _bars(axes[1, 1], "echo p99 beside 4 tunnels that saturate, ms", _latency(figures), "{:.1f}")
    _growth(axes[1, 2], figures["growth"])
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    labels = [LEGEND.get(name, titles[name]) for name in COLOURS]
    picture.legend(handles, labels, loc="outside upper center", ncols=len(COLOURS), frameon=False)
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)


def _costs(axes, figures):
    names = [name for name in COLOURS if name != works.FLOOR]
    width = 0.8 / len(names)
    for at, key in enumerate(SHORT):
        rounds = figures["works"][key]
        floor = [one["cost_ns"] for one in rounds[works.FLOOR]]
        for index, name in enumerate(names):
            ratio = works.median_ratio([one["cost_ns"] for one in rounds[name]], floor)
            left = at - 0.4 + (index + 0.5) * width
            axes.bar(left, min(ratio, RATIO_MAX), width * 0.92, color=COLOURS[name])
            axes.text(left, min(ratio, RATIO_MAX) + 0.03, f"{ratio:.2f}", ha="center", va="bottom", fontsize=6)
    axes.axhline(1, color=COLOURS[works.FLOOR], linewidth=1.2, zorder=0)
    axes.set_ylim(0, RATIO_MAX + 0.3)
    axes.set_xticks(range(len(SHORT)), SHORT.values())
    axes.set_title("CPU of the proxy, to that of a bare relay that parses nothing (lower is better)", fontsize=9)


def _memory(figures):
    return {name: told["each_bytes"] for name, told in figures["memory"]["idle"].items() if name in COLOURS}


def _latency(figures):
    rounds = figures["works"][works.BESIDE]
    return {name: statistics.median(one["p99_ms"] for one in told) for name, told in rounds.items() if name in COLOURS}


def _bars(axes, title, values, show):
    names = [name for name in COLOURS if name in values]
    bars = axes.bar(range(len(names)), [values[name] for name in names], color=[COLOURS[name] for name in names])
    axes.bar_label(bars, [show.format(values[name]) for name in names], fontsize=7, padding=1)
    axes.set_xticks([])
    axes.set_title(title, fontsize=9)
    # From the power of ten below the least, so that each program has a bar.
    axes.set_yscale("log")
    axes.set_ylim(10 ** math.floor(math.log10(min(values.values())) - 0.1), max(values.values()) * 2)
    axes.minorticks_off()


def _growth(axes, growth):
    for name in COLOURS:
        if name in growth:
            tunnels = sorted(map(int, growth[name]))
            costs = [statistics.median(growth[name][number]) / 1000 for number in tunnels]
            axes.plot(tunnels, costs, color=COLOURS[name], marker="o", markersize=3)
    axes.set_xscale("log")
    axes.set_xticks(works.GROWTH, [f"{number / 1000:g}k" if number >= 1000 else f"{number}" for number in works.GROWTH])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title("CPU of an echo among so many tunnels, µs", fontsize=9)
