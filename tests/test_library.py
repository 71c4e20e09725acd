"""Libraries: a C program uses them, nothing but their names shows, and no build leaves half a one."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handwritten import PORTABLE, axpy, axpy_source
from tensordsl.codegen.library import Library, Variant, build_library, pack
from tensordsl.codegen.library import install as install_module
from tensordsl.codegen.source import C_CALL, C_TYPES, Source
from tensordsl.schedules.loopnest import Buffer, LoopNest
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl.errors import BuildError

PROGRAM = Path(__file__).parent / "library_program.c"
COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
CC = next(iter(COMPILERS), "gcc")
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
pytestmark = pytest.mark.compiler


def linear(m: int, k: int, n: int) -> td.Program:
    x, w, b = td.placeholder((m, k), name="x"), td.placeholder((k, n), name="w"), td.placeholder((n,), name="b")
    r = td.reduce_axis(k, name="l")
    y = td.compute((m, n), lambda i, j: td.sum(x[i, r] * w[r, j], axis=r), name="y")
    out = td.compute((m, n), lambda i, j: y[i, j] + b[j], name="out")
    return td.Program([x, w, b], [out], name="linear", dims={"M": m, "K": k, "N": n})


def smooth(n: int) -> td.Program:
    x = td.placeholder((n + 2,), name="x")
    a = td.compute((n + 1,), lambda i: x[i] + x[i + 1], name="a")
    y = td.compute((n,), lambda i: a[i] * a[i + 1], name="y")
    return td.Program([x], [y], name="smooth", dims={"N": n})


def divide() -> td.Program:
    a, b = td.placeholder((5,), "int64", name="a"), td.placeholder((5,), "int32", name="b")
    q = td.compute((5,), lambda i: a[i] // b[i], name="q")
    r = td.compute((5,), lambda i: td.cast(a[i] % b[i], "int32"), name="r")
    return td.Program([a, b], [q, r], name="divide")


def nothing() -> td.Program:
    x = td.placeholder((0, 3), name="x")
    y = td.compute((0, 3), lambda i, j: x[i, j] + 1, name="y")
    return td.Program([x], [y], name="nothing", dims={"N": 0})


def operators() -> list[Any]:
    """Default schedules, plain loops with workspace, parallel loops."""
    return [
        linear(8, 16, 24),
        td.Schedule(linear(33, 7, 19)).parallel("y", "i").parallel("out", "i"),
        td.Schedule(smooth(64)),
        axpy(8).program,
        td.Schedule(axpy(64).program).parallel("y", "i"),
        divide(),
        nothing(),
    ]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as m:
        m.setenv("TD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def demo(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(operators(), tmp_path_factory.mktemp("demo") / "out", name="demo")


def small(*sizes: int, name: str = "axpy", text: str = "a * x[i] + z[i]") -> list[Variant]:
    """Kernels that compile fast."""
    return [Variant(axpy(n, name), axpy_source(n, text=text)) for n in sizes]


def shell(*command: str | Path, **options: Any) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def contents(folder: Path) -> dict[str, str]:
    """Every file with its digest."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# ---------------------------------------------------------------- used from C


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_a_c_program_uses_it(demo: Library, compiler: str, kind: str, tmp_path: Path) -> None:
    link = ["-L", demo.shared.parent, "-ldemo", f"-Wl,-rpath,{demo.shared.parent}"]
    if kind == "static":
        link = [demo.static]
    options = ["-std=gnu11", *WARNINGS, "-I", demo.header.parent]
    shell(compiler, *options, PROGRAM, "-o", tmp_path / "program", *link, "-lm", "-lpthread")
    printed = shell(tmp_path / "program", timeout=60)
    assert printed.endswith("0 failures\n") and printed.count(": ok\n") >= 25


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_compiler_builds_it(compiler: str, own_cache: None, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as m:
        m.setenv("TD_CC", compiler)
        library = build_library(operators(), tmp_path / "out", name="demo")
    assert json.loads(library.manifest.read_text())["compiler"].startswith(compiler)
    for link in ([library.static], ["-L", library.shared.parent, "-ldemo", f"-Wl,-rpath,{library.shared.parent}"]):
        shell(CC, "-I", library.header.parent, PROGRAM, *link, "-lm", "-lpthread", "-o", tmp_path / "program")
        assert shell(tmp_path / "program", timeout=60).endswith("0 failures\n")


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")
def test_a_cpp_program_uses_it(demo: Library, tmp_path: Path) -> None:
    shell("g++", "-std=c++17", *WARNINGS, "-I", demo.header.parent, "-x", "c++", PROGRAM, "-x", "none",
          demo.static, "-lpthread", "-o", tmp_path / "program")  # fmt: skip
    assert shell(tmp_path / "program", timeout=60).endswith("0 failures\n")


def test_the_example_agrees_with_plain_loops(own_cache: None, tmp_path: Path) -> None:
    examples = Path(__file__).parent.parent / "examples"
    spec = importlib.util.spec_from_file_location("example_operators", examples / "operators.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    programs = [module.linear_gelu.bind(M=m, K=k, N=n) for m, k, n in ((5, 7, 19), (16, 64, 48))]
    programs += [module.softmax.bind(M=3, N=33), module.conv2d.bind(N=2, C=3, H=9, W=7, O=4, R=3, S=3)]
    library = build_library(programs, tmp_path / "out", name="demo")
    options = ["-O2", "-std=c11", *WARNINGS, "-I", library.header.parent]
    shell(CC, *options, examples / "use_library.c", library.static, "-lm", "-o", tmp_path / "use")
    printed = shell(tmp_path / "use").splitlines()
    assert printed[-1] == "results agree" and sum(": results agree, " in line for line in printed) == 4


def test_two_libraries_in_one_program(demo: Library, tmp_path: Path) -> None:
    other = pack(small(8, text="a * x[i] - z[i]"), tmp_path / "out", name="other")
    (tmp_path / "both.c").write_text("""
#include <stdio.h>
#include "other.h"
#include "demo.h"
int main(void) {
    float x[8] = {0, 1, 2, 3, 4, 5, 6, 7}, y[8], z[8];
    demo_call call = DEMO_CALL_INIT;
    if (demo_axpy_float32(&call, 2, x, x, y, 8)) return 1;
    if (other_axpy_float32((const other_call *)&call, 2, x, x, z, 8)) return 2;
    printf("%g %g %d\\n", y[7], z[7], sizeof(demo_call) == sizeof(other_call));
    return 0;
}
""")
    includes = ["-I", demo.header.parent, "-I", other.header.parent]
    for demo_as, other_as in ((demo.static, other.static), (demo.shared, other.shared), (demo.shared, other.static)):
        rpaths = [f"-Wl,-rpath,{library.parent}" for library in (demo.shared, other.shared)]
        shell(CC, "-Wall", *includes, tmp_path / "both.c", demo_as, other_as, *rpaths, "-o", tmp_path / "both")
        assert shell(tmp_path / "both") == "21 7 1\n"


def test_it_loads_in_python(demo: Library) -> None:
    library = ctypes.CDLL(str(demo.shared))
    x, y = np.arange(66, dtype=np.float32), np.zeros(64, np.float32)
    size = library.demo_smooth_float32_workspace(ctypes.c_int64(64))
    assert size > 0 and library.demo_smooth_float32(None, x.ctypes, y.ctypes, ctypes.c_int64(64)) == 2


@pytest.mark.parametrize("standard", ["-std=c99", "-std=c11", "-std=c2x"])
def test_the_header_is_plain_c(demo: Library, standard: str) -> None:
    shell(CC, standard, *WARNINGS, "-fsyntax-only", "-x", "c", demo.header)


def test_the_header_documents_every_function(demo: Library, tmp_path: Path) -> None:
    text = demo.header.read_text()
    for function in demo.functions:
        assert re.search(rf"^int32_t {function}\(const demo_call \*call", text, re.M)
        assert re.search(rf"^int64_t {function}_workspace\(", text, re.M)
    assert "M=8, K=16, N=24: x[8, 16], w[16, 24], b[24], out[8, 24]" in text
    assert "M=33, K=7, N=19" in text and "workspace" in text
    assert "a: float32, rank 0, input, by value" in text
    assert max(map(len, text.splitlines())) <= 120
    assert str(tmp_path.parent) not in text


def test_pkg_config_finds_it_wherever_it_is(demo: Library, tmp_path: Path) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("pkg-config is not installed")
    moved = tmp_path / "elsewhere"
    shutil.copytree(demo.directory, moved)
    environment = {**os.environ, "PKG_CONFIG_PATH": str(moved / "lib" / "pkgconfig")}
    flags = shell("pkg-config", "--cflags", "--libs", "demo", env=environment).split()
    program = tmp_path / "program"
    shell(CC, PROGRAM, *flags, f"-Wl,-rpath,{moved / 'lib'}", "-lpthread", "-lm", "-o", program)
    assert shell(program).endswith("0 failures\n")


def test_cmake_finds_it(demo: Library, tmp_path: Path) -> None:
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.16)
project(use C)
find_package(Threads REQUIRED)
find_package(demo 1.0 REQUIRED)
foreach(kind demo static)
  add_executable(use_${{kind}} {PROGRAM})
  target_link_libraries(use_${{kind}} demo::${{kind}} Threads::Threads m)
endforeach()
""")
    build = tmp_path / "build"
    shell("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={demo.directory}")
    shell("cmake", "--build", build)
    for kind in ("demo", "static"):
        assert shell(build / f"use_{kind}").endswith("0 failures\n")


def test_outputs_in_the_memory_of_inputs(tmp_path: Path) -> None:
    x = td.placeholder((4,), name="x")
    program = td.Program([x], [td.compute((4,), lambda i: 2 * x[i], name="y")], name="twice", inplace={"y": "x"})
    nest = LoopNest(program, (Buffer("x", (4,), x.dtype),), lower(program).body)
    body = "TD_KERNEL int32_t k(const td_call *call, float *x) { for (int i = 0; i < 4; ++i) x[i] *= 2; return 0; }"
    source = Source("k", (C_TYPES, C_CALL), body, nest.parameters, 0, PORTABLE)
    library = pack([Variant(nest, source)], tmp_path / "out", name="lib")
    assert "int32_t lib_twice_float32(const lib_call *call, float *x);" in library.header.read_text()
    assert "x: float32, rank 1, input, overwritten with y" in library.header.read_text()
    [operator] = json.loads(library.manifest.read_text())["operators"]
    assert operator["parameters"][0]["output"] == "y" and "y" in operator["tolerance"]
    memory = np.arange(4, dtype=np.float32)
    assert ctypes.CDLL(str(library.shared)).lib_twice_float32(None, memory.ctypes) == 0
    np.testing.assert_array_equal(memory, [0, 2, 4, 6])


# ---------------------------------------------------------------- what shows


def defined(*options: str | Path) -> set[str]:
    return {line.split()[-1] for line in shell("nm", "--defined-only", *options).splitlines() if len(line.split()) == 3}


def test_only_its_own_names_show(demo: Library) -> None:
    expected = {"demo_version", "demo_supported"}
    expected |= {name for f in demo.functions for name in (f, f"{f}_workspace")}
    assert defined("-D", demo.shared) == expected
    assert defined("-g", demo.static) == expected


def test_without_objcopy_hidden_names_are_prefixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensordsl.codegen.toolchain import Toolchain

    companion = Toolchain.companion
    monkeypatch.setattr(Toolchain, "companion", lambda self, name: companion(self, name) if name == "ar" else None)
    library = pack(small(8), tmp_path / "out", name="bare")
    assert {"bare_axpy_float32", "bare_axpy_float32__8"} <= defined("-g", library.static)
    assert all(name.startswith("bare_") for name in defined("-g", library.static))
    assert all("__" not in name for name in defined("-D", library.shared))


def test_it_needs_libc_and_libm_alone(demo: Library) -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\.so", shell("readelf", "-d", demo.shared)))
    assert needed <= {"libc", "libm", "ld-linux-x86-64", "ld-linux-aarch64"}
    lines = shell("nm", "-D", "--undefined-only", demo.shared).splitlines()
    undefined = {line.split()[-1].split("@")[0] for line in lines}
    assert undefined.isdisjoint({"malloc", "calloc", "free", "pthread_create", "printf", "abort"})


def test_the_manifest_describes_it(demo: Library) -> None:
    m = json.loads(demo.manifest.read_text())
    assert (m["schema"], m["name"], m["version"]) == (1, "demo", "1.0.0")
    assert [o["function"] for o in m["operators"]] == list(demo.functions)
    first = m["operators"][0]
    assert first["dims"] == ["M", "K", "N"]
    assert [k["dims"] for k in first["kernels"]] == [{"M": 8, "K": 16, "N": 24}, {"M": 33, "K": 7, "N": 19}]
    assert first["kernels"][1]["trace"] == [["parallel", ["y", "i"], {}], ["parallel", ["out", "i"], {}]]
    assert first["tolerance"]["out"] == {
        "bound": "|out - exact| <= c u (n sum|terms| + |exact|), n: terms of the longest reduction",
        "c": 4, "u": 2.0**-24,
    }  # fmt: skip
    assert m["operators"][3]["tolerance"] == {"q": {"equal": True}, "r": {"equal": True}}
    files = contents(demo.directory)
    assert files.pop("share/demo/manifest.json")
    assert m["files"] == files
    assert str(demo.directory) not in demo.manifest.read_text()


def test_sources_have_banners(demo: Library) -> None:
    sources = demo.directory / "share" / "demo" / "src"
    text = (sources / "demo_linear_float32__33_7_19.c").read_text()
    head = text[: text.index("*/")]
    assert f"tensordsl {td.__version__}" in head and "program linear(x: float32[33, 7]" in head
    assert 'parallel("y", "i")' in head
    assert "#include" not in text
    record = Variant(axpy(8), axpy_source(8), None, "tuning_logs/axpy.jsonl:3", 1.25)
    from tensordsl.codegen.library.texts import banner

    assert "record: tuning_logs/axpy.jsonl:3" in banner(record, "gcc")
    assert "measured: 1.250 us" in banner(record, "gcc")


def test_equal_inputs_give_equal_files(tmp_path: Path) -> None:
    one = pack(small(8, 16), tmp_path / "one", name="lib")
    other = pack(small(8, 16), tmp_path / "other" / "deep", name="lib")
    assert contents(one.directory) == contents(other.directory)
    assert str(one).startswith("library lib 1.0.0 in ") and "lib_axpy_float32" in str(one)


def test_kernels_with_their_own_flags(tmp_path: Path) -> None:
    exact = axpy_source(16)
    exact = Source(exact.symbol, exact.prelude, exact.body, exact.parameters, 0, exact.target, ("-ffp-contract=off",))
    library = pack([*small(8), Variant(axpy(16), exact)], tmp_path / "out", name="lib")
    kernels = json.loads(library.manifest.read_text())["operators"][0]["kernels"]
    assert [k["flags"] for k in kernels] == [[], ["-ffp-contract=off"]]


def test_the_first_matching_schedule_is_chosen(tmp_path: Path) -> None:
    program = axpy(64).program
    mine = td.Schedule(program).parallel("y", "i")
    for schedules in ({"axpy": mine}, lambda p: mine if p is program else None):
        library = build_library(program, tmp_path / "out", name="lib", schedules=schedules)
        [kernel] = json.loads(library.manifest.read_text())["operators"][0]["kernels"]
        assert kernel["trace"] == [["parallel", ["y", "i"], {}]]

    with pytest.raises(BuildError, match=r"one of another program: .*x: float32\[64\].* instead of .*x: float32\[8\]"):
        build_library(axpy(8).program, tmp_path / "out", name="lib", schedules={"axpy": mine})

    class Result:
        schedule, record, time_us = mine, "record 7", 2.5

    library = build_library([Result()], tmp_path / "out", name="lib", target="portable")
    [kernel] = json.loads(library.manifest.read_text())["operators"][0]["kernels"]
    assert (kernel["record"], kernel["measured_us"]) == ("record 7", 2.5)


# ---------------------------------------------------------------- whole, or not at all


def test_a_failing_build_leaves_the_old_library(tmp_path: Path) -> None:
    library = pack(small(8), tmp_path / "out", name="lib")
    before = contents(tmp_path / "out")
    with pytest.raises(BuildError, match="axpy does not compile") as caught:
        pack(small(8, 9, text="a * x[i] +"), tmp_path / "out", name="lib")
    assert "tests/test_library.py" in str(caught.value) and "y[i] = a * x[i] +;" in str(caught.value)
    assert contents(tmp_path / "out") == before and library.header.exists()
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []


def test_a_failing_first_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        pack(small(8, text="?"), tmp_path / "new" / "out", name="lib")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failing", range(1, 10))
def test_an_interrupted_installation_is_undone(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th rename fails: the old library is whole again."""
    old = pack(small(8, 9), tmp_path / "out", name="lib")
    (old.directory / "include" / "mine.h").write_text("/* another file */")
    before = contents(tmp_path / "out")
    replace, calls = os.replace, []

    def failing_replace(source: Any, place: Any) -> None:
        calls.append(place)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, place)

    monkeypatch.setattr(install_module.os, "replace", failing_replace)
    with pytest.raises(BuildError, match="the disk is full"):
        pack(small(8, 16), tmp_path / "out", name="lib", version="2.0.0")
    assert contents(tmp_path / "out") == before
    assert len(calls) >= failing


