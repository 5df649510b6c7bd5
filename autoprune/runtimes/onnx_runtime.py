"""ONNX Runtime with its telemetry off; every other module takes it from here.

As it comes, 1.32 makes a device identifier and a queue of events under `~/.cache/Microsoft`, a file `.ses` in the
temporary folder, and looks up a host to send the events to: all that at its import, before any session. So the variable
that stops it must stand before the import; `disable_telemetry_events()` comes too late (measured). Processes that this
one starts inherit the variable.
"""

import os

TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"

os.environ[TELEMETRY_SWITCH] = "1"

import onnxruntime  # noqa: E402

__all__ = ["TELEMETRY_SWITCH", "onnxruntime"]
