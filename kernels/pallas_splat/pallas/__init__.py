"""The GPU engine: tile kernels in Pallas, lowered through Triton."""

from pallas_splat.pallas.backend import composite, count, median
from pallas_splat.pallas.call import available, interpreted
from pallas_splat.project import project

__all__ = ["available", "composite", "count", "interpreted", "median", "project"]
