"""Searches as experiments of NNI 3.0: its tuners and its web page, with our problem, trials and artefacts."""
