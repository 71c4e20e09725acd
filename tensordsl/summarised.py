"""Methods of tensors that reduce over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from tensordsl.tensor import Tensor

#: Dimensions of a tensor to reduce over: None (all), one, or several.
Axes = Union[int, Sequence[int], None]


class Summarised:
    """A base of `Tensor`."""

    __slots__ = ()

    @property
    def _tensor(self) -> Tensor:
        return self  # type: ignore[return-value]

    def _reduce(self, name: str, axis: Axes, keepdims: bool) -> Tensor:
        from tensordsl import array

        return array.reduce(name, self._tensor, axis, keepdims)

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("sum", axis, keepdims)

    def prod(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("prod", axis, keepdims)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("max", axis, keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._reduce("min", axis, keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        from tensordsl import array

        return array.mean(self._tensor, axis, keepdims)

    def argmax(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._summary("argmax", axis, keepdims)

    def argmin(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._summary("argmin", axis, keepdims)

    def any(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._summary("any", axis, keepdims)

    def all(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return self._summary("all", axis, keepdims)

    def var(self, axis: Axes = None, keepdims: bool = False, *, ddof: int = 0) -> Tensor:
        return self._summary("var", axis, keepdims, ddof=ddof)

    def std(self, axis: Axes = None, keepdims: bool = False, *, ddof: int = 0) -> Tensor:
        return self._summary("std", axis, keepdims, ddof=ddof)

    def _summary(self, name: str, axis: Axes, keepdims: bool, **more: int) -> Tensor:
        from tensordsl import summaries

        found: Tensor = getattr(summaries, name)(self._tensor, axis, keepdims, **more)
        return found
