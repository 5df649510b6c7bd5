"""Threads that wait give their core away, in commands and in what they start; the user's word stands."""

import os
import subprocess
import sys

import pytest

from autoprune.compute.openmp import POLICY_NAME, SPINS, SPINS_NAME

CODE = """
import os, sys
from autoprune.cli import main
assert "torch" not in sys.modules  # it reads the variables when it is imported
main.app = lambda **_: print(os.environ.get("GOMP_SPINCOUNT"))
main.main([])
"""


@pytest.mark.parametrize(("given", "spins"), [({}, SPINS), ({SPINS_NAME: "7"}, "7"), ({POLICY_NAME: "ACTIVE"}, "None")])
def test_commands_spin_shortly_unless_told_otherwise(given: dict[str, str], spins: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in (SPINS_NAME, POLICY_NAME)}
    shown = subprocess.run([sys.executable, "-c", CODE], env=clean | given, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [spins]
