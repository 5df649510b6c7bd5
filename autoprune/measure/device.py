"""What a latency depends on beside the model: figures of one device are never mixed with another's."""

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from autoprune import __version__
from autoprune.runtimes.onnxruntime import onnxruntime
from autoprune.runtimes.runtime import Runtime

CPUINFO = Path("/proc/cpuinfo")
CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
DEFAULT_CACHE_BYTES = 32 * 2**20  # where the system does not tell
# Those that inference kernels are chosen by (x86 and Arm); the full list of flags changes with the kernel's version.
INSTRUCTION_SETS = (
    "sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "i8mm", "bf16",
    "sve", "sve2",
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """A machine, a runtime and the way it is used."""

    cpu: str
    instruction_sets: tuple[str, ...]
    runtime: str  # its key: name and version
    provider: str  # its device, as the runtime calls it
    threads: int
    batch_size: int
    precision: str = "fp32"

    @property
    def key(self) -> str:
        """Equal for equal devices, and readable."""
        return json.dumps(asdict(self), sort_keys=True)


def this_device(runtime: Runtime, *, threads: int, batch_size: int) -> Device:
    """This machine under a runtime."""
    return Device(
        cpu=cpu_name(),
        instruction_sets=_instruction_sets(),
        runtime=runtime.key,
        provider=runtime.device,
        threads=threads,
        batch_size=batch_size,
    )


def environment(runtime: Runtime) -> dict[str, str]:
    """Versions and machine: what a figure depends on beside the model."""
    return {
        "autoprune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "runtime": f"{runtime.key}, {runtime.device}",
        "cpu": cpu_name(),
        "system": platform.platform(terse=True),
    }


def cpu_name() -> str:
    """The processor as the system names it; family, model and stepping tell apart those that share a name."""
    found = {key: _cpuinfo(key) for key in ("model name", "cpu family", "model", "stepping")}
    if found["model name"] is None:
        return platform.processor() or platform.machine()
    numbers = "/".join(found[key] or "?" for key in ("cpu family", "model", "stepping"))
    return f"{found['model name']} ({numbers})"


def last_level_cache_bytes(folder: Path = CPU_CACHES) -> int:
    """The largest cache that the first processor sees, as Linux tells it."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = []
    for file in folder.glob("index*/size"):
        text = file.read_text(encoding="utf-8").strip()
        if text[:-1].isdecimal() and text[-1:] in units:
            found.append(int(text[:-1]) * units[text[-1]])
    return max(found, default=DEFAULT_CACHE_BYTES)


def _instruction_sets() -> tuple[str, ...]:
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    return tuple(name for name in INSTRUCTION_SETS if name in flags) or (platform.machine(),)


def _cpuinfo(key: str) -> str | None:
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None
