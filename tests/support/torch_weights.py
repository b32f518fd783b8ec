"""Random weights for torch oracles, and their tensors by name."""

import numpy as np
import torch


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Kernels that keep activations near 1; norms and biases well away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
            mean = parameter.mean() if parameter.ndim == 1 else 0.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(mean + fan_in**-0.5 * noise)


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict as NumPy arrays."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
