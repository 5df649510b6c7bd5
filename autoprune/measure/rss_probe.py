"""A program of its own: load an ONNX file, run it, print the peak resident memory in bytes.

It imports nothing of autoprune, so that torch's memory is not counted.
"""

import json
import os
import pathlib
import resource
import sys

import numpy

RUNS = 10


def main() -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as `autoprune.runtimes.onnx_runtime` does
    import onnxruntime

    request = json.loads(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    session = onnxruntime.InferenceSession(request["file"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: numpy.zeros(request["shape"], dtype=numpy.float32)}
    for _ in range(RUNS):
        session.run(None, feed)
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
