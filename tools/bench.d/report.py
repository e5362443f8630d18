"""What the rounds say: a table, the marks, a plot."""

import operator
import re
import statistics
import subprocess

import cases
import subjects

_REFERENCE = "haproxy"
_FLOOR = "direct"
_TITLES = {subject.name: subject.title for subject in subjects.ALL}
_HEADERLESS = [subject.name for subject in subjects.ALL if not subject.header]

# (subject, what it is compared with, cases, metric, what is wanted): of the
# other's value; with a "+", more than it at most; with a unit, itself.
_MARKS = (
    ("splice", "haproxy", r"bulk-(down|up)-1", "gbps", ">= 1.10"),
    ("splice", "haproxy", r"bulk-(down|up)-8", "gbps", ">= 1.50"),
    ("splice", "haproxy", r"bulk-(down|up)-64", "gbps", ">= 1.20"),
    ("splice", "haproxy", r"bulk-.*", "cpu_per_gb", "<= 0.70"),
    ("splice", "haproxy", r"slow-.*", "gbps", ">= 1.00"),
    ("splice", "haproxy", r"echo-64-1", "rate", ">= 1.00"),
    ("splice", "haproxy", r"echo-64-(64|1000)", "rate", ">= 1.10"),
    ("splice", "haproxy", r"echo-64-(64|1000)", "p99_us", "<= 1.00"),
    ("splice", "haproxy", r"connect", "rate", ">= 1.30"),
    ("splice", "haproxy", r"greeting", "p(50|99)_us", "<= 1.00"),
    ("splice", "", r"idle", "user_bytes", "<= 1024 B"),
    ("splice", "haproxy", r"idle", "kernel_bytes", "<= 1.00"),
    ("packet", "routing", r"bulk-(down|up)-1", "gbps", ">= 0.90"),
    ("packet", "routing", r"bulk-(down|up)-(8|64)", "gbps", ">= 0.95"),
    ("packet", "routing", r"echo-64-(1|64)", "rate", ">= 0.95"),
    ("packet", "routing", r"connect", "rate", ">= 0.95"),
    ("packet", "routing", r"greeting", "p50_us", "<= +10"),
    ("packet", "haproxy", r"bulk-.*", "gbps", ">= 1.50"),
    ("packet", "haproxy", r"bulk-.*", "cpu_per_gb", "<= 0.50"),
    ("packet", "haproxy", r"connect", "rate", ">= 1.50"),
    ("packet", "", r"program", r"data_(in|out)_ns", "< 150 ns"),
    ("packet", "", r"growth", r".*_growth", "< 30 %"),
    ("packet", "", r"growth", r"flow_bytes", "<= 256 B"),
    ("packet-xdp", "", r"program", r"data_(in|out)_ns", "< 150 ns"),
)

_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt}

_PLOTTED = (
    *((f"bulk-{direction}-{n}", "gbps") for direction in ("down", "up")
      for n in (1, 8, 64)),
    ("slow-down-64", "gbps"), ("slow-up-64", "gbps"),
    *((f"echo-64-{n}", "rate") for n in (1, 64, 1000)),
    ("connect", "rate"),
)


class Results:
    def __init__(self, rounds):
        self._values = {}  # (case, subject, metric): {round: value}
        for entry in rounds:
            for metric, value in entry["metrics"].items():
                key = entry["case"], entry["subject"], metric
                self._values.setdefault(key, {})[entry["round"]] = value
        self.subjects = [name for name in _TITLES if
                         any(key[1] == name for key in self._values)]

    def values(self, case, subject, metric):
        return list(self._values.get((case, subject, metric), {}).values())

    def pairs(self, case, subject, metric, reference):
        """Of the same round: what the machine did to one, it most likely did
        to the other."""
        others = self._values.get((case, reference, metric), {})
        mine = self._values.get((case, subject, metric), {})
        return [(value, others[number]) for number, value in mine.items()
                if others.get(number)]

    def ratios(self, case, subject, metric, reference=_REFERENCE):
        return [mine / other for mine, other in
                self.pairs(case, subject, metric, reference)]


