"""Active lanes as C text: bits of an integer where the instruction set has them, else vectors of integers.

Every run-time condition on a lane is turned into "the first n lanes" or "all but the first n", so
one small function per type makes every mask, and lanes need no wide arithmetic.
"""

from __future__ import annotations

from tensordsl.codegen.c.addresses import affine_text, at_lane, lane_part, value_range
from tensordsl.codegen.c.types import signed, vector_name
from tensordsl.codegen.c.writer import LANE, Mask, Writer

from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.targets.avx512 import mask_type


def every(lanes: int) -> int:
    return (1 << lanes) - 1


def narrowed(w: Writer, mask: Mask | None, lanes: int, conditions: tuple[Affine, ...]) -> Mask | None:
    """A mask with further conditions; those on the lane alone are decided now."""
    bits = every(lanes) if mask is None else mask.bits
    kept = () if mask is None else mask.conditions
    excluded = () if mask is None else mask.excluded
    for c in conditions:
        if _on_lane_alone(c):
            bits &= _literal(c, lanes)
        elif c not in kept:
            low, _ = value_range(w, c)
            if low is None or low < 0:
                kept = (*kept, c)
    result = Mask(bits, kept, excluded)
    return None if result == Mask(every(lanes)) else result


def without(mask: Mask | None, lanes: int, conditions: tuple[Affine, ...]) -> Mask | None:
    """A mask less the lanes where all conditions hold."""
    bits = every(lanes) if mask is None else mask.bits
    old = () if mask is None else mask.conditions
    excluded = () if mask is None else mask.excluded
    if all(map(_on_lane_alone, conditions)):
        held = every(lanes)
        for c in conditions:
            held &= _literal(c, lanes)
        bits &= ~held
    else:
        excluded = (*excluded, conditions)
    result = Mask(bits, old, excluded)
    return None if result == Mask(every(lanes)) else result


def _on_lane_alone(c: Affine) -> bool:
    return c.names() <= {LANE} and not any(True for _ in c.data())


def _literal(c: Affine, lanes: int) -> int:
    return sum(1 << i for i in range(lanes) if at_lane(c, i).const >= 0)


def is_literal(mask: Mask | None) -> bool:
    return mask is None or not (mask.conditions or mask.excluded)


def is_empty(mask: Mask | None) -> bool:
    return mask is not None and mask.bits == 0


def first_lanes(mask: Mask | None) -> int | None:
    """n where the mask is a literal one of the first n lanes."""
    if mask is None or not is_literal(mask) or mask.bits & (mask.bits + 1):
        return None
    return mask.bits.bit_length()


def guard_text(w: Writer, mask: Mask, t: DType, lanes: int) -> str:
    """The mask that a masked load or store of this type takes."""
    if w.target.isa == "avx512":
        return _combined(w, mask, lanes, mask_type(lanes), "first", t)
    return vector_text(w, mask, t.bits, lanes)


def vector_text(w: Writer, mask: Mask, bits: int, lanes: int) -> str:
    """The mask as a vector of signed integers of a width."""
    t = signed(bits)
    return _combined(w, mask, lanes, w.prelude.vector(t, lanes), "below", t)


def _combined(w: Writer, mask: Mask, lanes: int, c_type: str, verb: str, t: DType) -> str:
    as_bits = verb == "first" and w.target.isa == "avx512"
    if is_literal(mask):
        return _literal_text(mask.bits, lanes, c_type, as_bits)
    key = ("mask", mask, c_type)
    found = w.named(key)
    if found is not None:
        return found
    parts = [_condition(w, c, lanes, c_type, verb, t, as_bits, mask) for c in mask.conditions]
    for group in mask.excluded:
        held = " & ".join(_condition(w, c, lanes, c_type, verb, t, as_bits, mask) for c in group)
        parts.append(f"({c_type})~({held})" if as_bits else f"~({held})")
    if mask.bits != every(lanes):
        parts.append(_literal_text(mask.bits, lanes, c_type, as_bits))
    return w.name(key, c_type, "m", " & ".join(parts))


def _literal_text(bits: int, lanes: int, c_type: str, as_bits: bool) -> str:
    if as_bits:
        return f"{bits:#x}ULL" if lanes == 64 else f"{bits:#x}"
    return f"({c_type}){{{', '.join('-1' if bits >> i & 1 else '0' for i in range(lanes))}}}"


def _condition(
    w: Writer, c: Affine, lanes: int, c_type: str, verb: str, t: DType, as_bits: bool, mask: Mask
) -> str:  # fmt: skip
    """``c >= 0`` per lane of a mask."""
    k, inside = lane_part(c)
    if inside:  # no closed form: lane by lane
        texts = [_at_lane_text(w, c, i, mask) for i in range(lanes)]
        if as_bits:
            return f"({c_type})({' | '.join(f'({x} ? {1 << i:#x}ULL : 0)' for i, x in enumerate(texts))})"
        return f"-({c_type}){{{', '.join(texts)}}}"
    first = w.prelude.verb(verb, t, lanes)
    rest = Affine(tuple((a, x) for a, x in c.terms if a != LANE), c.const)
    if k == 0:
        return f"{first}({affine_text(w, rest)} >= 0 ? {lanes} : 0)"
    if k < 0:  # lane <= rest // -k
        return f"{first}({affine_text(w, rest // -k + 1)})"
    # lane >= ceil(-rest / k) = -(rest // k)
    text = f"~{first}({affine_text(w, -(rest // k))})"
    return f"({c_type}){text}" if as_bits else text


def _at_lane_text(w: Writer, c: Affine, lane: int, mask: Mask) -> str:
    """``c >= 0`` in one lane.  What it reads from memory is there only where the other conditions hold."""
    needed = [c]
    if any(True for _ in c.data()):
        if not mask.bits >> lane & 1:
            return "0"
        needed = [x for x in mask.conditions if not any(True for _ in x.data())] + needed
    return f"({' && '.join(f'{affine_text(w, at_lane(x, lane))} >= 0' for x in needed)})"


def any_text(w: Writer, mask: Mask, t: DType, lanes: int) -> str:
    """Is any lane active?"""
    guard = guard_text(w, mask, t, lanes)
    if w.target.isa == "avx512":
        used = f" & {every(lanes):#x}" if lanes < 8 else ""
        return f"({guard}{used}) != 0"
    return f"{w.prelude.verb('any', signed(t.bits), lanes)}({guard})"


def blend(w: Writer, mask: Mask, t: DType, lanes: int, then: str, otherwise: str) -> str:
    """``then`` in the active lanes, ``otherwise`` in the rest (both vectors)."""
    if is_literal(mask):
        m = w.prelude.vector(signed(t.bits), lanes)
        w.prelude.shuffle()
        picks = ", ".join(str(i if mask.bits >> i & 1 else lanes + i) for i in range(lanes))
        return f"td_shuffle({m}, {then}, {otherwise}, {picks})"
    if ("blend", vector_name(t, lanes)) in w.target.instructions:
        choose = w.prelude.verb("blend", t, lanes)
        return f"{choose}({guard_text(w, mask, t, lanes)}, {then}, {otherwise})"
    choose = w.prelude.verb("select", t, lanes)
    return f"{choose}({vector_text(w, mask, t.bits, lanes)}, {then}, {otherwise})"
