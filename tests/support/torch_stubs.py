"""Operator schemas that torchvision declares in its compiled half, which may be absent."""

import torch

_libraries: list[torch.library.Library] = []  # a Library undeclares its operators when collected


def declare_torchvision_ops() -> None:
    """Declares `torchvision::nms` and `qnms` if no compiled torchvision did.

    open_clip and transformers import torchvision, which registers fake kernels for these two at
    import and fails where they are unknown. Nothing here ever calls them.
    """
    if _libraries or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
