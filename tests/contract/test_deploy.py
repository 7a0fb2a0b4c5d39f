"""What an operator installs: the image and the unit of systemd.

No image is built here: there may be no engine. What its file says is compared with the project, and
the unit is judged by systemd's own tools. The exporter runs under the unit's strictest promises.
"""

from __future__ import annotations

import configparser
import ctypes
import os
import platform
import re
import shlex
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config.load import VARIABLES
from exporter.web.server import DEFAULT_LISTEN_ADDRESS
from tests.conftest import skip_or_fail
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEFAULT_PORT = int(DEFAULT_LISTEN_ADDRESS.rpartition(":")[2])
COMMAND = "coder-health-exporter"
SECONDS = 60.0

# The image


def read_dockerfile() -> list[tuple[str, str]]:
    """Return instructions and their arguments, lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


INSTRUCTIONS = read_dockerfile()
STARTS = [index for index, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
FINAL = INSTRUCTIONS[STARTS[-1] :]


def final(word: str) -> list[str]:
    return [rest for instruction, rest in FINAL if instruction == word]


def test_the_image_is_made_in_stages_of_one_tagged_base() -> None:
    """What builds does not run; no base image is whatever is newest."""
    bases = [INSTRUCTIONS[index][1].split()[0] for index in STARTS]
    assert ["python:${PYTHON_VERSION}-slim"] * 2 == bases
    (version,) = (rest.partition("=")[2] for word, rest in INSTRUCTIONS[: STARTS[0]] if word == "ARG")
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_image_installs_only_what_is_pinned() -> None:
    """One step fetches, against hashes; all others are cut off from any index."""
    steps = [
        step for word, rest in INSTRUCTIONS if word == "RUN" for step in rest.split("&&") if "pip" in shlex.split(step)
    ]
    fetching = [step for step in steps if "--no-index" not in step and " uninstall " not in step]
    assert 1 == len(fetching)
    assert "--require-hashes" in fetching[0]
    assert "--requirement constraints.txt" in fetching[0]


def test_the_image_runs_as_nobody_in_particular_without_an_installer() -> None:
    """A numeric user, so that `runAsNonRoot` can be checked; nothing to install or build with."""
    (user,) = final("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert ["python -m pip uninstall --yes pip"] == final("RUN")
    assert not re.search(r"apt|apk|gcc|curl", "\n".join(rest for _, rest in INSTRUCTIONS))


def test_the_image_starts_the_command_on_its_port() -> None:
    """The entry point is the project's script; port and health check are the exporter's defaults."""
    assert [f'["{COMMAND}"]'] == final("ENTRYPOINT")
    assert COMMAND in PROJECT["scripts"]
    assert [str(DEFAULT_PORT)] == final("EXPOSE")
    assert f"http://127.0.0.1:{DEFAULT_PORT}/-/healthy" in final("HEALTHCHECK")[0]


def test_the_image_is_labelled() -> None:
    """Labels of the OCI; those that the project knows are the project's."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', final("LABEL")[0]))
    names = "title description licenses authors vendor version revision created source url documentation"
    assert set(names.split()) == set(labels)
    assert (PROJECT["name"], PROJECT["description"], PROJECT["license"]) == (
        labels["title"],
        labels["description"],
        labels["licenses"],
    )
    assert f"VERSION={PROJECT['version']}" in final("ARG")


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    """The ignore file lets through what is copied, and nothing else."""
    copied = {
        source for word, rest in INSTRUCTIONS if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    }
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" == ignore[0]
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert [] == [name for name in copied if not (ROOT / name).exists()]


# The unit

