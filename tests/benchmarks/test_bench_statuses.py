"""Whatever a plugin does, every planned run ends as one row and no process is left."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowzoo import registry
from flowzoo_bench.runspec import RunSpec

Finished = Callable[[str, Path], Path]

HEAD = """
name = "faults"
replicates = {replicates}
tasks = ["blob"]
metrics = ["log-likelihood", "mean-norm"]
timeout = {timeout}
pack_size = {pack_size}
"""


def experiment(
    *methods: str, replicates: int = 1, timeout: float = 60.0, pack_size: int = 25
) -> str:
    text = HEAD.format(replicates=replicates, timeout=timeout, pack_size=pack_size)
    for label in methods:
        fault = "" if label == "good" else label
        text += f'[[methods]]\nlabel = "{label}"\nmixture = "shift"\n'
        text += f'options = {{ fault = "{fault}" }}\n'
    return text


def records(out: Path) -> list[dict[str, Any]]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} in a record")

    paths = sorted(out.glob("records/*/record.json"))
    return [json.loads(path.read_text("utf-8"), parse_constant=refuse) for path in paths]


def by_method(out: Path) -> dict[str, dict[str, Any]]:
    return {record["spec"]["method_label"]: record for record in records(out)}


@pytest.mark.slow
def test_each_fault_is_one_row(bench: Any, workers_of: Callable[[Path], list[int]]) -> None:
    faults = ["good", "raise", "kill", "nan", "hang", "flood", "score", "score-nan", "liar"]
    path = bench.write(experiment(*faults, timeout=300.0))
    out = bench.folder / "out"
    # the time limit is no part of a run: a short one for what hangs, so that others may be slow
    short = bench.write(experiment(*faults, timeout=12.0), "short.toml")
    for file, methods in ((short, ["hang"]), (path, [name for name in faults if name != "hang"])):
        chosen = ("--methods", ",".join(methods))
        code, output = bench.run("bench", file, "--out", out, "--no-figures", *chosen)
        assert code == 1, output
    found = by_method(out)
    assert len(records(out)) == len(faults)
    assert {name: record["status"] for name, record in found.items()} == {
        "good": "ok",
        "raise": "error",
        "kill": "crashed",
        "nan": "diverged",
        "hang": "timeout",
        "flood": "ok",
        "score": "error",
        "score-nan": "non_finite",
        "liar": "ok",
    }
    assert found["raise"]["reason"] == "RuntimeError: this plugin raises"
    assert found["kill"]["reason"] == "killed by SIGKILL"
    assert "12 s" in found["hang"]["reason"]
    assert found["score-nan"]["metrics"][0]["value"] is None
    assert not workers_of(out)
    assert (out / found["flood"]["log"]).stat().st_size < 1_200_000
    with (out / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == (
        "task,method,metric,mean,ci95,n,ok,failed,likelihood,measure,oracle,gap,unit".split(",")
    )
    assert {row["method"] for row in rows} == {*faults, "oracle", "real data"}
    (kill,) = [row for row in rows if row["method"] == "kill"]
    assert (kill["mean"], kill["ok"], kill["failed"]) == ("", "0", "1")
    page = (out / "table.md").read_text("utf-8")
    assert page.index("## Failures") < page.index("## blob")
    assert "BUG: liar on blob is above the oracle" in page
    assert "BUG: good" not in page
    text = page + json.dumps(records(out))
    assert str(bench.folder) not in text and os.uname().nodename not in text

    # again: results stay, failures are tried once more, and each is still one row
    kept = {p: p.read_bytes() for p in out.glob("records/*/record.json")}
    code, output = bench.run("bench", path, "--out", out, "--no-figures", "--methods", "good,raise")
    assert code == 1, output
    assert "2 runs, 1 already done" in output
    changed = [p for p, data in kept.items() if p.read_bytes() != data]
    assert [json.loads(p.read_text("utf-8"))["status"] for p in changed] == ["error"]


@pytest.mark.slow
def test_a_pack_with_failing_members_loses_only_those(bench: Any, faulty: Path) -> None:
    """Some members' data break the method: the others are tried one by one."""
    path = bench.write(experiment("kill-some", replicates=3))
    out = bench.folder / "out"
    code, output = bench.here("bench", path, "--out", out, "--no-figures", "--slots", "2")
    assert code == 1, output
    found = records(out)
    task = registry.build("task", "blob")
    expected = {}
    for record in found:
        spec = RunSpec.model_validate(record["spec"])
        unlucky = float(task.splits(spec.data_seed()).train[0, 0]) > 0
        expected[spec.replicate] = "crashed" if unlucky else "ok"
    assert {record["spec"]["replicate"]: record["status"] for record in found} == expected
    assert set(expected.values()) == {"ok", "crashed"}  # the case has both
    packs = [json.loads(path.read_text("utf-8")) for path in out.glob("packs/*/pack.json")]
    assert sorted(len(pack["runs"]) for pack in packs) == [1, 1, 1, 3]


