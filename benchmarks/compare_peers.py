"""Other pruning libraries beside a finished run: same checkpoint, data and splits, equal measured latency, the same
fine-tuning, the same measuring of the exported ONNX files.

    benchmarks/install_peers.sh        # once: NNI and ModelOpt have an environment of their own
    python benchmarks/compare_peers.py runs/demo --seeds 0 1 2
    python benchmarks/compare_peers.py runs/demo --peers tp_uniform,fastnas --finetune-epochs 2 --out runs/quick

Each peer's knob is bisected until its exported file is about as fast as the run's, once for each of its settings (such
as rounding of widths); the setting whose cut is closest to the original on the search split goes on. Its BatchNorms are
recalibrated and it is fine-tuned with the run's own distillation, as the run's policy is, for each seed. At the end all
files are timed together and scored on the test split. A peer that fails is a row that says why. OUT holds
comparison.json and all networks; a second call skips what is done. Beside other work on the machine, set
OMP_WAIT_POLICY=PASSIVE: waiting threads that spin starve each other.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from autoprune.errors import AutopruneError, InputError
from autoprune.foundation import progress
from peers.compare import COMPARISON_FILE, compare
from peers.contest import load_contest
from peers.outcome import table
from peers.table import PEERS, Peer

PEERS_PYTHON = Path(__file__).parents[1] / "build" / "peers" / ".venv" / "bin" / "python"
TABLE_WIDTH = 160  # where the output is no terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="a finished `autoprune run`")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: all, %(default)s")
    parser.add_argument("--finetune-epochs", type=int, help="of all, ours too; default: those of the run")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the fine-tuning; default: that of the run")
    parser.add_argument("--out", type=Path, help="default: beside RUN_DIR, its name with -peers")
    parser.add_argument(
        "--peers-python", type=Path, default=PEERS_PYTHON, help="of the environment with NNI and ModelOpt"
    )
    arguments = parser.parse_args()
    progress.show(True)
    try:
        peers = chosen_peers(arguments.peers)
        check_numbers(arguments.finetune_epochs, arguments.seeds)
        contest = load_contest(arguments.run_dir)
        out = arguments.out or arguments.run_dir.with_name(f"{arguments.run_dir.resolve().name}-peers")
        epochs, seeds = arguments.finetune_epochs, arguments.seeds
        epochs = contest.config.finetune.epochs if epochs is None else epochs
        seeds = seeds or [contest.config.seed]
        pythons = {False: Path(sys.executable), True: arguments.peers_python}
        rows = compare(contest, peers, out, pythons=pythons, epochs=epochs, seeds=seeds)
    except AutopruneError as error:
        print(f"compare_peers: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    console.print(table(rows, title=f"{arguments.run_dir}: {epochs} epochs, seeds {', '.join(map(str, seeds))}"))
    console.print(f"written: {out / COMPARISON_FILE}", markup=False, soft_wrap=True)


def chosen_peers(names: str) -> list[Peer]:
    """Raises `InputError` for a name that is no peer, or twice the same."""
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in PEERS]:
        raise InputError(f"--peers: unknown {', '.join(map(repr, unknown))}; there are {', '.join(PEERS)}")
    if len(set(wanted)) < len(wanted):
        raise InputError("--peers: name each of them once")
    return [PEERS[name] for name in wanted]


def check_numbers(epochs: int | None, seeds: Sequence[int] | None) -> None:
    if epochs is not None and epochs < 0:
        raise InputError(f"--finetune-epochs: must not be negative, got {epochs}")
    if seeds and (min(seeds) < 0 or len(set(seeds)) < len(seeds)):
        raise InputError(f"--seeds: must be different and not negative, got {' '.join(map(str, seeds))}")


if __name__ == "__main__":
    main()
