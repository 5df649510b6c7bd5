"""The rule of each operation: a literal table of ATen's names, without `aten::` and the underscore of what is in place.

Operations that PyTorch itself marks as element-wise or as reductions need no entry, nor do those that it makes of
others. What has no rule at all pins whatever it reads: a network may do anything, and what is not understood stays
as it is.
"""

from functools import partial
from typing import Any

import torch

from autoprune.tracing import products, rules
from autoprune.tracing.rules import Rule

MOVES = (
    *("view", "_unsafe_view", "permute", "t", "transpose", "expand", "squeeze", "unsqueeze", "flip", "roll", "rot90"),
    *("constant_pad_nd", "clone", "_to_copy", "detach", "alias", "repeat", "select", "lift_fresh", "view_copy"),
    *("pixel_shuffle", "pixel_unshuffle", "_reshape_alias", "_reshape_copy", "diagonal", "unfold"),
    *("tril", "triu"),
)
ELEMENTWISE_WITHOUT_TAG = ("hardswish", "_prelu_kernel", "rsub", "masked_fill", "log_sigmoid_forward",
                           "native_dropout", "bernoulli", "where", "rrelu_with_noise")  # fmt: skip
MIXES = ("_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "logcumsumexp", "_fft_r2c", "_fft_c2r", "_fft_c2c")
REDUCTIONS_WITHOUT_TAG = ("sum", "any", "all", "median")
WINDOWS: dict[str, int] = {  # how many of the last dimensions the places lie along
    **{f"{kind}{n}d": n for kind in ("avg_pool", "upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)},
    **{f"{kind}_pad{n}d": n for kind in ("reflection", "replication") for n in (1, 2, 3)},
    **{f"{kind}{n}d": n for kind in ("adaptive_avg_pool", "_adaptive_avg_pool") for n in (2, 3)},
    **{f"{kind}_pool{n}d": n for kind in ("adaptive_max", "fractional_max") for n in (2, 3)},
    **{f"max_pool{n}d_with_indices": n for n in (2, 3)},
    "adaptive_avg_pool1d": 1,
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "upsample_bicubic2d": 2,
    "_upsample_bicubic2d_aa": 2,
    "upsample_trilinear3d": 3,
}
BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
               "_batch_norm_no_update", "_batch_norm_with_update")  # fmt: skip
ATTENTIONS = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
              "_scaled_dot_product_efficient_attention", "_native_multi_head_attention")  # fmt: skip
FAKE_QUANTISERS = ("fake_quantize_per_tensor_affine_cachemask",
                   "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")  # fmt: skip
CONSTANTS_ALIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES, rules.moved),
    **dict.fromkeys(("index", "index_select", "_unsafe_index"), rules.taken),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unbind"), rules.pieces),
    "slice": rules.sliced,
    **dict.fromkeys(("cat", "stack"), rules.concatenated),
    **dict.fromkeys(ELEMENTWISE_WITHOUT_TAG, rules.elementwise),
    **dict.fromkeys((*MIXES, *REDUCTIONS_WITHOUT_TAG), rules.mixed),
    **{name: partial(rules.windows, trailing=trailing) for name, trailing in WINDOWS.items()},
    **dict.fromkeys(BATCH_NORMS, rules.batch_norm),
    "native_group_norm": rules.group_norm,
    "native_layer_norm": rules.layer_norm,
    "channel_shuffle": rules.shuffled,
    **{f"max_unpool{n}d": partial(rules.unpooled, trailing=n) for n in (2, 3)},
    **{f"grid_sampler_{n}d": partial(rules.sampled, trailing=n) for n in (2, 3)},
    **dict.fromkeys((*FAKE_QUANTISERS, *CONSTANTS_ALIKE), rules.as_its_first),
    "glu": rules.gated,
    "embedding": rules.embedded,
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), rules.constant),
    **dict.fromkeys(ATTENTIONS, rules.attention),
    "convolution": products.convolution,
    **dict.fromkeys(("mm", "addmm"), partial(products.product, batch=0)),
    **dict.fromkeys(("bmm", "baddbmm"), partial(products.product, batch=1)),
}
# What cuts an axis into pieces, or spreads it over several.
SPLITS = ("slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
SPREADS = ("view", "_unsafe_view")


def rule_of(func: Any, name: str) -> Rule | None:
    """The rule of an operation (`torch._ops.OpOverload`) of that name: None if nobody knows what it does."""
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in func.tags:
        return rules.elementwise
    return rules.mixed if torch.Tag.reduction in func.tags else None
