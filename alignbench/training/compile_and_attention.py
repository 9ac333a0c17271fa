"""Ways to compute the same network faster; docs/performance.md says how nearly the same."""

from typing import TYPE_CHECKING, Any

from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from alignbench.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from alignbench.models.adapter import ModelAdapter


def compile_networks(model: "ModelAdapter") -> None:
    """Have torch.compile make kernels for the network and its reference, so that both compute alike."""
    for network in (model.denoiser, model.reference_network):
        if network is not None:
            network.compile()


def set_attention_backend(network: Any, name: str) -> None:
    """Have attention of a network of diffusers computed by another of its back ends.

    Raises:
        UserError: if the back end is unknown or not usable here, or the network does not go through them.
    """
    processors = [getattr(module, "processor", None) for module in network.modules()]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise UserError(
            f"train.attention_backend={name} has no effect on a {type(network).__name__}, whose attention is torch's "
            "own; set train.attention_backend=null"
        )
    known = [one.value for one in AttentionBackendName]
    if name not in known:
        raise UserError(f"train.attention_backend={name} is unknown;{did_you_mean(name, known)}")
    try:
        with attention_backend(AttentionBackendName(name)):  # diffusers would make it that of all networks
            network.set_attention_backend(name)
    except (RuntimeError, ImportError, ValueError) as error:
        raise UserError(f"train.attention_backend={name} cannot be used here: {error}") from None
