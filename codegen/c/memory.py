"""Loads and stores: scalar, vector, masked, strided; what an access becomes follows from its lane stride."""

from __future__ import annotations

from math import gcd

from tensordsl.codegen.c import masks, patterns
from tensordsl.codegen.c.addresses import at_lane, element_text, joined, lane_part, linear, pointer, value_range
from tensordsl.codegen.c.types import Value, assignment, bare, vector_name
from tensordsl.codegen.c.writer import LANE, Mask, Place, Writer
from tensordsl.schedules.loopnest import Buffer

from tensordsl import dtypes
from tensordsl.affine import Affine, Datum
from tensordsl.dtypes import DType
from tensordsl.sizes import at_most


def _start(address: Affine) -> Affine:
    """The address of lane 0."""
    return Affine(tuple([t for t in address.terms if t[0] != LANE]), address.const)


def load(w: Writer, b: Buffer, index: tuple[Affine, ...], place: Place) -> Value:
    """The element, or the element of each active lane (inactive lanes are not touched: 0, or any other element)."""
    if b.name in w.scalars:
        return Value(w.base(b.name), b.dtype)
    bank, address = linear(w, b, index)
    if place.env:
        address = address.substitute(place.env)
        bank = bank.substitute(place.env) if bank is not None else None
    lanes = place.lanes
    stride, irregular = lane_part(address) if lanes else (0, False)
    if bank is not None and lanes and LANE in bank.names():
        irregular = True
    if irregular or stride not in (0, 1):
        text = None if bank is not None and LANE in bank.names() else _pattern(w, b, bank, address, place)
        if text is not None:
            return truth(Value(text, b.dtype, lanes))
    if irregular:
        text = None if bank is not None else _at_data(w, b, address, place)
        return truth(Value(text or _each_lane(w, b, bank, address, place), b.dtype, lanes))
    if not stride:
        text = element_text(*pointer(w, b, bank, address))
        if place.mask is not None and not masks.is_literal(place.mask) and not _exists(w, b, index, place):
            # perhaps no lane is active at all
            text = f"({masks.any_text(w, place.mask, b.dtype, lanes)} ? {text} : 0)"
        return Value(text, b.dtype)
    return truth(Value(_load_vector(w, b, bank, address, stride, place), b.dtype, lanes))


def _exists(w: Writer, b: Buffer, index: tuple[Affine, ...], place: Place) -> bool:
    """Is an element there to be read whether a lane asks for it or not?"""
    c = w.contexts[-1]
    known = [i.substitute(place.env) for i in index]
    return all(c.implies(i) and c.implies(Affine.of(e) - 1 - i) for i, e in zip(known, b.shape))


def truth(v: Value) -> Value:
    """Conditions are bytes in memory and masks in registers."""
    return v._replace(text=f"({v.text} != 0)", width=8) if v.dtype.kind == "b" else v


def _load_vector(w: Writer, b: Buffer, bank: Affine | None, address: Affine, stride: int, place: Place) -> str:
    lanes, mask, t = place.lanes, place.mask, b.dtype
    p = joined(*pointer(w, b, bank, _start(address)))
    vector = w.prelude.vector(t, lanes)
    if stride != 1:
        if mask is None:
            return f"{w.prelude.verb('gather', t, lanes)}({bare(p)}, {stride})"
        guard = masks.guard_text(w, mask, t, lanes)
        return f"{w.prelude.verb('gather_masked', t, lanes)}({bare(p)}, {stride}, {guard})"
    if mask is None:
        return f"*(const {vector}u *){p}"
    return masked_load(w, t, lanes, p, mask)


