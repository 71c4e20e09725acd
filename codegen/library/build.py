"""Programs and schedules -> a C library that other programs link.

include/NAME.h                  the functions, documented, for C and C++
lib/libNAME.so, lib/libNAME.a   the kernels; only NAME_* is visible; needs libc and libm alone
lib/pkgconfig, lib/cmake        how build systems find them
share/NAME/manifest.json        what is inside, for programs
share/NAME/src/*.c              the generated sources
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from tensordsl.codegen.compile import CAUTIOUS, compile_error, crashed
from tensordsl.codegen.general import GeneralKernel
from tensordsl.codegen.library import manifest as manifests
from tensordsl.codegen.library.install import install, owned, workplace, write_all
from tensordsl.codegen.library.names import check
from tensordsl.codegen.library.operators import Operator as Function
from tensordsl.codegen.library.operators import Variant, operators
from tensordsl.codegen.library.texts import dispatch_file, header, kernel_file
from tensordsl.codegen.toolchain import (
    BASE_FLAGS,
    TIMEOUT_S,
    CompileFailure,
    Running,
    Toolchain,
    compile_unit,
    run,
    toolchain,
)  # fmt: skip

from tensordsl.errors import BuildError, user_location
from tensordsl.operators import Operator
from tensordsl.program import Program
from tensordsl.settings import settings
from tensordsl.targets import Target
from tensordsl.targets import target as find_target

if TYPE_CHECKING:
    from tensordsl.schedules.schedule import Schedule

#: -ffunction-sections lets the linker of a program leave out what it does not call.
_OBJECT_FLAGS = ("-c", "-ffunction-sections")


@dataclass(frozen=True, slots=True)
class Library:
    """A library on disk.  functions: the exported operators, as declared in the header."""

    name: str
    version: str
    directory: Path
    header: Path
    shared: Path
    static: Path
    manifest: Path
    functions: tuple[str, ...]

    def __str__(self) -> str:
        names = "".join(f"\n  {f}" for f in self.functions)
        return f"library {self.name} {self.version} in {self.directory}{names}"


#: What a library is built from: a Program, an Operator (for all its sizes), a Schedule, or anything with a
#: ``schedule`` (a Kernel, the result of a search) and, where known, a ``record`` and a ``time_us``, which the
#: manifest repeats.
Item = Union[Program, Operator, "Schedule", Variant, Any]


def build_library(
    items: Iterable[Item] | Item,
    directory: str | Path,
    *,
    name: str,
    target: str | Target = "native",
    schedules: Mapping[str, Schedule] | Callable[[Program], Any] | None = None,
    version: str = "1.0.0",
) -> Library:
    """Build a C library and put it in ``directory`` (whole, or not at all).

    items: Programs, Schedules, or values with a ``schedule``.  schedules: the schedule for a
    Program, by its name or by a function; None and programs it does not know: the default schedule.
    version: of the library.  Raises BuildError; an existing library then stays as it was.
    """
    check(name, "the library name")
    _check_version(version)
    chosen = find_target(target)
    several: list[Any] = list(items) if isinstance(items, (list, tuple, Iterator)) else [items]
    several = [part for item in several for part in (item.kernels if isinstance(item, GeneralKernel) else (item,))]
    variants = [_variant(item, chosen, schedules) for item in several]
    return pack(variants, Path(directory), name=name, version=version)


def _variant(item: Item, target: Target, schedules: Any) -> Variant:
    """The kernel of one item, printed."""
    from tensordsl.codegen.c.printer import to_c
    from tensordsl.schedules.schedule import Schedule

    if isinstance(item, Variant):
        return item
    if isinstance(item, Operator):
        item = item.symbolic()
    definition = item if isinstance(item, Program) else None
    if isinstance(item, Program):
        item = _scheduled(item, target, schedules)
    record, measured = "", None
    schedule = item
    if not isinstance(item, Schedule):
        schedule = getattr(item, "schedule", None)
        record, measured = str(getattr(item, "record", "") or ""), getattr(item, "time_us", None)
    if not isinstance(schedule, Schedule):
        raise BuildError(
            f"a library is built from Programs and Schedules, got {type(item).__name__}",
            hint="an operator becomes a Program by binding its dimensions: op.bind(M=128, ...)",
        )
    source = to_c(schedule.nest, target)
    return Variant(schedule.nest, source, schedule.trace, record, measured, definition)


def _scheduled(program: Program, target: Target, schedules: Any) -> Any:
    """The schedule given for a program (or a value that carries it), else the default one."""
    from tensordsl.schedules.default import default_schedule

    given = schedules.get(program.name) if isinstance(schedules, Mapping) else schedules and schedules(program)
    if given is None:
        return default_schedule(program, target)
    nest = getattr(given, "nest", None) or given.schedule.nest
    if _interface(nest.program) != _interface(program):
        raise BuildError(
            f"the schedule given for {program.name!r} is one of another program: "
            f"{_interface(nest.program)} instead of {_interface(program)}",
            hint="schedules are for one size: give a function of the Program to serve several",
        )
    return given


def _interface(program: Program) -> str:
    shown = (
        ", ".join(f"{t.name}: {t.dtype}{list(t.shape)}" for t in ts) for ts in (program.arguments, program.outputs)
    )
    return " -> ".join(f"({text})" for text in shown)


def pack(
    variants: Sequence[Variant], directory: Path, *, name: str, version: str = "1.0.0", tools: Toolchain | None = None
) -> Library:
    """Compile, link and install printed kernels as a library.  Raises BuildError."""
    _check_version(version)
    found = operators(name, variants)
    tools = tools or toolchain()
    target = found[0].variants[0].source.target
    manifest_path = f"share/{name}/manifest.json"
    owned(directory, name, manifest_path)
    with workplace(directory, name) as work:
        made = work / "library"
        files = _texts(name, found, version, target, tools)
        write_all(made, files)
        objects = _objects(name, found, made, work / "objects", tools)
        shared = shared_name(name)
        (made / "lib").mkdir(exist_ok=True)
        _link_shared(name, exported(name, found), objects, made / "lib" / shared, tools)
        _link_static(objects, made / "lib" / f"lib{name}.a", tools)
        for built in (f"lib/{shared}", f"lib/lib{name}.a"):
            files[built] = (made / built).read_bytes()
        described = manifests.manifest(name, version, found, target, str(tools), files)
        write_all(made, {manifest_path: (json.dumps(described, indent=2) + "\n").encode()})
        install(made, directory, manifest_path)
    return Library(
        name, version, directory, directory / "include" / f"{name}.h", directory / "lib" / shared,
        directory / "lib" / f"lib{name}.a", directory / manifest_path, tuple(o.name for o in found),
    )  # fmt: skip


def _check_version(version: str) -> None:
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
        raise BuildError(f"the version {version!r} is not numbers with dots between", hint='such as "1.0.0"')


def shared_name(name: str) -> str:
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def exported(name: str, found: Sequence[Function]) -> list[str]:
    """Every name a program that links the library can see."""
    own = [f"{name}_version", f"{name}_supported"]
    return [*own, *(n for o in found for n in (o.name, f"{o.name}_workspace"))]


def _texts(name: str, found: Sequence[Function], version: str, target: Target, tools: Toolchain) -> dict[str, bytes]:
    """Every text of the library by its path."""
    source = f"share/{name}/src"
    texts = {
        f"include/{name}.h": header(name, found, version, target),
        f"{source}/{name}.c": dispatch_file(name, found, version, target),
        f"lib/pkgconfig/{name}.pc": manifests.pkg_config(name, version),
        f"lib/cmake/{name}/{name}Config.cmake": manifests.cmake_config(name, shared_name(name)),
        f"lib/cmake/{name}/{name}ConfigVersion.cmake": manifests.cmake_version(version),
    }
    for o in found:
        for v in o.variants:
            texts[f"{source}/{o.symbol(v)}.c"] = kernel_file(o, v, str(tools))
    return {path: text.encode() for path, text in texts.items()}


def _objects(name: str, found: Sequence[Function], made: Path, folder: Path, tools: Toolchain) -> list[Path]:
    """Compile every source file, as many at once as there are cores; each in a folder of its own."""
    sources = made / "share" / name / "src"
    include = f"-I{made.resolve() / 'include'}"
    jobs: list[tuple[str, tuple[str, ...], str]] = [(name, (*BASE_FLAGS, include), name)]
    for o in found:
        for v in o.variants:
            jobs.append((o.symbol(v), tools.flags(v.source.target, v.source.flags), v.program.name))
    running, location = Running(), user_location()

    def compile_one(job: tuple[str, tuple[str, ...], str]) -> Path:
        stem, flags, title = job
        place = folder / stem / f"{stem}.o"
        place.parent.mkdir(parents=True)
        text = (sources / f"{stem}.c").read_text()
        options = [*flags, *_OBJECT_FLAGS]
        try:
            try:
                compile_unit(tools, text, place, options, 10 * TIMEOUT_S, running)
            except CompileFailure as failure:
                if not crashed(failure):
                    raise
                compile_unit(tools, text, place, [*options, *CAUTIOUS], 10 * TIMEOUT_S, running)
        except CompileFailure as failure:
            raise compile_error(failure, text, title) from None
        return place

    with ThreadPoolExecutor(min(settings().cores, len(jobs)), thread_name_prefix="tensordsl-library") as pool:
        try:
            return list(pool.map(compile_one, jobs))
        except BaseException as error:
            running.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BuildError):
                error.location = location
            raise


def _link_shared(name: str, visible: Sequence[str], objects: Sequence[Path], output: Path, tools: Toolchain) -> None:
    """Only the names given are visible; a symbol that no library defines is an error here, not at load."""
    names = output.parent / f"{name}.exports"
    if sys.platform == "darwin":
        names.write_text("".join(f"_{v}\n" for v in visible))
        options = [f"-Wl,-exported_symbols_list,{names.name}", f"-Wl,-install_name,@rpath/{output.name}"]
    else:
        names.write_text("{ global: " + " ".join(f"{v};" for v in visible) + " local: *; };\n")
        options = [
            f"-Wl,--version-script={names.name}", f"-Wl,-soname,{output.name}", "-Wl,--no-undefined",
            "-Wl,--as-needed", "-Wl,-z,noexecstack", "-Wl,--gc-sections",
        ]  # fmt: skip
    try:
        _tool([*tools.command], ["-shared", "-o", output.name, *_absolute(objects), *options, "-lm"], output)
    finally:
        names.unlink()


def _link_static(objects: Sequence[Path], output: Path, tools: Toolchain) -> None:
    """One object in which only the exported functions are global.

    On macOS a relocatable link makes hidden names local by itself; elsewhere objcopy does.  Where
    there is no objcopy the objects stay apart, and their hidden names all begin with the library's.
    """
    kept = list(objects)
    objcopy = tools.companion("objcopy")
    if sys.platform == "darwin" or objcopy:
        merged = objects[0].parent / "merged.o"
        _tool([*tools.command], ["-r", "-nostdlib", "-o", merged.name, *_absolute(objects)], merged)
        if sys.platform != "darwin":
            _tool([str(objcopy)], ["--localize-hidden", merged.name], merged)
        kept = [merged]
    deterministic = "" if sys.platform == "darwin" else "D"
    _tool([tools.companion("ar") or "ar"], [f"rcs{deterministic}", output.name, *_absolute(kept)], output)


def _absolute(paths: Sequence[Path]) -> list[str]:
    """Paths for a tool that runs in another folder."""
    return [str(p.resolve()) for p in paths]


def _tool(command: list[str], arguments: Sequence[str], output: Path) -> None:
    """A linking tool; its failures are errors of the library, not of a kernel."""
    try:
        run(command, arguments, output.parent)
    except CompileFailure as failure:
        raise BuildError(
            f"{output.name} cannot be linked: {failure.message}", context=failure.output[:2000] or None
        ) from None
