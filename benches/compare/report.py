"""The table in the terminal, as Markdown and in docs/benchmarks.md."""

import pathlib
import platform

VERDICTS = {True: "met", False: "MISSED"}


def _columns(kinds, rows):
    return [kind for kind in kinds if any(kind.key in row.cells for row in rows)]


def lines(kinds, rows):
    """The heads and the lines of a table, hawkey's targets last."""
    columns = sorted(_columns(kinds, rows), key=lambda kind: kind.key != "hawkey")
    heads = ["", *[kind.title for kind in columns], "target", "hawkey", ""]
    table = []
    for row in rows:
        cells = [row.title, *[row.cells.get(kind.key, "-") for kind in columns]]
        for sentence, own, is_met in row.targets or [("", "", None)]:
            table.append([*cells, sentence, own, VERDICTS.get(is_met, "")])
            cells = [""] * len(cells)
    return heads, table


def text(kinds, rows):
    """The table for a terminal."""
    heads, table = lines(kinds, rows)
    widths = [max(len(line[at]) for line in [heads, *table]) for at in range(len(heads))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in [heads, *table])


def markdown(kinds, rows):
    """The table for docs/benchmarks.md."""
    heads, table = lines(kinds, rows)
    table = [[f"**{cell}**" if cell == VERDICTS[False] else cell for cell in line] for line in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *table])


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


def publish(path, marker, body):
    """Puts the body between the marker's lines of a Markdown file."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->\n"
    whole = path.read_text()
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{path} has no lines {begin.strip()} and {end.strip()}")
    path.write_text(f"{before}{begin}{body.strip()}\n{end}{after}")
