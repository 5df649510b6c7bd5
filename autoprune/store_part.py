"""The part of a run's `trials.sqlite` that one of several searches writes: its own episodes and facts."""

from pathlib import Path

from autoprune.trials import EpisodeRow, TrialStore


def part_name(number: int) -> str:
    """Of the search for trial `number` (from 1) of a `target.max_drop`."""
    return f"trial {number}"


class StorePart(TrialStore):
    """Scores are those of the whole store: what one part has evaluated, no other part evaluates again."""

    def __init__(self, path: Path, part: str) -> None:
        super().__init__(path)
        self.part = part

    def add_episode(
        self,
        fingerprint: str,
        policy: str,
        *,
        look: int,
        searcher: str,
        seed: int,
        episode: int,
        reward: float,
        predicted_latency_ms: float,
        estimated_energy_mj: float,
        macs: int,
        params: int,
    ) -> None:
        super().add_episode(
            fingerprint,
            policy,
            look=look,
            searcher=searcher + self._suffix,
            seed=seed,
            episode=episode,
            reward=reward,
            predicted_latency_ms=predicted_latency_ms,
            estimated_energy_mj=estimated_energy_mj,
            macs=macs,
            params=params,
        )

    def episodes(self) -> list[EpisodeRow]:
        """Those of this part alone."""
        return [row for row in super().episodes() if row.searcher.endswith(self._suffix)]

    def fact(self, name: str) -> str | None:
        return super().fact(f"{self.part}: {name}")

    def set_fact(self, name: str, value: str) -> None:
        super().set_fact(f"{self.part}: {name}", value)

    @property
    def _suffix(self) -> str:
        return f", {self.part}"
