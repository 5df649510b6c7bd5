"""VGG-16 with BatchNorm in CIFAR size (Simonyan & Zisserman 2015; one linear layer, as in Li et al. 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Output channels of each 3x3 convolution; "M" halves the resolution.
LAYERS: tuple[int | str, ...] = (
    64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512,
)  # fmt: skip


class CifarVGG(nn.Module):
    """Input (N, in_channels, H, W) with H, W >= 16, output logits (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in LAYERS:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            out_channels = max(1, round(entry * width))
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits
