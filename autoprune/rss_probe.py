"""A program of its own: load an ONNX file, run it, print the peak resident memory in bytes.

It imports nothing of autoprune, so that torch's memory is not counted.
"""

import json
import resource
import sys

import numpy
import onnxruntime

RUNS = 10


def main() -> None:
    request = json.loads(sys.argv[1])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    session = onnxruntime.InferenceSession(request["file"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: numpy.zeros(request["shape"], dtype=numpy.float32)}
    for _ in range(RUNS):
        session.run(None, feed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else peak * 1024)


if __name__ == "__main__":
    main()
