"""Where each channel of a network goes: every operation of one forward pass, followed by the names of its channels."""
