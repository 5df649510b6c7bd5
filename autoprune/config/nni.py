"""The search as an NNI experiment: which tuner proposes, and where its trials run."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from autoprune.config.section import FileName, Section
from autoprune.errors import shown

OF_NNI = "nni: "  # begins the names of searchers that are tuners of NNI's
AGENT_TUNER = "agent"  # ours: the searcher of search.agent, carried by NNI
NNI_TUNERS = ("TPE", "Evolution", "Random", "GridSearch", "GP", "Metis", "PBT")
REFUSED: Mapping[str, str] = {
    "Anneal": "fails with the numpy of today (NNI 3.0 is archived)",
    "TPE_legacy": "fails with the numpy of today; take TPE",
    "Hyperband": "is broken in NNI 3.0: it compares texts with numbers",
    "BOHB": "is broken in NNI 3.0: it compares texts with numbers",
    "SMAC": "cannot be installed any more",
    "PPO": "wants TensorFlow, and is for architectures; take agent with search.agent=ppo",
    "DNGO": "wants pybnn, which is gone",
    "NetworkMorphism": "is for architectures, and takes no space",
    "RegularizedEvolutionTuner": "is for architectures; take Evolution",
    "Batch": "takes a list of whole configurations, and no space",
}


def _known_tuner(name: str) -> str:
    choose = f"choose {', '.join((AGENT_TUNER, *NNI_TUNERS))}"
    if name in REFUSED:
        raise ValueError(f"{name} {REFUSED[name]}; {choose}")
    if name not in (AGENT_TUNER, *NNI_TUNERS) and ":" not in name:
        raise ValueError(f"unknown; {choose}, or path/file.py:Class, got {shown(name)}")
    return name


NniPlatform = Literal["local", "remote"]


class NniConfig(Section):
    tuner: Annotated[FileName, AfterValidator(_known_tuner)] = Field(
        AGENT_TUNER,
        description="agent: the searcher of search.agent; or NNI's TPE, Evolution, Random, GridSearch, GP, Metis, PBT",
    )
    settings: dict[str, Any] = Field({}, description="of NNI's tuner, as its documentation names them (classArgs)")
    assessor: Literal["Medianstop", "Curvefitting"] | None = Field(
        None, description="of NNI: ends trials early by their looks; Medianstop, Curvefitting or null"
    )
    assessor_settings: dict[str, Any] = Field({}, description="of the assessor (classArgs)")
    concurrency: int = Field(2, gt=0, le=1024, description="trials that are scored at a time")
    platform: NniPlatform = Field("local", description="where trials run: local, or remote over SSH")
    machines: tuple[dict[str, Any], ...] = Field(
        (),
        description="with platform remote: a list as NNI's machineList has it (host, user, sshKeyFile, pythonPath); "
        "data: data.name on that machine",
    )

    @property
    def searcher(self) -> str:
        """What the trials of a tuner of NNI's are stored under."""
        return f"{OF_NNI}{self.tuner}"