def _pattern(w: Writer, b: Buffer, bank: Affine | None, address: Affine, place: Place) -> str | None:
    """Lanes at fixed distances in few vectors of memory, or None (see `patterns`)."""
    lanes, t = place.lanes, b.dtype
    if not masks.is_literal(place.mask) or masks.is_empty(place.mask):
        return None
    bits = masks.every(lanes) if place.mask is None else place.mask.bits
    found = patterns.offsets(address, lanes, bits)
    if found is None:
        return None
    lowest = at_lane(address, next(lane for lane, d in found.items() if d == 0))
    shift = _shift(w, b, lowest, found, lanes)
    if shift is not None:  # neighbouring reads of the same stride then load the same vectors
        lowest = lowest - shift
        found = {lane: d + shift for lane, d in found.items()}
        begins: list[int] | None = list(range(0, max(found.values()) + 1, lanes))
    else:
        begins = patterns.starts(found, lanes)
    if begins is None:
        return None
    span = max(found.values()) + 1
    whole = None if span >= lanes or shift is not None else Mask(masks.every(span))
    c_type = w.prelude.vector(t, lanes)
    # shared vectors are loaded once; and gcc would load a masked vector whole where only its first lanes are used
    barrier = w.prelude.keep(lanes, t) if shift is not None or whole is not None else None
    vectors = []
    for begin in begins:
        start = lowest + begin
        p = joined(*pointer(w, b, bank, start))
        text = f"*(const {c_type}u *){p}" if whole is None else masked_load(w, t, lanes, p, whole)
        key = ("vector", b.name, bank, start, c_type, whole)
        known = None if b.name in w.stored else w.named(key)  # what is written may have changed since
        vectors.append(known or w.name(key, c_type, "v", text, barrier))
    return patterns.combined(w, t, lanes, vectors, begins, found)


