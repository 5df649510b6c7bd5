"""A trial that tunes hyper-parameters: NNI's parameters are keys of the configuration, and a short run is their score.

    trialCommand: python tune.py demo

Judged is the accuracy on the search split after fine-tuning: the test split is for the end.
"""

import os
import sys
from pathlib import Path

import nni

from autoprune.config.file import find_config, load_config
from autoprune.jobs.run import run
from autoprune.results.kept import FINETUNE, SEARCH
from autoprune.store.trials import TrialStore

SHORT = ["search.max_evaluations=30", "finetune.epochs=1", "adaptive.enabled=false", "preset=quick"]


def main() -> None:
    chosen = nni.get_next_parameter()
    overrides = [*SHORT, *(f"{key}={value}" for key, value in chosen.items())]
    config = load_config(find_config(sys.argv[1]), overrides)
    folder = Path(os.environ.get("NNI_OUTPUT_DIR", ".")) / "run"
    run(config, folder, resume=folder.is_dir())  # NNI begins a trial again after a kill
    store = TrialStore(folder / "trials.sqlite")
    search, epochs = store.kept(SEARCH), store.kept(FINETUNE)
    assert search is not None and epochs, "a run that is finished has both"
    nni.report_intermediate_result(search.best_reward)
    nni.report_final_result({"default": epochs[-1].search_accuracy, "search_reward": search.best_reward})


if __name__ == "__main__":
    main()
