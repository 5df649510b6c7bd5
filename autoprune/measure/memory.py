"""Peak memory of a model in a process of its own: the caller's side, and that program.

It imports what loads and runs a file, and no more, so that PyTorch's memory is not counted.
"""

import json
import pathlib
import resource
import subprocess
import sys

import numpy as np

from autoprune.errors import AutopruneError, RunError, UserCodeError
from autoprune.foundation.factories import users_errors
from autoprune.runtimes.find import find_runtime

RUNS = 10
TIMEOUT_S = 300
OF_THE_USER = 3  # the exit status of that program where a user's own code raised something


def measure_peak_rss_bytes(
    source: str, shape: tuple[int, ...], *, runtime: str, threads: int, device: str | None = None
) -> int:
    """Peak resident memory of a fresh process that loads `source` in a runtime of this name and runs it a few times.

    Raises `RunError` if that process fails, `UserCodeError` if a user's own code in it does.
    """
    request = {"source": source, "shape": list(shape), "runtime": runtime, "device": device, "threads": threads}
    command = [sys.executable, "-P", "-m", "autoprune.measure.memory", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RunError(f"{source}: measuring its memory took longer than {TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if done.returncode == OF_THE_USER:
            raise UserCodeError(reason)
        raise RunError(f"{source}: measuring its memory failed ({reason})")
    return int(done.stdout.split()[-1])


def main() -> None:
    request = json.loads(sys.argv[1])
    try:
        with users_errors():
            runtime = find_runtime(request["runtime"], device=request["device"])
            model = runtime.open_model(pathlib.Path(request["source"]), threads=request["threads"])
            images = np.zeros(request["shape"], dtype=model.inputs[0].dtype)
            call = model.bind(images)
            for _ in range(RUNS):
                call()
    except AutopruneError as error:
        print(*str(error).split(), file=sys.stderr)  # in one line, whatever it held
        sys.exit(OF_THE_USER if isinstance(error, UserCodeError) else 1)
    print(peak_rss_bytes())


def peak_rss_bytes() -> int:
    """From /proc where there is one: `ru_maxrss` would include the parent's memory at the time of the fork."""
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
