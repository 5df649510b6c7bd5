"""The search as an NNI experiment: which tuner proposes, and where its trials run."""

from typing import Any, Literal

from pydantic import Field

from autoprune.config.section import FileName, Section

OF_NNI = "nni: "  # begins the names of searchers that are tuners of NNI's
AGENT_TUNER = "agent"  # ours: the searcher of search.agent, carried by NNI
NniPlatform = Literal["local", "remote"]


class NniConfig(Section):
    tuner: FileName = Field(
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
