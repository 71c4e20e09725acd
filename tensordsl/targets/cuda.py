"""CUDA devices as data.  Numbers: CUDA C Programming Guide, "Technical Specifications per Compute Capability"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from tensordsl.errors import BuildError, closest


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """What a kernel may use of a device.

    id: name under which records are kept; architecture: nvcc's name; threads_per_block,
    shared_bytes_per_block (dynamic, opted in), registers_per_block (32 bits): launch limits;
    has_async_copy: cp.async from global to shared memory.
    """

    id: str
    architecture: str
    shared_bytes_per_block: int
    has_async_copy: bool = True
    threads_per_block: int = 1024
    registers_per_block: int = 65536

    def __str__(self) -> str:
        return self.id


KNOWN: dict[str, CudaTarget] = {
    t.id: t
    for t in (
        CudaTarget("cuda-sm_75", "sm_75", 64 * 1024, has_async_copy=False),
        CudaTarget("cuda-sm_80", "sm_80", 163 * 1024),
        CudaTarget("cuda-sm_86", "sm_86", 99 * 1024),
        CudaTarget("cuda-sm_89", "sm_89", 99 * 1024),
        CudaTarget("cuda-sm_90a", "sm_90a", 227 * 1024),
    )
}


def cuda_target(name: Union[str, CudaTarget]) -> CudaTarget:
    """A device by id or by nvcc's name of its architecture.  Raises BuildError for others."""
    if isinstance(name, CudaTarget):
        return name
    for t in KNOWN.values():
        if name in (t.id, t.architecture):
            return t
    like = closest(str(name), KNOWN)
    raise BuildError(
        f"unknown CUDA target {name!r}", legal=list(KNOWN), hint=f"did you mean {like!r}?" if like else None
    )
