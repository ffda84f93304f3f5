"""gsplat's CUDA kernels through `gsplat.rasterization`, packed and unpacked.

Written against gsplat 1.5.3. It needs an NVIDIA GPU.
"""

# pyright: reportMissingImports=false

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.peers.gsplat_torch import torch_passes


class GsplatCuda:
    """Peers "gsplat-cuda-packed" and "gsplat-cuda-unpacked"."""

    def __init__(self, packed: bool):
        self.packed = packed

    def unavailable(self) -> str | None:
        """Say why it cannot run here, None when it can."""
        missing = [name for name in ("torch", "gsplat") if not importlib.util.find_spec(name)]
        if missing:
            return f"{' and '.join(missing)} not installed in this interpreter"
        import torch

        if not torch.cuda.is_available():
            return "torch sees no GPU"
        backend = importlib.import_module("gsplat.cuda._backend")
        return None if backend._C else "gsplat's CUDA extension is neither built nor can be"

    def environment(self) -> dict[str, Any]:
        """Name versions and device."""
        import gsplat
        import torch

        return {
            "platform": "gpu",
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "gsplat": gsplat.__version__,
        }

    def load(self, inputs: dict[str, np.ndarray]) -> dict[str, Callable[[], Callable[[], Any]]]:
        """Give, for each pass, what prepares it: see `splat_worker.Engine`."""
        from gsplat import rasterization

        def draw(means, quats, scales, opacities, colors, viewmats, K, width, height):
            image, alpha, _ = rasterization(
                means,
                quats,
                scales,
                opacities,
                colors,
                viewmats,
                K.expand(len(viewmats), 3, 3).contiguous(),
                width,
                height,
                packed=self.packed,
            )
            return image, alpha[..., 0]

        return torch_passes(inputs, draw, "cuda")

    def device_peak_mb(self) -> float:
        """Most memory that tensors took on the GPU since the last call, in MB."""
        import torch

        peak = torch.cuda.max_memory_allocated() / 1e6
        torch.cuda.reset_peak_memory_stats()
        return peak
