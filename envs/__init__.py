"""Gymnasium environments; importing this package registers `autoprune/LayerwisePruning-v0` and `InputAdaptive-v0`."""

import gymnasium

LAYERWISE_PRUNING = "autoprune/LayerwisePruning-v0"
INPUT_ADAPTIVE = "autoprune/InputAdaptive-v0"

gymnasium.register(id=LAYERWISE_PRUNING, entry_point="autoprune.envs.layerwise:LayerwisePruningEnv")
gymnasium.register(id=INPUT_ADAPTIVE, entry_point="autoprune.adaptive.routing.environment:InputAdaptiveEnv")