def test_missing_dependencies_are_skipped_rows(bench: Any, faulty: Path) -> None:
    text = experiment("good") + '[[methods]]\nlabel = "absent"\nmixture = "absent"\n'
    out = bench.folder / "out"
    code, output = bench.here("bench", bench.write(text), "--out", out, "--no-figures")
    assert code == 1, output
    assert by_method(out)["absent"]["status"] == "skipped"
    assert "no-such-distribution-xyz" in by_method(out)["absent"]["reason"]
    assert by_method(out)["good"]["status"] == "ok"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (experiment("good").replace("replicates", "replicatse"), "did you mean 'replicates'"),
        (experiment("good").replace("fault =", "falt ="), "did you mean 'fault'"),
        (experiment("good").replace('"shift"', '"shfit"'), "did you mean 'shift'"),
        ("name = ", "not valid TOML"),
    ],
)
def test_bad_usage_runs_nothing(bench: Any, faulty: Path, text: str, message: str) -> None:
    out = bench.folder / "out"
    code, output = bench.here("bench", bench.write(text), "--out", out)
    assert code == 2, output
    assert message in output
    assert "Traceback" not in output
    assert not out.exists()


def test_bad_arguments(bench: Any, faulty: Path) -> None:
    path = bench.write(experiment("good"))
    for arguments, message in (
        (["bench", "qick"], "did you mean 'quick'"),
        (["bench", path, "--tasks", "blub"], "did you mean 'blob'"),
        (["report", bench.folder / "nothing"], "expected a folder that flowzoo bench made"),
    ):
        code, output = bench.here(*arguments)
        assert code == 2, output
        assert message in output
        assert "Traceback" not in output


def test_an_unwritable_folder_is_a_clear_error(bench: Any, faulty: Path) -> None:
    path = bench.write(experiment("good"))
    blocked = bench.folder / "file"
    blocked.write_text("in the way", "utf-8")
    places = [blocked, blocked / "below"]
    if os.geteuid() != 0:  # root may write anywhere
        closed = bench.folder / "closed"
        closed.mkdir(mode=0o500)
        places.append(closed)
    for place in places:
        code, output = bench.here("bench", path, "--out", place)
        assert code == 2, output
        assert "cannot write" in output and "Traceback" not in output


