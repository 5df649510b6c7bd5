"""How a candidate does on the images that it was looked at with."""

import math
from dataclasses import dataclass, replace

ROUNDING = 1e-3  # of a KL, which may come out below zero by it
LARGEST_NATS = 1e6  # of a loss: float32 outputs of a sound network differ by far less


@dataclass(frozen=True)
class Score:
    """How a candidate does; `kl` is KL(original || candidate) in nats, a mean over images of the search split.

    A candidate is looked at more and more closely: `look` counts from 0, and only the last one is `complete`. Scores of
    one look are of the same images; those of different looks are not, so they compare only through `look`. Standard
    errors are those of the means over `images`.
    """

    kl: float
    cross_entropy: float
    top1: float
    images: int
    kl_se: float = 0.0
    cross_entropy_se: float = 0.0
    look: int = 0
    complete: bool = True

    @property
    def is_sound(self) -> bool:
        """Whether each loss is one that a network can have; NaN is none."""
        losses = (self.kl, self.cross_entropy, self.kl_se, self.cross_entropy_se)
        return all(-ROUNDING <= loss <= LARGEST_NATS for loss in losses) and math.isfinite(self.top1)

    @property
    def top1_se(self) -> float:
        return math.sqrt(self.top1 * (1.0 - self.top1) / self.images)

    def at_best(self, standard_errors: float) -> "Score":
        """The score with each mean so many standard errors better than it was found."""
        return replace(
            self,
            kl=max(self.kl - standard_errors * self.kl_se, 0.0),
            cross_entropy=max(self.cross_entropy - standard_errors * self.cross_entropy_se, 0.0),
            top1=min(self.top1 + standard_errors * self.top1_se, 1.0),
        )
