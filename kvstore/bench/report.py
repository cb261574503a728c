"""A result for people: tables as Markdown and text, and one page of HTML with everything in it.

What was missed stands beside what was met, in the order in which it was measured.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from statistics import median

from kvstore.bench.compare import Comparison
from kvstore.bench.plots import draw, slug
from kvstore.bench.result import Case, Result, Spread, machine_lines, number

METHOD = (
    "Each figure is the median of its rounds, with the lowest and the highest. Closed loops show the peak. "
    "Open loops send at times that do not wait for answers, and count latency from then: what a stall delays "
    "is in it. Ratios are of two figures of the same round. Rates mean little elsewhere than on this machine."
)

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}.missed{color:#b00020;font-weight:600}"
    ".met{color:#1b6e2c}img{max-width:100%}small{color:#666}"
)

Table = list[list[str]]


def settings_line(result: Result) -> str:
    return ", ".join(
        f"{name}={' '.join(value) if isinstance(value, list) else value}"
        for name, value in result.settings.items()
    )


def ratio_table(result: Result) -> Table:
    """Empty if there are none."""
    rows = [
        [
            ratio.name,
            str(ratio.spread),
            "" if ratio.bar is None else f"{'≥' if ratio.at_least else '≤'} {ratio.bar:g}",
            ratio.verdict,
        ]
        for ratio in result.ratios
    ]
    return [["ratio", "median (from, to)", "bar", ""], *rows] if rows else []


def case_table(cases: Sequence[Case]) -> Table:
    """One row per case, one column per figure that any of them has."""
    metrics = {case.name: case.metrics() for case in cases}
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    if not any(found["failed"].high for found in metrics.values() if "failed" in found):
        names = [name for name in names if name != "failed"]
    rows = [[case.name, *(_cell(metrics[case.name].get(name)) for name in names)] for case in cases]
    return [["", *(heading(name) for name in names)], *rows]


def kind_table(case: Case) -> Table:
    """Latencies by kind of operation, in milliseconds: medians of the rounds."""
    names = ("count", "p50_ms", "p95_ms", "p99_ms", "p99.9_ms", "max_ms")
    kinds = list(dict.fromkeys(kind for each in case.rounds for kind in each.get("latency", {})))
    rows = []
    for kind in kinds:
        found = [each["latency"][kind] for each in case.rounds if each["latency"].get(kind, {}).get("count")]
        if found:
            rows.append([kind, *(number(median(f[name] for f in found)) for name in names)])
    return [["", *map(heading, names)], *rows]


def together(results: Mapping[str, Result]) -> Result:
    """Several results as one, by names of their own; machine and date are those of the last."""
    if len(results) == 1:
        return next(iter(results.values()))
    whole = Result()
    for name, result in results.items():
        whole.machine, whole.date = result.machine, result.date
        whole.cases += [replace(case, name=f"{case.name} ({name})") for case in result.cases]
        whole.ratios += [replace(ratio, name=f"{ratio.name} ({name})") for ratio in result.ratios]
        whole.skipped |= {f"{what} ({name})": why for what, why in result.skipped.items()}
    return whole


def heading(metric: str) -> str:
    """p99_ms -> p99 ms."""
    return {"per_s": "per s"}.get(metric, metric.replace("_", " ").replace("mib", "MiB"))


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return number(spread.median) if spread.low == spread.high else str(spread)


def comparison_table(comparison: Comparison, *, everything: bool = False) -> Table:
    """What changed; with `everything` what did not, too."""
    rows = [
        [c.case, heading(c.metric), str(c.before), str(c.after), f"{c.change:+.1%}", c.verdict]
        for c in comparison.changes
        if everything or c.verdict != "same"
    ]
    return [["", "figure", "before", "after", "change", ""], *rows] if rows else []


def markdown(result: Result) -> str:
    """Ready for a README: machine, ratios, one table per group."""
    parts = [", ".join(machine_lines(result.machine)) + f"; {result.date}.", METHOD, settings_line(result)]
    if ratios := ratio_table(result):
        parts.append("\n".join(_markdown_rows(ratios)))
    for group, cases in result.groups().items():
        parts.append(f"### {group}")
        parts.append("\n".join(_markdown_rows(case_table(cases))))
    parts += [f"Not measured: {what} ({why})." for what, why in result.skipped.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def text_lines(result: Result) -> Iterator[str]:
    """For a terminal."""
    yield from machine_lines(result.machine)
    yield settings_line(result)
    for group, cases in result.groups().items():
        yield ""
        yield group
        yield from aligned(case_table(cases))
    if ratios := ratio_table(result):
        yield ""
        yield from aligned(ratios)
    for what, why in result.skipped.items():
        yield f"not measured: {what}: {why}"


def aligned(table: Table) -> list[str]:
    """The first column to the left, figures to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _markdown_rows(table: Table) -> Iterator[str]:
    head, *rows = table
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def write_report(result: Result, directory: Path) -> Path:
    """index.html with all plots in it, the plots as PNG beside it, and tables.md. Raises ConfigError."""
    plots = draw(result, directory)
    (directory / "tables.md").write_text(markdown(result), "utf-8")
    page = directory / "index.html"
    page.write_text("\n".join(_page(result, plots)), "utf-8")
    return page


def _page(result: Result, plots: list[Path]) -> Iterator[str]:
    yield "<!doctype html><html lang=en><meta charset=utf-8><title>kvstore benchmark</title>"
    yield f"<style>{_STYLE}</style>"
    yield "<h1>kvstore benchmark</h1>"
    yield f"<p>{escape(result.date)}<br>{'<br>'.join(map(escape, machine_lines(result.machine)))}</p>"
    yield f"<p><small>{escape(METHOD)}<br>{escape(settings_line(result))}</small></p>"
    if ratios := ratio_table(result):
        yield "<h2>Ratios and bars</h2>"
        yield from _html_rows(ratios)
    for group, cases in result.groups().items():
        yield f"<h2>{escape(group)}</h2>"
        yield from _html_rows(case_table(cases))
        for plot in plots:
            if plot.stem.rpartition("-")[0] == slug(group):
                image = b64encode(plot.read_bytes()).decode()
                yield f'<p><img alt="{escape(plot.stem)}" src="data:image/png;base64,{image}"></p>'
    if result.skipped:
        yield "<h2>Not measured</h2><ul>"
        yield from (f"<li>{escape(what)}: {escape(why)}" for what, why in result.skipped.items())
        yield "</ul>"
    yield "</html>"


def _html_rows(table: Table) -> Iterator[str]:
    head, *rows = table
    yield "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    for row in rows:
        kind = row[-1] if row[-1] in ("met", "missed") else ""
        cells = [f"<td>{escape(cell)}</td>" for cell in row[:-1]]
        yield f"<tr>{''.join(cells)}<td class='{kind}'>{escape(row[-1])}</td></tr>"
    yield "</table>"
