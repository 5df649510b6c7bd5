"""A trial as NNI's examples have it: it reads the model and the images, scores one policy, and ends."""

import sys
import time

import nni

from autoprune.config.file import find_config, load_config
from autoprune.nni.space import proposed_options, within_limits
from autoprune.search.prepare import prepare
from autoprune.steps.subject import load_subject

parameters = nni.get_next_parameter()
config = load_config(find_config(sys.argv[1]))
subject = load_subject(config)
problem = prepare(config, subject.model, subject.data).problem
policy = within_limits(problem, proposed_options(problem.decisions, parameters))
started = time.perf_counter()
outcome = problem.evaluate(policy)
nni.report_final_result({"default": outcome.reward, "wall_s": time.perf_counter() - started})
