"""Contracts as tests: whoever writes an implementation of a seam runs these on theirs, in a test of their own.

Each raises `ContractError`, which names what is asked for and what was found instead.
"""

from autoprune.testing.errors import ContractError
from autoprune.testing.option import check_option
from autoprune.testing.runtime import check_runtime
from autoprune.testing.searcher import check_searcher
from autoprune.testing.task import check_task

__all__ = ["ContractError", "check_option", "check_runtime", "check_searcher", "check_task"]
