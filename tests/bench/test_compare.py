"""What counts as a regression, and what is written down of a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.bench.compare import compare
from kvstore.bench.recording import Recording
from kvstore.bench.report import case_table, comparison_table, markdown, ratio_table, together, write_report
from kvstore.bench.result import Case, Ratio, Result, read, spread
from kvstore.errors import ConfigError

MACHINE = {"cores": 2, "processor": "P", "python": "3.11", "system": "S"}


def measured(latency_ms: float, per_s: float, *, failed: int = 0) -> dict[str, object]:
    recording = Recording(keep_series=True)
    for i in range(100):
        recording.add("read", latency_ms / 1000 * (1 + i / 1000), "503" if i < failed else "", i / 50)
    recording.duration_s = (100 - failed) / per_s
    return recording.as_dict()


def result(*rounds: dict[str, object], ratios: tuple[float, ...] = (), **settings: object) -> Result:
    case = Case("get", "Peaks", settings, list(rounds))
    found = [Ratio("get ÷ floor", list(ratios), bar=0.6)] if ratios else []
    return Result({}, [case], found, MACHINE, "2026-01-01")


BEFORE = [measured(5.0, 1000), measured(5.2, 1040), measured(4.9, 980)]


def verdicts(old: Result, new: Result, tolerance: float = 0.1) -> dict[str, str]:
    return {change.metric: change.verdict for change in compare(old, new, tolerance=tolerance).changes}


def test_a_planted_regression_is_found() -> None:
    slower = result(measured(9.0, 700), measured(9.2, 690), measured(9.1, 710))
    comparison = compare(result(*BEFORE), slower)
    assert {change.metric for change in comparison.regressions} == {"per_s", "p50_ms", "p99_ms"}
    (rate,) = (change for change in comparison.regressions if change.metric == "per_s")
    assert rate.change == pytest.approx(-0.3, abs=0.01)
    assert verdicts(slower, result(*BEFORE)) == {
        "per_s": "better",
        "p50_ms": "better",
        "p99_ms": "better",
        "failed": "same",
    }


def test_what_rounds_differ_among_themselves_is_no_regression() -> None:
    noisy_before = result(measured(5.0, 1000), measured(8.0, 650), measured(5.0, 1000))
    after = result(measured(7.0, 700), measured(7.1, 710), measured(7.0, 700))
    assert set(verdicts(noisy_before, after).values()) == {"same"}


def test_less_than_the_tolerance_is_no_regression_unless_it_is_tightened() -> None:
    after = result(measured(5.4, 940), measured(5.5, 930), measured(5.45, 935))
    assert set(verdicts(result(*BEFORE), after).values()) == {"same"}
    assert verdicts(result(*BEFORE), after, tolerance=0.02)["per_s"] == "worse"


def test_failures_are_a_regression_however_few() -> None:
    after = result(
        measured(5.0, 1000, failed=1), measured(5.0, 1000, failed=2), measured(5.0, 1000, failed=1)
    )
    assert verdicts(result(*BEFORE), after)["failed"] == "worse"
    assert verdicts(after, result(*BEFORE))["failed"] == "better"


def test_ratios_are_compared_by_what_they_ought_to_be() -> None:
    old, new = result(*BEFORE, ratios=(0.60, 0.61)), result(*BEFORE, ratios=(0.40, 0.42))
    (lost,) = compare(old, new).regressions
    assert (lost.case, lost.metric) == ("get ÷ floor", "ratio")
    assert not compare(new, old).regressions


def test_other_settings_machines_and_cases_are_told_and_not_compared() -> None:
    other = result(measured(50.0, 10), connections=256)
    other.machine = MACHINE | {"cores": 64}
    other.cases.append(Case("put", "Peaks", {}, [measured(1.0, 1)]))
    comparison = compare(result(*BEFORE, connections=64), other)
    assert not comparison.changes
    assert [note.partition(":")[0] for note in comparison.notes] == ["cores", "get", "put"]


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    whole = result(*BEFORE, ratios=(0.5, 0.7), connections=64)
    whole.skipped["etcd"] = "not installed"
    whole.write(tmp_path / "sub" / "r.json")
    again = read(tmp_path / "sub" / "r.json")
    assert again == whole
    assert not comparison_table(compare(whole, again))
    assert len(comparison_table(compare(whole, again), everything=True)) == 6


def test_what_is_no_result_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"format": 1}', '{"format": 99}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ConfigError, match=r"x\.json"):
            read(tmp_path / "x.json")


def test_tables_show_medians_ranges_and_what_was_missed() -> None:
    whole = result(*BEFORE, ratios=(0.5, 0.55, 0.7))
    assert ratio_table(whole)[1] == ["get ÷ floor", "0.55 (0.5 to 0.7)", "≥ 0.6", "missed"]
    head, row = case_table(whole.cases)
    assert row[head.index("per s")] == "1,000 (980 to 1,040)"
    assert "failed" not in head, "a column of zeros tells nothing"
    failing = Case("put", "Peaks", {}, [measured(5.0, 1000, failed=3)])
    assert "failed" in case_table([*whole.cases, failing])[0]
    assert Ratio("x", [1.2, 1.3], bar=1.3, at_least=False).verdict == "met"
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_a_report_has_all_figures_and_plots_in_one_page(tmp_path: Path) -> None:
    whole = result(*BEFORE, ratios=(0.5, 0.55, 0.7))
    whole.skipped["etcd"] = "not <installed>"
    page = write_report(whole, tmp_path)
    html = page.read_text()
    pngs = {p.name for p in tmp_path.glob("*.png")}
    assert pngs == {"peaks-rate.png", "peaks-latency.png", "peaks-time.png"}
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pngs)
    assert html.count("data:image/png;base64,") == 3
    assert "class='missed'>missed" in html
    assert "not &lt;installed&gt;" in html
    assert "http://" not in html
    text = markdown(whole)
    assert "| get ÷ floor | 0.55 (0.5 to 0.7) | ≥ 0.6 | missed |" in text
    assert (tmp_path / "tables.md").read_text() == text


def test_cost_is_drawn_over_the_number_of_keys_where_that_is_what_differs(tmp_path: Path) -> None:
    rounds = [{"cpu_us": 100.0}, {"cpu_us": 104.0}]
    cases = [Case(f"get, {keys} keys", "Growth", {"keys": keys}, rounds) for keys in (10, 100, 1000)]
    write_report(Result({}, cases, [], MACHINE, "2026-01-01"), tmp_path)
    assert {p.name for p in tmp_path.glob("*.png")} == {"growth-keys.png"}


def test_results_together_keep_their_names_apart() -> None:
    whole = together({"a": result(*BEFORE), "b": result(*BEFORE)})
    assert [case.name for case in whole.cases] == ["get (a)", "get (b)"]
