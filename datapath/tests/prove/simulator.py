# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator (datapath/core/sim) as Python objects: its scenarios in C, and simulated hosts for Python code that ships.

In a simulation of the second kind the actors are threads of `interleave.Steps`; the simulator calls back wherever another actor
may go on, in the middle of an access, too.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from functools import cache

from core_build import build_simulator
from interleave import Steps, Stop

from cxl_datapath.core import CxlMem

PASSED, GAVE_UP, FAILED = 0, 1, 2
NOTHING_DROPPED = -1
_MAX_SITES = 64
_TRACE_BYTES = 1 << 15
_Pause = CFUNCTYPE(None)


class _Conf(Structure):
    _fields_ = [("adversary", c_uint32), ("hosts", c_uint32), ("bytes", c_uint64), ("seed", c_uint64), ("drop", c_int32)]


class _Report(Structure):  # `hits` has as many as there are sites; there is room for more
    _fields_ = [("outcome", c_uint32), ("why", c_char * 200), ("steps", c_uint64), ("hits", c_uint64 * _MAX_SITES)]


class _Scenario(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("run", c_void_p),
        ("variant", c_uint32),
        ("hosts", c_uint32),
        ("bytes", c_uint64),
        ("adversaries", c_uint32),
        ("bad", c_bool),
    ]


_SIGNATURES = {
    "scenario_at": (POINTER(_Scenario), [c_uint32]),
    "sim_run": (c_int, [c_uint32, c_uint32, c_uint64, c_int32, POINTER(_Report)]),
    "sim_adversary_name": (c_char_p, [c_uint32]),
    "mem_site_name": (c_char_p, [c_uint32]),
    "sim_open": (None, [POINTER(_Conf)]),
    "sim_close": (None, [POINTER(_Report)]),
    "sim_mem": (CxlMem, [c_uint32]),
    "sim_memory": (POINTER(c_uint8), []),
    "sim_trace": (c_size_t, [c_char_p, c_size_t]),
    "sim_random": (c_uint32, [c_uint32]),
    "sim_over": (c_bool, []),
    "sim_progress": (None, []),
    "sim_on_pause": (None, [_Pause]),
    "sim_crash_sometime": (None, [c_uint32, _Pause]),
    "sim_is_dead": (c_bool, [c_uint32]),
    "cxl_mem_read": (c_int, [POINTER(CxlMem), c_uint64, c_void_p, c_uint64]),
    "cxl_mem_write": (c_int, [POINTER(CxlMem), c_uint64, c_void_p, c_uint64]),
}


@cache
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build_simulator()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _names(name_at: Callable[[int], bytes | None]) -> list[str]:
    names = []
    while (name := name_at(len(names))) is not None:
        names.append(name.decode())
    return names


@cache
def sites() -> list[str]:
    """Every flush and fence of the core."""
    return _names(library().mem_site_name)


@cache
def adversaries() -> list[str]:
    return _names(library().sim_adversary_name)


@dataclass(frozen=True)
class Report:
    outcome: int
    why: str
    steps: int
    hits: list[int]  # by site: how often it was reached
    trace: str  # the last steps

    @property
    def failed(self) -> bool:
        return self.outcome == FAILED


def _report(raw: _Report, trace: str) -> Report:
    return Report(raw.outcome, raw.why.decode(errors="replace"), raw.steps, list(raw.hits[: len(sites())]), trace)


def _trace() -> str:
    buffer = ctypes.create_string_buffer(_TRACE_BYTES)
    length = library().sim_trace(buffer, _TRACE_BYTES)
    return buffer.raw[:length].decode()


# ---- scenarios in C


@dataclass(frozen=True)
class CScenario:
    name: str
    index: int
    adversaries: list[str]  # that it must withstand
    bad: bool  # a known-bad model: one of them must break it

    def run(self, adversary: str, seed: int, drop: int = NOTHING_DROPPED) -> Report:
        raw = _Report()
        library().sim_run(self.index, adversaries().index(adversary), seed, drop, byref(raw))
        return _report(raw, _trace())


@cache
def c_scenarios() -> list[CScenario]:
    found = []
    while pointer := library().scenario_at(len(found)):
        s = pointer.contents
        withstands = [name for number, name in enumerate(adversaries()) if s.adversaries >> number & 1]
        found.append(CScenario(s.name.decode(), len(found), withstands, s.bad))
    return found


# ---- hosts for Python


class HostMemory:
    """The shared memory as one host sees it (`mapping.Bytes`), through `cxl_mem_read` and `cxl_mem_write` of the core."""

    def __init__(self, simulation: Simulation, host: int, size: int) -> None:
        self._simulation = simulation
        self._mem = library().sim_mem(host)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        self._access(library().cxl_mem_read, offset, buffer, length)
        return buffer.raw

    def write(self, offset: int, data: bytes) -> None:
        self._access(library().cxl_mem_write, offset, data, len(data))
        self._simulation.steps.stores += 1

    def _access(self, function: Callable[..., int], offset: int, buffer: object, length: int) -> None:
        self._simulation.pause()
        assert function(byref(self._mem), offset, buffer, length) == 0, "an access left the memory"
        self._simulation.steps.survive()
        assert not library().sim_over(), "nothing has come further for too long"


class Simulation:
    """Hosts and their actors; `run` to its end, then look at what it did."""

    def __init__(self, memory_size: int, content: bytes) -> None:
        self.size = memory_size
        self.steps = Steps(lambda options: library().sim_random(options))
        self.actors: dict[int, int] = {}  # host -> actor
        self._crashes: object = None  # keeps a callback alive
        ctypes.memmove(library().sim_memory(), content, len(content))

    def memory(self, host: int) -> HostMemory:
        return HostMemory(self, host, self.size)

    def actor(self, host: int, work: Callable[[], None]) -> None:
        self.actors[host] = self.steps.add(work)

    def crash_sometime(self, host: int, then: Callable[[], None] = lambda: None) -> None:
        """Where the adversary is `crash`: the host loses its power at some time, and its actor ends."""

        def crash() -> None:
            self.steps.crash(self.actors[host])
            then()

        self._crashes = _Pause(crash)
        library().sim_crash_sometime(host, self._crashes)

    def is_dead(self, host: int) -> bool:
        return bool(library().sim_is_dead(host))

    def random(self, n: int) -> int:
        return int(library().sim_random(n))

    def progress(self) -> None:
        library().sim_progress()

    def pause(self) -> None:
        """Before an access another actor goes on as often as not."""
        if self.random(2):
            self.steps.pause()
        self.steps.survive()

    def _pause(self) -> None:
        with contextlib.suppress(Stop):  # an exception cannot pass through C; who crashed notices when it returns
            self.steps.pause()

    def run(self) -> None:
        pause = _Pause(self._pause)
        library().sim_on_pause(pause)
        self.steps.run()


@contextlib.contextmanager
def _opened(conf: _Conf, raw: _Report) -> Iterator[None]:
    library().sim_open(byref(conf))
    try:
        yield
    finally:
        library().sim_close(byref(raw))


def simulate(play: Callable[[Simulation], None], hosts: int, content: bytes, *, adversary: str, seed: int, drop: int) -> Report:
    """Plays a scenario in Python on a memory with this content; whatever it raises is a failure."""
    raw = _Report()
    why = ""
    conf = _Conf(adversaries().index(adversary), hosts, len(content), seed, drop)
    with _opened(conf, raw):
        try:
            play(Simulation(len(content), content))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        trace = _trace()
    report = _report(raw, trace)
    return Report(FAILED, why, report.steps, report.hits, trace) if why else report
