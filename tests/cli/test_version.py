"""`suture --version`, and what it says of the build, the processor and the packages."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import suture
from suture._core import build_json

ROOT = Path(__file__).resolve().parents[2]
SHORT = f"suture {suture.__version__}\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_version_alone_is_one_line() -> None:
    """What scripts read stays what it is, and a verb behind it changes nothing."""
    for arguments in (["--version"], ["--version", "nosuchverb"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, SHORT, "")


def test_verbose_says_what_a_report_of_a_fault_needs() -> None:
    """In either order; the packages as importlib.metadata has them, the rest as the library says."""
    done = run("--version", "--verbose")
    assert (done.returncode, done.stderr) == (0, "")
    assert run("--verbose", "--version").stdout == done.stdout
    assert done.stdout.startswith(SHORT)
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    built = json.loads(build_json())
    assert built["version"] == suture.__version__
    assert built["profile"] in said["profile"]
    assert re.search(r"rustc \d+\.\d+\.\d+", said["compiler"])
    assert built["target"].startswith(platform.machine())
    assert said["python"].startswith(platform.python_version())
    for package in ("click", "numpy"):
        assert f"{package} {metadata.version(package)}" in said["packages"]
    assert {"report", "torch"} <= said.keys()
    assert "dev" not in said


def test_the_build_says_how_it_was_optimised() -> None:
    """The profile, optimisation and LTO are those of Cargo.toml; nobody mistakes a slow build for a fast one."""
    built = json.loads(build_json())
    lto = re.search(r'^\[profile\.release\][^\[]*^lto = "(\w+)"', (ROOT / "Cargo.toml").read_text(), re.M | re.S)
    assert lto
    if built["profile"] == "release":
        assert (built["opt_level"], built["lto"]) == ("3", lto[1])
    assert str(ROOT) not in build_json()


def test_the_processor_has_what_the_system_says() -> None:
    """Where Linux lists what the processor has, nothing else is claimed."""
    cpuinfo = Path("/proc/cpuinfo")
    known = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    if known:
        flags = {flag.replace("_", "") for flag in known[1].split()}
        assert {name.replace(".", "") for name in json.loads(build_json())["processor"]} <= flags


def test_the_kernels_named_are_those_that_run() -> None:
    """The most able instruction set that the processor has all of, or the lesser one that is asked for."""
    built = json.loads(build_json())
    has = set(built["processor"])
    sets = {"avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"}, "avx2": {"avx2", "fma"}}
    able = [name for name, needs in sets.items() if needs <= has] + ["portable"]
    assert built["kernels"] == os.environ.get("SUTURE_ISA", able[0])
    for name in able:
        command = [sys.executable, "-m", "suture", "--version", "--verbose"]
        environment = os.environ | {"SUTURE_ISA": name}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert re.search(rf"^  kernels +{name}$", done.stdout, re.M)


def test_nothing_is_imported_for_it() -> None:
    """The versions of numpy and torch are read, neither is loaded."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['suture', '--version', '--verbose']\n"
        "try: runpy.run_module('suture', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(' '.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(SHORT)
    assert {"numpy", "torch", "altair", "rich"} & set(done.stderr.split()) == set()


def test_verbose_of_nothing_is_refused() -> None:
    """Before a verb it would be lost: it is an error that says where it goes."""
    for arguments in (["--verbose"], ["--verbose", "methods"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "goes with --version" in done.stderr
