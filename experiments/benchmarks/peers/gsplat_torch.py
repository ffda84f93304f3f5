"""gsplat's torch reference on the CPU: `gsplat.rendering._rasterization` with its defaults.

gsplat's: everything that is differentiated but the product and the sums along a pixel, that is
projection, alphas, colours, and torch's autograd through them. Ours: `gsplat_extension`, in place
of what gsplat and nerfacc do in CUDA.
"""

# pyright: reportMissingImports=false

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np


def render(
    means,
    quats,
    scales,
    opacities,
    colors,
    viewmats,
    K,
    width: int,
    height: int,
    *,
    antialias: bool = False,
    fast_lists: bool = True,
):
    """Render Gaussians with gsplat's torch reference; differentiable by torch.

    Args:
        means: centres, world units, tensor [N, 3].
        quats: orientations, wxyz [N, 4].
        scales: standard deviations, world units [N, 3].
        opacities: in [0, 1] [N].
        colors: [N, 3].
        viewmats: world to camera, OpenCV axes [B, 4, 4].
        K: intrinsics, pixels [3, 3].
        width: pixels.
        height: pixels.
        antialias: scale opacities by the Mip compensation.
        fast_lists: see `gsplat_extension.install`.

    Returns:
        Images [B, H, W, 3] and opacities [B, H, W].
    """
    from experiments.benchmarks.peers import gsplat_extension

    image, alpha, _ = gsplat_extension.install(fast_lists)._rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmats,
        K.expand(len(viewmats), 3, 3),
        width,
        height,
        rasterize_mode="antialiased" if antialias else "classic",
    )
    return image, alpha[..., 0]


class GsplatTorch:
    """Peer "gsplat-torch" (gsplat's own lists of tiles) and "gsplat-torch-tuned" (fast ones)."""

    def __init__(self, fast_lists: bool):
        self.fast_lists = fast_lists

    def unavailable(self) -> str | None:
        """Say why it cannot run here, None when it can."""
        missing = [name for name in ("torch", "gsplat") if not importlib.util.find_spec(name)]
        if missing:
            return f"{' and '.join(missing)} not installed in this interpreter"
        import torch

        return "there is a GPU: gsplat's kernels run on it" if torch.cuda.is_available() else None

    def environment(self) -> dict[str, Any]:
        """Name versions, device and threads; sets torch's threads to the cores allowed."""
        import gsplat
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        return {
            "platform": "cpu",
            "torch": torch.__version__,
            "gsplat": gsplat.__version__,
            "threads": torch.get_num_threads(),
        }

    def load(self, inputs: dict[str, np.ndarray]) -> dict[str, Callable[[], Callable[[], Any]]]:
        """Give, for each pass, what prepares it: see `splat_worker.Engine`."""
        return torch_passes(inputs, functools.partial(render, fast_lists=self.fast_lists), "cpu")

    def device_peak_mb(self) -> None:
        """The host's memory is all there is."""


def torch_passes(inputs: dict[str, np.ndarray], draw: Callable, device: str):
    """Build the passes of a torch renderer with the signature of `render`."""
    import torch

    names = ("means", "quats", "scales", "opacities", "colors")
    leaves = [torch.tensor(inputs[name], device=device, requires_grad=True) for name in names]
    view = [torch.tensor(inputs[name], device=device) for name in ("viewmats", "K")]
    width, height = (int(side) for side in inputs["size"])

    def finished(result):
        if device != "cpu":
            torch.cuda.synchronize()
        return result

    def forward():
        with torch.no_grad():
            return finished(draw(*leaves, *view, width, height)[0])

    def forward_backward():
        image, _ = draw(*leaves, *view, width, height)
        loss = torch.mean(torch.square(image - 0.5))
        return finished((loss.detach(), *torch.autograd.grad(loss, leaves)))

    return {"forward": lambda: forward, "forward_backward": lambda: forward_backward}
