"""Peak memory of a model in a process of its own, for any backend: the caller's side, and that program."""

import json
import subprocess
import sys

from autoprune.bench.backends import BACKENDS, InputSpec
from autoprune.bench.inputs import random_inputs
from autoprune.foundation.errors import AutopruneError, RunError
from autoprune.measure.rss_probe import RUNS, peak_rss_bytes

TIMEOUT_S = 300


def measure_peak_rss_bytes(
    source: str, spec: InputSpec, shape: tuple[int, ...], *, backend: str, provider: str, threads: int
) -> int:
    """Peak resident memory of a fresh process that loads `source` and runs it a few times.

    Raises `RunError` if that process fails.
    """
    request = {
        "source": source, "input": spec.name, "dtype": spec.dtype, "shape": list(shape),
        "backend": backend, "provider": provider, "threads": threads,
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "autoprune.bench.probe", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RunError(f"{source}: measuring its memory took longer than {TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RunError(f"{source}: measuring its memory failed ({reason})")
    return int(done.stdout.split()[-1])


def main() -> None:
    request = json.loads(sys.argv[1])
    images = random_inputs(InputSpec(request["input"], (), request["dtype"]), tuple(request["shape"]))
    backend = BACKENDS[request["backend"]]
    try:
        runner = backend.open_model(request["source"], threads=request["threads"], provider=request["provider"])
    except AutopruneError as error:
        sys.exit(str(error))
    call = runner.bind(images)
    for _ in range(RUNS):
        call()
    print(peak_rss_bytes())


if __name__ == "__main__":
    main()