def test_a_killed_builder_leaves_whole_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    versions = [contents(pack(small(8), tmp_path / v, name="lib", version=v).directory) for v in ("1.0.0", "2.0.0")]
    pack(small(8), out, name="lib", version="1.0.0")
    killed = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_library import pack, small
replace, count = os.replace, []
def killing(source, place):
    count.append(place)
    if len(count) == 4:
        os.kill(os.getpid(), 9)
    replace(source, place)
os.replace = killing
pack(small(8), Path(sys.argv[1]), name="lib", version="2.0.0")
"""
    command = [sys.executable, "-c", killed, str(out)]
    assert subprocess.run(command, cwd=Path(__file__).parent.parent).returncode == -9
    mixed = {path: digest for path, digest in contents(out).items() if not path.startswith(".")}
    assert set(mixed) == set(versions[0])
    assert all(digest in (versions[0][path], versions[1][path]) for path, digest in mixed.items())
    assert mixed["share/lib/manifest.json"] == versions[0]["share/lib/manifest.json"]
    pack(small(8), out, name="lib", version="2.0.0")
    assert contents(out) == versions[1]


def test_a_full_disk_while_writing_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(small(8), tmp_path / "out", name="lib")
    before = contents(tmp_path / "out")

    def write_bytes(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(BuildError, match="the disk is full"):
        pack(small(9), tmp_path / "out", name="lib")
    monkeypatch.undo()
    assert contents(tmp_path / "out") == before


def test_a_new_version_removes_what_it_no_longer_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(small(8, 9), out, name="lib")
    (out / "lib" / "libmine.so").write_text("another file")
    other = contents(pack(small(8), tmp_path / "other", name="other").directory)
    pack(small(8), out, name="other")  # two libraries under one prefix
    pack(small(16), out, name="lib")
    sources = [p.name for p in (out / "share" / "lib" / "src").iterdir()]
    assert sorted(sources) == ["lib.c", "lib_axpy_float32__16.c"]
    assert (out / "lib" / "libmine.so").read_text() == "another file"
    assert other.items() <= contents(out).items()


def test_leftovers_of_a_killed_builder_go(tmp_path: Path) -> None:
    stale = tmp_path / "out" / ".lib-abcdef"
    stale.mkdir(parents=True)
    (stale / "libx.so").write_text("half")
    pack(small(8), tmp_path / "out", name="lib")
    assert not stale.exists()


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    header = tmp_path / "out" / "include" / "lib.h"
    header.parent.mkdir(parents=True)
    header.write_text("mine")
    with pytest.raises(BuildError, match=r"include/lib.h exists and was not generated"):
        pack(small(8), tmp_path / "out", name="lib")
    assert header.read_text() == "mine"


def test_a_manifest_cannot_reach_outside(tmp_path: Path) -> None:
    library = pack(small(8), tmp_path / "out", name="lib")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    m = json.loads(library.manifest.read_text())
    m["files"] |= {"../victim": "", str(victim): ""}
    library.manifest.write_text(json.dumps(m))
    pack(small(9), tmp_path / "out", name="lib")
    assert victim.read_text() == "precious"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be written"):
        pack(small(8), tmp_path / "file" / "out", name="lib")


# ---------------------------------------------------------------- refused


def renamed(**names: str) -> list[Variant]:
    """axpy with other names: op, x, dim."""
    x = td.placeholder((8,), name=names.get("x", "x"))
    y = td.compute((8,), lambda i: x[i] + 1, name="y")
    program = td.Program([x], [y], name=names.get("op", "f"), dims={names.get("dim", "N"): 8})
    schedule = td.Schedule(program, checked=False)
    return [Variant(schedule.nest, axpy_source())]


@pytest.mark.parametrize(
    ("variants", "name", "message"),
    [
        (small(8), "my-lib", "the library name 'my-lib' is not a name in C"),
        (small(8), "class", "the library name 'class' is a keyword of C or C"),
        ([], "lib", "the library 'lib' has no operators"),
        (renamed(op="double"), "lib", "the operator name 'double' is a keyword"),
        (renamed(x="register"), "lib", "f: the tensor 'register' is a keyword"),
        (renamed(x="template"), "lib", "f: the tensor 'template' is a keyword"),
        (renamed(x="größe"), "lib", "f: the tensor 'größe' is not a name in C"),
        (renamed(x="call"), "lib", "f: the tensor 'call' has the name of the call struct"),
        (renamed(dim="x"), "lib", "f: the dimension 'x' has the name of the tensor 'x'"),
        (renamed(dim="short"), "lib", "f: the dimension 'short' is a keyword"),
        (small(8, 9, 8), "lib", "two programs are named 'axpy' and have the same sizes: N=8"),
        ([*renamed(op="f", dim="N"), *renamed(op="f", dim="M")], "lib", "different dimensions: (N) and (M)"),
        ([*renamed(op="f", x="x"), *renamed(op="f", x="z")], "lib", "take different arguments"),
        ([*small(8, name="f"), *small(8, name="f_float32_workspace")], "lib", None),
    ],
)
def test_names_that_do_not_work(variants: list[Variant], name: str, message: str | None, tmp_path: Path) -> None:
    if message is None:  # unlike names stay apart
        assert len(pack(variants, tmp_path / "out", name=name).functions) == 2
        return
    with pytest.raises(BuildError, match=re.escape(message)):
        pack(variants, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_names_of_macros_get_an_underscore(tmp_path: Path) -> None:
    library = pack(small(8, name="f"), tmp_path / "out", name="lib")
    assert "int64_t N" in library.header.read_text()
    x = td.placeholder((8,), name="I")
    program = td.Program([x], [td.compute((8,), lambda i: x[i] + 1, name="y")], name="f", dims={"linux": 8})
    library = build_library(program, tmp_path / "out", name="lib")
    text = '#include <complex.h>\n#include "lib.h"\nint main(void) { return lib_supported() != 1; }'
    (tmp_path / "use.c").write_text(text)
    shell(CC, tmp_path / "use.c", "-I", library.header.parent, library.static, "-o", tmp_path / "use")
    shell(tmp_path / "use")


def test_things_that_are_no_operators(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="a library is built from Programs and Schedules, got int") as caught:
        build_library([3], tmp_path / "out", name="lib")
    assert "bind" in str(caught.value)
    with pytest.raises(BuildError, match=r"the version '1\.x' is not numbers"):
        pack(small(8), tmp_path / "out", name="lib", version="1.x")
    with pytest.raises(BuildError, match="unknown target"):
        build_library(axpy(8).program, tmp_path / "out", name="lib", target="z80")
