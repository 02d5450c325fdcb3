"""The tables, in the terminal and in docs/benchmarks.md."""

import pathlib
import platform
import statistics

import works

VERDICTS = {True: "met", False: "MISSED"}


def _own_first(kinds):
    return sorted(kinds, key=lambda kind: kind.key != works.HAWKEY)


def lines(kinds, rows):
    """The heads and the lines of a table, hawkey's targets last."""
    columns = _own_first(kind for kind in kinds if any(kind.key in row.cells for row in rows))
    heads = ["", *[kind.title for kind in columns], "hawkey's target", "", ""]
    table = []
    for row in rows:
        cells = [row.title, *[row.cells.get(kind.key, "-") for kind in columns]]
        for sentence, own, is_met in row.targets or [("", "", None)]:
            table.append([*cells, sentence, own, VERDICTS.get(is_met, "")])
            cells = [""] * len(cells)
    return heads, table


def text(kinds, rows):
    """The table for a terminal."""
    return aligned(*lines(kinds, rows))


def markdown(kinds, rows):
    """The table for docs/benchmarks.md."""
    heads, table = lines(kinds, rows)
    table = [[f"**{cell}**" if cell == VERDICTS[False] else cell for cell in line] for line in table]
    return as_markdown(heads, table)


def verdict(rows):
    """How many targets are met."""
    met = [is_met for row in rows for _, _, is_met in row.targets]
    return f"{sum(met)} of {len(met)} targets met"


def machine():
    """The machine, as it matters here."""
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = pathlib.Path("/sys/devices/system/cpu/online").read_text().strip()
    is_virtual = " hypervisor" in pathlib.Path("/proc/cpuinfo").read_text()
    release = platform.release().partition("-")[0]
    return f"{model}, cores {cores}{', virtual' if is_virtual else ''}, Linux {release}, {platform.machine()}"


def load_lines(told, all_kinds, all_works):
    """Whether the load was faster than what it measured, work by work."""
    titles = {kind.key: kind.title for kind in all_kinds}
    for work in all_works:
        if work.key in told:
            check = told[work.key]
            scale, unit = (1e9, " GB/s") if work.per_byte else (1e3, ",000/s")
            alone, through = check["direct_rate"] / scale, check["fastest_rate"] / scale
            digits = 1 if work.per_byte else 0
            yield [
                work.title,
                f"{alone:.{digits}f}{unit}",
                f"{through:.{digits}f}{unit} ({titles[check['fastest']]})",
                f"{check['proxy_busy']:.0%}",
                f"{check['load_busy']:.0%}",
                "" if alone > through else "NOT faster",
            ]


def growth_lines(growth, all_kinds):
    """The heads and the lines of a table: what an echo costs beside ever more tunnels, as a ratio to the floor and of that as a time."""
    columns = _own_first(kind for kind in all_kinds if kind.key in growth)
    floor = growth[works.FLOOR]

    def cell(kind, tunnels):
        costs = growth[kind.key].get(tunnels)
        if not costs:
            return "-"
        if kind.key == works.FLOOR:
            return f"{statistics.median(costs) / 1000:.1f} µs"
        return f"{works.median_ratio(costs, floor[tunnels]):.2f}"

    table = [[f"{tunnels:,}", *[cell(kind, tunnels) for kind in columns]] for tunnels in floor]
    return ["tunnels", *[kind.title for kind in columns]], table


LOAD_HEADS = ["", "without a proxy", "by the fastest proxy", "its core busy", "the load's core busy", ""]


def aligned(heads, table):
    """A table for a terminal."""
    widths = [max(len(line[at]) for line in [heads, *table]) for at in range(len(heads))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in [heads, *table])


def as_markdown(heads, table):
    """A table for a document."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *table])


def publish_bench(docs, told, all_kinds, all_works, rows):
    """Writes the picture and the tables of a full run."""
    import picture

    picture.draw(docs / "benchmarks.svg", told["figures"], all_kinds)
    settings = told["settings"]
    names = ", ".join(f"{title} {number}" for title, number in told["versions"].items())
    publish(
        docs / "benchmarks.md",
        "bench",
        f"{told['date']}: {told['machine']}; {names}. {settings['rounds']} rounds of {settings['slice_ms']} ms.\n\n"
        f"{markdown(all_kinds, rows)}\n\n{verdict(rows)}.\n\nThe load against itself:\n\n"
        f"{as_markdown(LOAD_HEADS, list(load_lines(told['figures']['load'], all_kinds, all_works)))}\n\n"
        "CPU of the 32-byte echo on 64 tunnels, beside ever more idle ones:\n\n"
        f"{as_markdown(*growth_lines(told['figures']['growth'], all_kinds))}",
    )


def publish_count(docs, told, all_kinds, rows):
    """Writes the table of counts."""
    names = ", ".join(f"{title} {number}" for title, number in told["versions"].items())
    publish(docs / "benchmarks.md", "count", f"{told['date']}: {names}.\n\n{markdown(all_kinds, rows)}\n\n{verdict(rows)}.")


def publish(path, marker, body):
    """Puts the body between the marker's lines of a Markdown file."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->\n"
    whole = path.read_text()
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{path} has no lines {begin.strip()} and {end.strip()}")
    path.write_text(f"{before}{begin}{body.strip()}\n{end}{after}")
