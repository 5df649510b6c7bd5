"""Print "healthy" if the Python that runs this has autoprune installed from this checkout, and pip to install more."""

import importlib.util
from pathlib import Path

found = importlib.util.find_spec("autoprune")
checkout = Path(__file__).resolve().parents[1]
if found and Path(str(found.origin)).parents[1] == checkout and importlib.util.find_spec("pip"):
    print("healthy")