UNITS = ROOT / "deploy" / "systemd"
# In tenths, of 100. Source: systemd-analyze(1), --threshold
EXPOSURE_CEILING = 15
DROP_INS = ("credentials.conf", "config-file.conf")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The unit with its drop-ins, for a program that every machine has."""
    program = f"/opt/{COMMAND}/bin/{COMMAND}"
    unit = tmp_path / f"{COMMAND}.service"
    unit.write_text((UNITS / unit.name).read_text().replace(program, "/bin/true"))
    folder = tmp_path / f"{unit.name}.d"
    folder.mkdir()
    for name in DROP_INS:
        (folder / name).write_text((UNITS / name).read_text().replace(program, "/bin/true"))
    return unit


def analyze(tool: str, *arguments: str, units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool, *arguments, str(units)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{units.parent}:"},
    )


def test_systemd_understands_the_unit(units: Path, need_tool: Callable[[str], str]) -> None:
    """No unknown key, no wrong value, also with both drop-ins."""
    done = analyze(need_tool("systemd-analyze"), "verify", "--man=no", units=units)
    assert (0, "") == (done.returncode, done.stderr)


def test_the_unit_gives_few_rights(units: Path, need_tool: Callable[[str], str]) -> None:
    """A ceiling for what systemd calls exposure: a right that is added has to be given its reason here."""
    done = analyze(
        need_tool("systemd-analyze"), "security", "--offline=true", f"--threshold={EXPOSURE_CEILING}", units=units
    )
    assert 0 == done.returncode, done.stdout


def test_the_variables_of_the_unit_are_ours() -> None:
    """What the example files set is read by the exporter."""
    names = set()
    for path in UNITS.iterdir():
        names |= set(re.findall(r"^(?:Environment=|#)?(CODER_\w+)=", path.read_text(), re.MULTILINE))
    assert names
    assert names <= {*VARIABLES}


def test_the_example_environment_is_a_good_configuration() -> None:
    """Flags and variables of the example file start the exporter."""
    lines = (UNITS / f"{COMMAND}.env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    arguments = values.pop("ARGS").split()
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *arguments, "--config.check"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ | values,
    )
    assert (0, "") == (done.returncode, done.stderr)


def read_unit() -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"{COMMAND}.service")
    return dict(parser["Service"])


# system calls whose arguments decide whether memory may be executed: number of mmap, mprotect,
# pkey_mprotect. Source: Linux, arch/*/entry/syscalls
EXECUTABLE_MEMORY_CALLS = {"x86_64": (9, 10, 329), "aarch64": (222, 226, 288)}
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # Source: linux/bpf_common.h
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
_WRITE, _EXECUTE = 2, 4  # PROT_WRITE, PROT_EXEC
_NUMBER_OFFSET, _THIRD_ARGUMENT_OFFSET = 0, 32  # in struct seccomp_data
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # Source: linux/prctl.h, linux/seccomp.h


def deny_executable_memory(machine: str) -> Callable[[], None]:
    """Return what makes a process live as under MemoryDenyWriteExecute=: memory that can be written
    cannot be executed, neither now nor later. Source: systemd, seccomp_memory_deny_write_execute.
    """
    mmap, mprotect, pkey_mprotect = EXECUTABLE_MEMORY_CALLS[machine]
    program = [
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 3, 0, mmap),
        (_JUMP_IF_EQUAL, 5, 0, mprotect),
        (_JUMP_IF_EQUAL, 4, 0, pkey_mprotect),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _THIRD_ARGUMENT_OFFSET),
        (_JUMP_IF_SET, 1, 0, _WRITE),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _THIRD_ARGUMENT_OFFSET),
        (_JUMP_IF_SET, 1, 0, _EXECUTE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    filters = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(filters, len(filters))
    libc = ctypes.CDLL(None, use_errno=True)

    def deny() -> None:
        header = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(buffer)))
        for arguments in ((_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.addressof(header), 0, 0)):
            if libc.prctl(*map(ctypes.c_ulong, arguments)) != 0:
                raise OSError(ctypes.get_errno(), "prctl")

    return deny


def test_the_exporter_runs_without_memory_that_is_written_and_executed() -> None:
    """The unit says MemoryDenyWriteExecute=, and no wheel of ours stands in its way."""
    assert "yes" == read_unit()["MemoryDenyWriteExecute"]
    machine = platform.machine()
    if sys.platform != "linux" or machine not in EXECUTABLE_MEMORY_CALLS:
        skip_or_fail(f"no seccomp filter for {sys.platform} on {machine}")
    deny = deny_executable_memory(machine)
    forbidden = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
    tried = subprocess.run([sys.executable, "-c", forbidden], capture_output=True, preexec_fn=deny, check=False)
    assert b"PermissionError" in tried.stderr
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "check"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        preexec_fn=deny,
        env=os.environ
        | {
            "CODER_URL": f"https://localhost:{port}",
            "CODER_PG_CONNECTION_URL": f"postgres://u:p@localhost:{port}/coder",
        },
    )
    assert (2, "") == (done.returncode, done.stderr)
    assert {"EACS03", "EWS01", "EDB01"} <= set(done.stdout.split())
