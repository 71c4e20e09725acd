"""Kernels packed as a plain C library: header, shared and static library, manifest."""

from tensordsl.codegen.library.build import Library, build_library, pack
from tensordsl.codegen.library.operators import Operator, Variant

__all__ = ["Library", "Operator", "Variant", "build_library", "pack"]
