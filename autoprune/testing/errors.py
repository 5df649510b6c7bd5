"""What the checks raise."""


class ContractError(AssertionError):
    """An implementation does not do what its seam asks for."""
