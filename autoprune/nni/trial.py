"""What NNI starts for each trial: it asks the experiment's service for a score and tells NNI. `python -m
autoprune.nni.trial FOLDER` imports neither torch nor NNI, and so takes a tenth of a second. With `--recipe FOLDER`, on
another machine, the service is one of that machine, which the first trial starts."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from autoprune.nni.client import NotStarted
from autoprune.nni.remote.keeper import scoring_folder, start_scorer
from autoprune.nni.wire import Message, ServiceGone, connected

FINAL, INTERMEDIATE = "FINAL", "PERIODICAL"
ANSWER_S = 600.0  # how long NNI may take to answer
NOTHING_YET = 408  # its answer when it has waited for a second


class Channel(Protocol):
    """How a trial and NNI talk."""

    def parameters(self) -> Mapping[str, Any]: ...
    def report(self, figures: Mapping[str, float], *, is_final: bool) -> None: ...


class HttpChannel:
    """That of NNI 3.0's local and remote trials (`nni.runtime.trial_command_channel.v3`), of three messages."""

    def __init__(self, url: str) -> None:
        self._url, self._sequence = url, 0
        self._record: Mapping[str, Any] = {}

    def parameters(self) -> Mapping[str, Any]:
        self._put({"type": "request_parameter"})
        while True:
            try:
                with urllib.request.urlopen(self._url, timeout=ANSWER_S) as answer:
                    self._record = json.loads(json.load(answer)["parameter"])
                    parameters: Mapping[str, Any] = self._record["parameters"]
                    return parameters
            except urllib.error.HTTPError as error:
                if error.code != NOTHING_YET:
                    raise

    def report(self, figures: Mapping[str, float], *, is_final: bool) -> None:
        metric = {
            "parameter_id": self._record["parameter_id"],
            "trial_job_id": trial_id(),
            "type": FINAL if is_final else INTERMEDIATE,
            "sequence": 0 if is_final else self._sequence,
            "value": json.dumps(figures),
        }
        self._sequence += not is_final
        self._put({"type": "metric", "metric": json.dumps(metric)})

    def _put(self, command: Mapping[str, Any]) -> None:
        body = json.dumps(command).encode()
        request = urllib.request.Request(
            self._url, data=body, method="PUT", headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=ANSWER_S).close()


class NniChannel:
    """Through NNI itself, for its other training services, and where no experiment runs."""

    def __init__(self) -> None:
        import nni

        self._nni: Any = nni

    def parameters(self) -> Mapping[str, Any]:
        return dict(self._nni.get_next_parameter())

    def report(self, figures: Mapping[str, float], *, is_final: bool) -> None:
        tell = self._nni.report_final_result if is_final else self._nni.report_intermediate_result
        tell(dict(figures))


def trial_id() -> str:
    return os.environ.get("NNI_TRIAL_JOB_ID", "standalone")


def channel_to_nni() -> Channel:
    url = os.environ.get("NNI_TRIAL_COMMAND_CHANNEL", "")
    return HttpChannel(url) if url.startswith("http://") else NniChannel()


def serve_trial(folder: Path, channel: Channel, *, starting: Callable[[], None] | None = None) -> str | None:
    """Have the trial that NNI has started scored by the service in `folder`, which `starting` starts if there is none.

    Returns what the service refuses the trial for, if it does. Raises `ServiceGone` if it ends meanwhile.
    """
    parameters = channel.parameters()
    asked: Message = {"ask": "trial", "trial": trial_id(), "parameters": dict(parameters)}
    if starting is not None:
        starting()
    with connected(folder) as line:
        line.send(asked)
        while True:
            told = line.receive()
            if "refused" in told:
                return str(told["refused"])
            is_final = "final" in told
            channel.report(told["final"] if is_final else told["look"], is_final=is_final)
            if is_final:
                return None


def main() -> None:
    folder, starting = Path(sys.argv[-1]).resolve(), None
    if sys.argv[1] == "--recipe":
        starting, folder = partial(start_scorer, folder), scoring_folder(folder)
    try:
        refused = serve_trial(folder, channel_to_nni(), starting=starting)
    except NotStarted as error:
        sys.exit(str(error))
    except ServiceGone:
        sys.exit(f"{folder}: no service scores trials there any more; go on with `autoprune nni resume`")
    if refused is not None:
        sys.exit(refused)


if __name__ == "__main__":
    main()