def test_other_settings_in_the_same_folder_are_refused(
    bench: Any, faulty: Path, finished: Finished
) -> None:
    out = finished(experiment("good"), bench.folder / "out")
    kept = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    other = bench.write(experiment("good").replace("fault =", "width = 2.0, fault ="), "b.toml")
    code, output = bench.here("bench", other, "--out", out, "--no-figures")
    assert code == 2
    assert "other settings (method)" in output
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == kept
    # another method, on another draw or other data of that name, cannot stand in one table
    for number, text in enumerate(
        (
            experiment("good").replace('"good"', '"other"').replace("name =", "seed = 7\nname ="),
            experiment("good")
            .replace('"good"', '"other"')
            .replace('["blob"]', '[{ name = "blob", options = { rows = 32 } }]'),
        )
    ):
        code, output = bench.here("bench", bench.write(text, f"{number}.toml"), "--out", out)
        assert code == 2 and "other settings (" in output, output
    # more replicates of the same settings are fine
    more = bench.write(experiment("good", replicates=2), "c.toml")
    assert bench.here("bench", more, "--out", out, "--no-figures")[0] == 0
    assert len(records(out)) == 2


def test_files_of_others_in_the_folder_are_left_alone(bench: Any, faulty: Path) -> None:
    out = bench.folder / "mine"
    strangers = [out / name for name in (".mine.tmp", "a/b/.precious.tmp", "records/x/.note.tmp")]
    left = [out / name for name in (".table.md.9.tmp", "figures/.blob-curves.png.9.tmp")]
    for path in (*strangers, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", "utf-8")
    experiment_file = bench.write(experiment("good"))
    code, output = bench.here("bench", experiment_file, "--out", out, "--no-figures")
    assert code == 0, output
    assert all(path.exists() for path in strangers)
    assert not any(path.exists() for path in left)
    # and a damaged pack of ours is written anew
    (record,) = out.glob("records/*/record.json")
    record.unlink()
    (pack,) = out.glob("packs/*/pack.json")
    pack.write_text("{", "utf-8")
    code, output = bench.here("bench", experiment_file, "--out", out, "--no-figures")
    assert code == 0, output


def test_a_bench_counts_what_was_done_before(bench: Any, faulty: Path, finished: Finished) -> None:
    path = bench.write(experiment("good", replicates=3))
    out = finished(experiment("good", replicates=3), bench.folder / "counted")
    next(iter(out.glob("records/*/record.json"))).unlink()
    next(iter(out.glob("packs/*/outcome.json"))).unlink()
    code, output = bench.here("bench", path, "--out", out, "--no-figures")
    assert code == 0, output
    # another label for the same runs is for all of them
    renamed = bench.write(experiment("good").replace('"good"', '"better"'), "renamed.toml")
    again, _ = bench.here("bench", renamed, "--out", out, "--no-figures")
    with (out / "table.csv").open(encoding="utf-8") as file:
        methods = {(row["method"], row["ok"]) for row in csv.DictReader(file)}
    assert again == 0 and ("better", "3") in methods and "good" not in {m for m, _ in methods}
    assert "3 runs, 2 already done" in output and "[3/3]" in output and "[4/3]" not in output


def test_ctrl_c_keeps_what_is_finished(bench: Any, workers_of: Callable[[Path], list[int]]) -> None:
    path = bench.write(experiment("good", "hang", timeout=300.0))
    out = bench.folder / "out"
    process = bench.start("bench", path, "--out", out, "--no-figures", "--slots", "2")
    end = time.monotonic() + 60
    while not records(out) and time.monotonic() < end:
        time.sleep(0.1)
    assert workers_of(out)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output
    assert not workers_of(out)
    assert {name: record["status"] for name, record in by_method(out).items()} == {"good": "ok"}
    with (out / "table.csv").open(encoding="utf-8") as file:
        assert "good" in {row["method"] for row in csv.DictReader(file)}


def test_two_benches_cannot_share_a_folder(bench: Any, faulty: Path) -> None:
    path = bench.write(experiment("hang", timeout=300.0))
    out = bench.folder / "out"
    first = bench.start("bench", path, "--out", out, "--no-figures")
    try:
        end = time.monotonic() + 60
        while not list(out.glob("packs/*/pack.json")) and time.monotonic() < end:
            time.sleep(0.1)
        code, output = bench.here("bench", path, "--out", out)
        assert code == 2
        assert "another flowzoo bench is running" in output
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert first.returncode == 130
