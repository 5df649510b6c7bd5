"""A copy of a model to work on: weights that are made of others are made once and for all, and nothing is shared."""

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from autoprune.errors import ModelError
from autoprune.models.weight_checks import check_shapes_known, strangeness
from autoprune.pruning.copies import copy_with
from autoprune.tracing.structures import tensors_in

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy without parametrisations: weight norm, spectral norm, pruning masks and the like are baked in.

    Raises `ModelError` for what is no plain module: a wrapper, a script, tensors without values.
    """
    copied = own_copy(model)
    bake(copied)
    return copied


def own_copy(model: nn.Module) -> nn.Module:
    """A deep copy, of modules too that keep tensors which autograd made. Raises as `check_module` does."""
    check_module(model)
    try:
        return copy_with(model, {id(tensor): tensor.detach().clone() for tensor in _computed(model)})
    except Exception as error:  # whatever it keeps may not be copied
        raise ModelError(
            f"model: it cannot be copied ({type(error).__name__}: {str(error)[:200]}); take what is no weight of it, "
            f"such as a file, a lock or a generator, out of its attributes"
        ) from None


def check_module(model: nn.Module) -> None:
    """Raise `ModelError` for what cannot be read as a network of plain tensors, naming the way out."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"model: {type(model).__name__} is no torch.nn.Module")
    for name, module in model.named_modules():
        if isinstance(module, WRAPPERS):
            where = f"{name}, " if name else ""
            raise ModelError(f"model: {where}a {type(module).__name__}, wraps the network; give its .module")
        if type(module).__module__.startswith("torch.jit"):
            raise ModelError(f"model: {name or 'it'} is a TorchScript module; give the module that it was made of")
        if type(module).__name__ == "OptimizedModule":
            raise ModelError(f"model: {name or 'it'} was compiled; give the module before torch.compile")
    check_shapes_known(model, "model")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if strange := strangeness(tensor):
            raise ModelError(f"model: {name} is {strange}")


def bake(model: nn.Module) -> list[str]:
    """Take parametrisations off, in place, keeping the weights as they act; the modules that had one."""
    baked = []
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            baked.append(name)
            shared = type(module)  # made for the original, which must keep its own
            module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
            for field in list(module.parametrizations):
                parametrize.remove_parametrizations(module, field, leave_parametrized=True)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
            else:
                continue
            baked.append(name)
    return baked


def _computed(model: nn.Module) -> list[Tensor]:
    """Tensors that modules keep though autograd made them: `deepcopy` refuses those."""
    found = []
    for module in model.modules():
        own = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_modules")}
        found += [tensor for tensor in tensors_in(own) if not tensor.is_leaf]
    return found