def write(result, path):
    """Prints the report; writes PATH.md and PATH.png."""
    results = Results(result["rounds"])
    text = "\n".join([*_heading(result), *_table(results), "",
                      *_marks(results), *_failures(result)])
    print(f"\n{text}\n")
    with open(f"{path}.md", "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    written = [f"{path}.json", f"{path}.md"]
    if _plot(results, f"{path}.png"):
        written.append(f"{path}.png")
    print("written:", *written, sep="\n  ")


def _heading(result):
    machine = result["machine"]
    rounds = max((entry["round"] for entry in result["rounds"]), default=0)
    yield f"# Side by side, {result['date'][:16].replace('T', ' ')}"
    yield ""
    yield (f"{machine['cores']} cores ({machine['cpu']}), Linux "
           f"{machine['kernel']}; load average at the end "
           f"{machine['load_average']:.1f}. {rounds} rounds, interleaved, "
           f"{result['seconds']['window']} s each after "
           f"{result['seconds']['warmup']} s of warm-up.")
    yield ""
    for name, version in result["versions"].items():
        header = "no" if name in _HEADERLESS else "with"
        yield f"- {_TITLES[name]}: {version}; {header} PROXY header"
    for mode, rate in result["slow_receivers_bytes_per_second"].items():
        yield (f"- slow receivers take {rate * 8 / 1e9:.2f} Gb/s together "
               f"({mode}), half of what HAProxy's senders sent")
    yield ""
    yield ("Median (min..max) of the rounds; then the ratio to HAProxy, the "
           "median of each round's. Server and client stand on the machine, "
           "too: their share of CPU and kernel memory is what no forwarder "
           "shows, and it bounds what any forwarder can reach. Own CPU is "
           "that of the forwarder's processes, which the kernel's work for it "
           "need not be part of.")
    yield ""


def _table(results):
    rows = [["case", "metric", *(_TITLES[name] for name in results.subjects)]]
    for case in cases.ALL:
        for metric in case.metrics:
            cells = [_cell(results, case.name, name, metric)
                     for name in results.subjects]
            if any(cells):
                rows.append([case.title, metric.title, *cells])
    widths = [max(len(row[column]) for row in rows)
              for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in
                               zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _cell(results, case, subject, metric):
    values = results.values(case, subject, metric.name)
    if not values:
        return ""
    shown = [f"{value:.{metric.digits}f}" for value in
             (statistics.median(values), min(values), max(values))]
    text = f"{shown[0]} ({shown[1]}..{shown[2]})"
    ratios = results.ratios(case, subject, metric.name)
    if ratios and subject != _REFERENCE:
        text += f" {statistics.median(ratios):.2f}x"
    return text


def _marks(results):
    """Compared as printed: with two decimals."""
    for judged in dict.fromkeys(mark[0] for mark in _MARKS):
        lines = [line for mark in _MARKS if mark[0] == judged
                 for line in _lines_of(results, mark)]
        if not lines:
            continue
        missed = sum("| miss |" in line for line in lines)
        yield (f"{len(lines) - missed} of {len(lines)} marks met by "
               f"{_TITLES[judged]}:")
        yield from ("", f"| | mark | found | wanted | {_TITLES[_FLOOR]} |",
                    "|---|---|---|---|---|", *lines, "")


def _lines_of(results, mark):
    judged, reference, cases_wanted, metric_wanted, wanted = mark
    for case in cases.ALL:
        for metric in case.metrics:
            if re.fullmatch(cases_wanted, case.name) and re.fullmatch(
                    metric_wanted, metric.name):
                yield from _line(results, (case.name, judged, metric.name),
                                 reference, wanted,
                                 f"{case.title}: {metric.title}")


def _line(results, key, reference, wanted, title):
    sign, limit, *unit = wanted.split()
    case, judged, metric = key

    def numbers(subject):
        if unit:
            return results.values(case, subject, metric)
        if limit.startswith("+"):
            return [mine - other for mine, other in
                    results.pairs(case, subject, metric, reference)]
        return results.ratios(case, subject, metric, reference)

    found = numbers(judged)
    if not found:
        return
    digits = 0 if unit or limit.startswith("+") else 2
    suffix = f" {unit[0]}" if unit else "" if limit.startswith("+") else "x"
    if reference:
        suffix += f" of {_TITLES[reference]}" if suffix else \
            f" over {_TITLES[reference]}"
    plus = "+" if limit.startswith("+") else ""
    median = round(statistics.median(found), digits)
    met = _COMPARE[sign](median, float(limit))
    spread = f"{min(found):.{digits}f}..{max(found):.{digits}f}"
    floor = numbers(_FLOOR)
    without = f"{statistics.median(floor):{plus}.{digits}f}" if floor else ""
    yield (f"| {'pass' if met else 'miss'} | {title} | "
           f"{median:{plus}.{digits}f}{suffix} ({spread}) | "
           f"{sign} {limit}{suffix} | {without} |")


def _failures(result):
    if result["failures"]:
        yield ""
        yield "Could not be measured:"
        yield ""
        for failure in result["failures"]:
            yield f"- {failure}"


def _plot(results, path):
    """Throughput and rates as bars around HAProxy's; False when there is
    nothing to compare."""
    plotted = [(case, metric) for case, metric in _PLOTTED
               if results.values(case, _REFERENCE, metric)]
    if not plotted:
        return False
    data = []
    for case, metric in plotted:
        cells = [f'"{case}"']
        for name in results.subjects:
            ratios = results.ratios(case, name, metric)
            cells += ([f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}",
                       f"{max(ratios):.3f}"] if ratios else ["NaN"] * 3)
        data.append(" ".join(cells))
    bars = ", ".join(
        f"$data using {3 * i + 2}:{3 * i + 3}:{3 * i + 4}:xtic(1) "
        f'title "{_TITLES[name]}"' for i, name in enumerate(results.subjects))
    script = "\n".join([
        "$data << EOD", *data, "EOD",
        "set terminal pngcairo size 1500,700 font ',11'",
        f'set output "{path}"',
        "set title 'Throughput and rates, HAProxy = 1 (median, min..max)'",
        "set style histogram errorbars gap 1.5 linewidth 1",
        "set style data histograms", "set style fill solid 0.8 noborder",
        "set errorbars 0.5 linecolor rgb '#404040'",
        "set yrange [0:*]", "set grid y", "set key outside top "
        "center horizontal", "set xtics rotate by -30",
        "set arrow from graph 0, first 1 to graph 1, first 1 nohead front "
        "dashtype 2", f"plot {bars}", ""])
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    return True
