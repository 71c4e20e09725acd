"""Numpy's operators on tensors: each builds a new tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from tensordsl.expr import Expr

if TYPE_CHECKING:
    from tensordsl.tensor import Tensor


class TensorOperators:
    """The one home of their meaning is array.py."""

    __slots__ = ()

    def _binary(self, name: str, left: Any, right: Any) -> Any:
        from tensordsl import array

        return array.binary(name, left, right)

    @overload
    def __add__(self, o: Expr) -> Expr: ...
    @overload
    def __add__(self, o: Tensor | float) -> Tensor: ...
    def __add__(self, o: Any) -> Any:
        return self._binary("add", self, o)

    def __radd__(self, o: float) -> Tensor:
        return self._binary("add", o, self)  # type: ignore[no-any-return]

    @overload
    def __sub__(self, o: Expr) -> Expr: ...
    @overload
    def __sub__(self, o: Tensor | float) -> Tensor: ...
    def __sub__(self, o: Any) -> Any:
        return self._binary("sub", self, o)

    def __rsub__(self, o: float) -> Tensor:
        return self._binary("sub", o, self)  # type: ignore[no-any-return]

    @overload
    def __mul__(self, o: Expr) -> Expr: ...
    @overload
    def __mul__(self, o: Tensor | float) -> Tensor: ...
    def __mul__(self, o: Any) -> Any:
        return self._binary("mul", self, o)

    def __rmul__(self, o: float) -> Tensor:
        return self._binary("mul", o, self)  # type: ignore[no-any-return]

    @overload
    def __truediv__(self, o: Expr) -> Expr: ...
    @overload
    def __truediv__(self, o: Tensor | float) -> Tensor: ...
    def __truediv__(self, o: Any) -> Any:
        return self._binary("div", self, o)

    def __rtruediv__(self, o: float) -> Tensor:
        return self._binary("div", o, self)  # type: ignore[no-any-return]

    @overload
    def __floordiv__(self, o: Expr) -> Expr: ...
    @overload
    def __floordiv__(self, o: Tensor | float) -> Tensor: ...
    def __floordiv__(self, o: Any) -> Any:
        return self._binary("floordiv", self, o)

    def __rfloordiv__(self, o: float) -> Tensor:
        return self._binary("floordiv", o, self)  # type: ignore[no-any-return]

    @overload
    def __mod__(self, o: Expr) -> Expr: ...
    @overload
    def __mod__(self, o: Tensor | float) -> Tensor: ...
    def __mod__(self, o: Any) -> Any:
        return self._binary("mod", self, o)

    def __rmod__(self, o: float) -> Tensor:
        return self._binary("mod", o, self)  # type: ignore[no-any-return]

    @overload
    def __pow__(self, o: Expr) -> Expr: ...
    @overload
    def __pow__(self, o: Tensor | float) -> Tensor: ...
    def __pow__(self, o: Any) -> Any:
        return self._binary("pow", self, o)

    def __rpow__(self, o: float) -> Tensor:
        return self._binary("pow", o, self)  # type: ignore[no-any-return]

    @overload
    def __lt__(self, o: Expr) -> Expr: ...
    @overload
    def __lt__(self, o: Tensor | float) -> Tensor: ...
    def __lt__(self, o: Any) -> Any:
        return self._binary("lt", self, o)

    @overload
    def __le__(self, o: Expr) -> Expr: ...
    @overload
    def __le__(self, o: Tensor | float) -> Tensor: ...
    def __le__(self, o: Any) -> Any:
        return self._binary("le", self, o)

    @overload
    def __gt__(self, o: Expr) -> Expr: ...
    @overload
    def __gt__(self, o: Tensor | float) -> Tensor: ...
    def __gt__(self, o: Any) -> Any:
        return self._binary("gt", self, o)

    @overload
    def __ge__(self, o: Expr) -> Expr: ...
    @overload
    def __ge__(self, o: Tensor | float) -> Tensor: ...
    def __ge__(self, o: Any) -> Any:
        return self._binary("ge", self, o)

    @overload
    def __and__(self, o: Expr) -> Expr: ...
    @overload
    def __and__(self, o: Tensor | float) -> Tensor: ...
    def __and__(self, o: Any) -> Any:
        return self._binary("and", self, o)

    @overload
    def __or__(self, o: Expr) -> Expr: ...
    @overload
    def __or__(self, o: Tensor | float) -> Tensor: ...
    def __or__(self, o: Any) -> Any:
        return self._binary("or", self, o)
