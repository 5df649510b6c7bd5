"""Gymnasium environments; importing this package registers `autoprune/LayerwisePruning-v0`."""

import gymnasium

LAYERWISE_PRUNING = "autoprune/LayerwisePruning-v0"

gymnasium.register(id=LAYERWISE_PRUNING, entry_point="autoprune.envs.layerwise:LayerwisePruningEnv")