def _shift(w: Writer, b: Buffer, lowest: Affine, found: dict[int, int], lanes: int) -> int | None:
    """How far below the lowest element whole vectors may begin that cover all phases of a stride.

    None: a stride of 1, too many vectors, or they might reach outside the buffer.
    """
    stride = gcd(*found.values())
    shift = lowest.const % stride if stride > 1 else 0
    count = -(-(max(found.values()) + shift + 1) // lanes)
    if stride <= 1 or count > min(patterns.MOST_LOADS, lanes // 2):
        return None
    low, high = value_range(w, lowest)
    inside = low is not None and high is not None and low >= shift and at_most(high - shift + count * lanes, b.size())
    return shift if inside else None


def masked_load(w: Writer, t: DType, lanes: int, p: str, mask: Mask) -> str:
    count = masks.first_lanes(mask)
    if count is not None and not _has_masks(w, t, lanes):
        return f"{w.prelude.verb('load_first', t, lanes)}({bare(p)}, {count})"
    return f"{w.prelude.verb('load_masked', t, lanes)}({bare(p)}, {masks.guard_text(w, mask, t, lanes)})"


def _has_masks(w: Writer, t: DType, lanes: int) -> bool:
    """Has the target an instruction for masked moves of this vector?"""
    return ("load_masked", vector_name(t, lanes)) in w.target.instructions


def _each_lane(w: Writer, b: Buffer, bank: Affine | None, address: Affine, place: Place) -> str:
    """No stride describes the lanes (a division or remainder of the lane): element by element."""
    lanes, mask = place.lanes, place.mask
    bits = masks.every(lanes) if mask is None else mask.bits
    guard = None
    if mask is not None and not masks.is_literal(mask):
        guard = masks.vector_text(w, mask, b.dtype.bits, lanes)
    texts = []
    for lane in range(lanes):
        if not bits >> lane & 1:
            texts.append("0")
            continue
        text = element_text(*pointer(w, b, _bank_at(bank, lane), at_lane(address, lane)))
        texts.append(f"{guard}[{lane}] ? {text} : 0" if guard else text)
    return f"({w.prelude.vector(b.dtype, lanes)}){{{', '.join(texts)}}}"


def _at_data(w: Writer, b: Buffer, address: Affine, place: Place) -> str | None:
    """Lanes at offsets that are the lanes of one number read from memory, or None."""
    varying = [(atom, k) for atom, k in address.terms if (atom == LANE or LANE in Affine(((atom, 1),)).names())]
    if not at_most(b.size(), (1 << 31) - 1) or len(varying) != 1:
        return None
    d, k = varying[0]
    if not isinstance(d, Datum):
        return None
    verb = "gather_at" if place.mask is None else "gather_at_masked"
    if (verb, vector_name(b.dtype, place.lanes)) not in w.target.instructions or d.source.name in w.forms:
        return None
    index = load(w, d.source, d.index, place._replace(env={}))
    if not index.lanes:
        return None
    text = index.text
    if d.source.dtype.bits != 32:
        text = f"{w.prelude.conversion(d.source.dtype, dtypes.int32, place.lanes)}({bare(text)})"
    elif d.source.dtype.kind == "u":
        text = f"({w.prelude.vector(dtypes.int32, place.lanes)}){text}"
    if k != 1:
        text = f"({text} * {k})"
    rest = address - Affine(((d, k),))
    p = joined(*pointer(w, b, None, rest))
    if place.mask is None:
        return f"{w.prelude.verb(verb, b.dtype, place.lanes)}({bare(p)}, {bare(text)})"
    guard = masks.guard_text(w, place.mask, b.dtype, place.lanes)
    return f"{w.prelude.verb(verb, b.dtype, place.lanes)}({bare(p)}, {bare(text)}, {guard})"


def _bank_at(bank: Affine | None, lane: int) -> Affine | None:
    return None if bank is None else at_lane(bank, lane)


# ---------------------------------------------------------------- stores


def target_address(
    w: Writer, b: Buffer, index: tuple[Affine, ...], place: Place
) -> tuple[Affine | None, Affine, int, bool]:
    """(bank, address, lane stride, does no stride describe the lanes) of a stored cell."""
    bank, address = linear(w, b, index)
    if place.env:
        address = address.substitute(place.env)
        bank = bank.substitute(place.env) if bank is not None else None
    stride, irregular = lane_part(address) if place.lanes else (0, False)
    if bank is not None and place.lanes and LANE in bank.names():
        irregular = True
    return bank, address, stride, irregular


def store_scalar(w: Writer, b: Buffer, bank: Affine | None, address: Affine, text: str) -> None:
    w.line(assignment(element_text(*pointer(w, b, bank, address)), text))


def store_vector(
    w: Writer, b: Buffer, bank: Affine | None, address: Affine, stride: int, place: Place, text: str, stream: bool
) -> None:  # fmt: skip
    """Store the active lanes of a vector text."""
    lanes, mask, t = place.lanes, place.mask, b.dtype
    p = joined(*pointer(w, b, bank, _start(address)))
    if stride != 1:
        if mask is None:
            w.line(f"{w.prelude.verb('scatter', t, lanes)}({bare(p)}, {stride}, {text});")
        else:
            guard = masks.guard_text(w, mask, t, lanes)
            w.line(f"{w.prelude.verb('scatter_masked', t, lanes)}({bare(p)}, {stride}, {guard}, {text});")
    elif mask is not None:
        count = masks.first_lanes(mask)
        if count is not None and not _has_masks(w, t, lanes):
            w.line(f"{w.prelude.verb('store_first', t, lanes)}({bare(p)}, {count}, {text});")
        else:
            guard = masks.guard_text(w, mask, t, lanes)
            w.line(f"{w.prelude.verb('store_masked', t, lanes)}({bare(p)}, {guard}, {text});")
    elif stream:
        w.streams = True
        w.line(f"{w.prelude.verb('stream', t, lanes)}({bare(p)}, {text});")
    else:
        v = f"{w.prelude.vector(t, lanes)}u"
        target, old = f"*({v} *){p}", f"*(const {v} *){p}"
        w.line(assignment(target, target + text[len(old) :] if text.startswith(f"{old} ") else text))


def store_each_lane(w: Writer, b: Buffer, bank: Affine | None, address: Affine, place: Place, text: str) -> None:
    """Store lane by lane, in order (the last one wins where lanes share a cell)."""
    lanes, mask = place.lanes, place.mask
    value = w.function.fresh("t")
    w.line(f"const {w.prelude.vector(b.dtype, lanes)} {value} = {text};")
    bits = masks.every(lanes) if mask is None else mask.bits
    guard = None
    if mask is not None and not masks.is_literal(mask):
        guard = masks.vector_text(w, mask, b.dtype.bits, lanes)
    for lane in range(lanes):
        if bits >> lane & 1:
            cell = element_text(*pointer(w, b, _bank_at(bank, lane), at_lane(address, lane)))
            w.line(f"{f'if ({guard}[{lane}]) ' if guard else ''}{cell} = {value}[{lane}];")
