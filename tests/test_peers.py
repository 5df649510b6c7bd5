"""Peers side by side: the knob and the figures by hand, and a comparison whole, on the small job."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import compare_peers
import numpy as np
import pytest
from rich.console import Console

from autoprune.errors import InputError, RunError
from autoprune.foundation import progress
from autoprune.measure.latency import Latency
from autoprune.pruning.cost import Cost
from peers.compare import COMPARISON_FILE, compare
from peers.contest import load_contest
from peers.cut import Choice
from peers.knob import Tried, least_fast_enough, tried_knobs, why_none
from peers.outcome import Measured, Row, as_json, cells, table
from peers.remote import Remote
from peers.table import PEERS

PYTHONS = {False: Path(sys.executable), True: Path("no/such/python")}


def network(latency_ratio: Callable[[float], float | None]) -> Callable[[float], Tried]:
    def attempt(knob: float) -> Tried:
        ratio = latency_ratio(knob)
        return Tried(knob, ratio, "no further" if ratio is None else None)

    return attempt


def test_knob_ends_within_a_256th_of_where_the_network_becomes_fast_enough() -> None:
    found = least_fast_enough(tried_knobs(network(lambda knob: 2.0 if knob < 0.4 else 0.9)))
    assert found is not None
    assert 0.4 <= found.knob <= 0.4 + 1 / 256
    assert found.latency_ratio == 0.9


def test_knob_that_is_near_is_left_as_it_is() -> None:
    assert [found.knob for found in tried_knobs(network(lambda knob: 1.25 - knob))] == [0.125, 0.25]


def test_larger_knob_that_makes_a_slower_network_misleads_nobody() -> None:
    found = least_fast_enough(tried_knobs(network(lambda knob: 0.8 if 0.3 < knob < 0.4 else 1.5)))
    assert found is not None
    assert 0.3 < found.knob <= 0.3 + 1 / 256


def test_knob_that_can_be_turned_no_further() -> None:
    tried = tried_knobs(network(lambda knob: None if knob > 0.6 else 2 - knob))
    assert least_fast_enough(tried) is None
    assert 0.59 < max(found.knob for found in tried if found.latency_ratio is not None) <= 0.6
    assert why_none(tried).startswith("its fastest takes 1.4")
    assert why_none(tried).endswith("times our latency; no further")
    never = tried_knobs(network(lambda _knob: None))
    assert why_none(never) == "no further"
    assert len(never) == 6


def latency(ms: float) -> Latency:
    return Latency(ms, ms, np.full((5, 1), ms), 5, ms)


CHOICE = Choice("rounded to 8", 0.5, 0.97, 0.3, 0.5, 12.0, {"rounded to 8": [Tried(0.5, 0.97)]})


def finished_row() -> Row:
    measured = Measured.of(latency(0.1), original=latency(0.2), ours=latency(0.1), cost=Cost(9_000_000, 1234))
    return Row(
        *("tp_uniform", "Torch-Pruning, uniform", "torch-pruning 1.6.1", "pruning_ratio"),
        choice=CHOICE,
        measured=measured,
        search_accuracy_cut=0.5,
        search_accuracy=(0.9, 0.92),
        test_accuracy=(0.90, 0.94),
        find_wall_s=12.0,
        finetune_wall_s=(None, 30.0),
    )


FAILED = Row("nni_l1", "NNI, L1 norm", "nni 3.0", "sparse_ratio", error="RunError: [no] such luck")


def test_figures_by_hand() -> None:
    row = finished_row()
    assert row.measured is not None
    assert (row.measured.speedup, row.measured.latency_ratio_to_ours) == (2.0, 1.0)
    assert row.test_accuracy_mean == pytest.approx(0.92)
    assert row.test_accuracy_std == pytest.approx(0.0283, abs=1e-4)  # sample deviation: 0.04 / sqrt(2)
    one_seed = replace(row, test_accuracy=(0.9,))
    assert (one_seed.test_accuracy_mean, one_seed.test_accuracy_std) == (0.9, None)
    assert cells(row) == (
        *("Torch-Pruning, uniform", "rounded to 8, 0.500", "1,234", "9.0 M", "0.1000", "2.00× (1.98–2.02)"),
        *("50.00", "91.00", "92.00 ± 2.83", "12", "30"),
    )


def test_failure_stays_in_json_and_table() -> None:
    rows = [finished_row(), FAILED]
    written = json.loads(json.dumps(as_json(rows, run="runs/a", epochs=2, seeds=[0, 1], environment={})))
    assert [row["error"] for row in written["rows"]] == [None, FAILED.error]
    assert written["rows"][0]["choice"]["tried"]["rounded to 8"] == [
        {"knob": 0.5, "latency_ratio": 0.97, "error": None}
    ]
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table(rows, title="peers"))
    assert "NNI, L1 norm: RunError: [no] such luck" in console.export_text()


@pytest.mark.slow
def test_comparison_whole_and_again(finished_run: Path, tmp_path: Path) -> None:
    contest = load_contest(finished_run)
    broken = replace(PEERS["tp_bn_scale"], name="broken", module="no_such_module")
    peers = [PEERS["tp_uniform"], broken]
    seeds = [contest.config.seed, 7]
    epochs = contest.config.finetune.epochs
    rows = compare(contest, peers, tmp_path, pythons=PYTHONS, epochs=epochs, seeds=seeds)
    assert [row.name for row in rows] == ["original", "autoprune", "tp_uniform", "broken"]
    original, ours, uniform, failed = rows
    assert failed.error is not None and "No module named 'peers.no_such_module'" in failed.error
    assert failed.measured is None
    assert original.measured is not None and ours.measured is not None and uniform.measured is not None
    assert (original.measured.params, original.measured.macs) == (
        contest.result.original.params,
        contest.result.original.macs,
    )
    assert (ours.measured.params, ours.measured.macs) == (contest.result.pruned.params, contest.result.pruned.macs)
    # The run's own seed and epochs: its own file. The other seed is fine-tuned anew.
    assert ours.test_accuracy[0] == contest.result.pruned.test_accuracy
    assert ours.finetune_wall_s[0] is None and ours.finetune_wall_s[1] is not None
    assert uniform.choice is not None and uniform.choice.latency_ratio <= 1.01
    assert uniform.measured.params < original.measured.params
    assert len(uniform.test_accuracy) == len(seeds)
    assert json.loads((tmp_path / COMPARISON_FILE).read_text(encoding="utf-8"))["seeds"] == seeds

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = compare(contest, peers[:1], tmp_path, pythons=PYTHONS, epochs=epochs, seeds=seeds)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == kept
    assert again[2].choice == uniform.choice
    assert again[2].test_accuracy == uniform.test_accuracy
    assert not list(tmp_path.rglob("*.pt"))

    (tmp_path / "run.json").write_text('{"run": "runs/other", "sha256": "0"}', encoding="utf-8")
    with pytest.raises(InputError, match="comparison of another run"):
        compare(contest, peers[:1], tmp_path, pythons=PYTHONS, epochs=0, seeds=[0])


def test_library_in_a_process_of_its_own(finished_run: Path, tmp_path: Path) -> None:
    config = finished_run / "config.yaml"
    with closing(Remote(Path(sys.executable), config=config, peer="tp_uniform", scratch=tmp_path)) as remote:
        with pytest.raises(RunError, match="no such setting"):
            remote.write_cut("no such setting", 0.5, tmp_path / "none")
        remote.write_cut("no rounding", 0.5, tmp_path / "cut")
    layers = json.loads((tmp_path / "cut" / "structure.json").read_text(encoding="utf-8"))["layers"]
    assert [layers[name]["out_channels"] for name in ("0", "3", "6", "11")] == [16, 24, 32, 3]
    assert "Traceback" in (tmp_path / "worker.log").read_text(encoding="utf-8")
    with (
        closing(Remote(Path(sys.executable), config=config, peer="nobody", scratch=tmp_path)) as remote,
        pytest.raises(RunError, match="its process ended: KeyError: 'nobody'"),
    ):
        remote.write_cut("no rounding", 0.5, tmp_path / "none")


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """The script's complaint about its arguments, which must be one line, with exit code 2."""

    def complaint(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["compare_peers.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            compare_peers.main()
        assert ended.value.code == 2
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1
        return text

    yield complaint
    progress.show(False)


def test_bad_arguments_end_before_any_work(fails: Callable[..., str], finished_run: Path, tmp_path: Path) -> None:
    assert "holds no finished run (config.yaml, result.json, policy.json" in fails(tmp_path)
    assert f"unknown 'amc'; there are {', '.join(PEERS)}" in fails(tmp_path, "--peers", "tp_uniform,amc")
    assert "name each of them once" in fails(tmp_path, "--peers", "fastnas,fastnas")
    assert "--finetune-epochs: must not be negative, got -1" in fails(tmp_path, "--finetune-epochs", "-1")
    assert "--seeds: must be different" in fails(tmp_path, "--seeds", "1", "1")
    out = tmp_path / "out"
    without = fails(finished_run, "--peers", "fastnas,tp_uniform", "--peers-python", "no/python", "--out", out)
    assert "cannot run fastnas; make the environment with benchmarks/install_peers.sh" in without
    assert not out.exists()
