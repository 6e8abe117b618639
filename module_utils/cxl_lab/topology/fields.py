# SPDX-License-Identifier: GPL-3.0-or-later
"""Kinds of values in a topology: each knows how to read what a user wrote, and how to say it as JSON schema."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from ..errors import LabError, shown
from ..names import check_name
from ..sizes import format_size, parse_size

#: The CXL specification (3.1, section 9.18.1.3) lets windows and the capacity of a device only be multiples of this.
CAPACITY_UNIT = 256 << 20
#: More than any machine has, and a number that fits everywhere.
MAX_CAPACITY = 1 << 50
#: Where a network of one's own may be (RFC 1918).
PRIVATE_NETWORKS = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_SIZE_FORM = {"type": ["string", "integer"], "pattern": r"^[0-9]+ *[KMGTkmgt]?(i?[bB])?$"}
_NAME_FORM = {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,31}$"}
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,63}")
#: What QEMU and the kernel take as one word, without a quote or a control character.
_TEXT_LIMIT = 1024


@dataclass(frozen=True)
class Field:
    """A key of an entry.

    :param doc: what it means, for people.
    :param read: the typed value of what a user wrote, given its path. Raises LabError.
    :param schema: its form as JSON schema.
    :param default: what the user would have written; None leaves it to the plan.
    :param instead: stands in for a wrong value, so that nothing else complains about the same.
    """

    doc: str
    read: Callable[[object, str], Any]
    schema: Mapping[str, Any]
    default: Any = None
    required: bool = False
    instead: Any = None


class Errors:
    """Collects every problem, so that a user mends a file once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, path: str, problem: str, fix: str) -> None:
        self.found.append(f"{path}: {problem}; {fix}")

    def about(self, *sections: str, but: Sequence[str] = ()) -> bool:
        """Whether something was found in one of these lists.

        :param but: keys of their entries that do not count.
        """
        ignored = re.compile(rf"[a-z]+\[\d+\]\.({'|'.join(but)}): ")
        return any(line.startswith(sections) and not (but and ignored.match(line)) for line in self.found)

    def tried(self, parse: Callable[[], Any], fallback: Any = None) -> Any:
        try:
            return parse()
        except LabError as error:
            self.found.append(str(error))
            return fallback


def read_mapping(errors: Errors, path: str, data: object, known: Sequence[str]) -> Mapping[str, Any]:
    """What a user wrote, if it is a mapping; unknown keys are problems."""
    use = ", ".join(sorted(known))
    if not isinstance(data, Mapping):
        errors.add(path, f"{shown(data)} is no mapping", f"give {use}")
        return {}
    for key in data:
        if key not in known:
            errors.add(path, f"unknown key {shown(key)}", f"use {use}")
    return data


def read_list(errors: Errors, path: str, data: object) -> Sequence[Any]:
    """What a user wrote, if it is a list."""
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return data
    errors.add(path, f"{shown(data)} is no list", "write a list")
    return []


def read_entry(errors: Errors, path: str, data: object, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The typed values of an entry, None for what is left out or wrong. A wrong name stays, so that those who refer to it are not
    told that it does not exist."""
    entry = read_mapping(errors, path, data, list(fields))
    values = {}
    for key, field in fields.items():
        value = entry.get(key, field.default)
        wrong = field.instead
        if key == "name":
            wrong = value if isinstance(value, str) else f"<{path}>"
        left_out = value is None and not field.required
        values[key] = None if left_out else errors.tried(lambda f=field, v=value, k=key: f.read(v, f"{path}.{k}"), wrong)  # type: ignore[misc]
    return values


def name(doc: str, default: str | None = "") -> Field:
    """A name as all of a lab has; required unless the default is None."""
    return Field(doc, check_name, _NAME_FORM, default=None, required=default is not None)


def size(
    doc: str, *, low: int, high: int, step: int, default: str | None, fix: str, why: str = "is too small or no whole MiB"
) -> Field:
    """Bytes from ``low`` to ``high`` in steps."""

    def read(value: object, path: str) -> int:
        nothing = low == 0 and (value == "0" or (type(value) is int and value == 0))
        number = 0 if nothing else parse_size(value, path)
        if not low <= number <= high or number % step:
            raise LabError(path, f"{format_size(number)} {why}", fix)
        return number

    return Field(doc, read, _SIZE_FORM, default)


def capacity(doc: str) -> Field:
    """Bytes of CXL memory. A device of another size would be there, and the driver would not bind it."""

    def read(value: object, path: str) -> int:
        number = parse_size(value, path)
        if number > MAX_CAPACITY:
            raise LabError(
                path, f"{format_size(number)} is more than a file can hold", f"use at most {format_size(MAX_CAPACITY)}"
            )
        if number % CAPACITY_UNIT:
            near = format_size(max(1, round(number / CAPACITY_UNIT)) * CAPACITY_UNIT)
            problem = f"{format_size(number)} is no multiple of 256M, so that the driver would not bind the device"
            raise LabError(path, problem, f"use {near}")
        return number

    return Field(doc, read, _SIZE_FORM, instead=CAPACITY_UNIT)


def whole_number(value: object, path: str, low: int, high: int) -> int:
    """An integer, also from the string forms that templates and YAML make of it ("2", "0xc0de0001").

    :raises LabError: for anything else, or outside of the range.
    """
    try:
        number = int(value, 0) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, int) and not isinstance(number, bool) and low <= number <= high:
        return number
    end = high if high < 1 << 16 else f"{high:#x}"
    raise LabError(path, f"{shown(value)} is no whole number from {low} to {end}", "correct the value")


def integer(doc: str, low: int, high: int, default: int | None) -> Field:
    form = {"type": ["integer", "string"], "minimum": low, "maximum": high}
    return Field(doc, lambda value, path: whole_number(value, path, low, high), form, default)


def port_number(doc: str) -> Field:
    """A TCP port; 0 and "auto" leave it to the lab."""

    def read(value: object, path: str) -> int:
        # Not for what only equals 0: "no" in YAML is False, and no number.
        automatic = value == "auto" or (type(value) is int and value == 0)
        return 0 if automatic else whole_number(value, path, 1024, 65535)

    form = {"anyOf": [{"enum": ["auto", 0]}, {"type": ["integer", "string"], "minimum": 1024, "maximum": 65535}]}
    return Field(doc, read, form)


def choice(doc: str, allowed: Sequence[str | int], default: str | int | None) -> Field:
    """One of these, the last of which is the most; numbers also as text."""

    def read(value: object, path: str) -> str | int:
        found = [one for one in allowed if type(value) in (str, type(one)) and value in (one, str(one))]
        if not found:
            raise LabError(path, f"{shown(value)} is not allowed", f"use one of {', '.join(map(str, allowed))}")
        return found[0]

    return Field(doc, read, {"enum": list(allowed)}, default, instead=allowed[-1])


def flag(doc: str) -> Field:
    def read(value: object, path: str) -> bool:
        if not isinstance(value, bool):
            raise LabError(path, f"{shown(value)} is neither true nor false", "write true or false")
        return value

    return Field(doc, read, {"type": "boolean"}, False)


def file_path(doc: str) -> Field:
    """An absolute path of the hypervisor."""

    def read(value: object, path: str) -> str:
        if not (isinstance(value, str) and value.startswith("/") and _printable(value)):
            raise LabError(path, f"{shown(value)} is no absolute path", "write it from the root folder on")
        return value

    return Field(doc, read, {"type": "string", "pattern": "^/"})


def list_of_texts(doc: str, room: int | None = None) -> Field:
    """Words for a command line.

    :param room: bytes that they may take together, with a blank before each.
    """

    def read(value: object, path: str) -> tuple[str, ...]:
        listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        if not listed or not all(isinstance(word, str) and word and _printable(word) for word in value):  # type: ignore[attr-defined]
            fix = f"write a list of texts without control characters, each at most {_TEXT_LIMIT} long"
            raise LabError(path, f"{shown(value)} is no list of words", fix)
        words: tuple[str, ...] = tuple(value)  # type: ignore[arg-type]
        need = sum(1 + len(word.encode()) for word in words)
        if room is not None and need > room:
            raise LabError(path, f"the words have {need} bytes together, and there is room for {room}", "use fewer")
        return words

    return Field(doc, read, {"type": "array", "items": {"type": "string", "minLength": 1}}, ())


def list_of_packages(doc: str) -> Field:
    """Names of Debian packages (Debian Policy, section 5.6.1)."""

    def read(value: object, path: str) -> tuple[str, ...]:
        listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        if not listed or not all(isinstance(one, str) and _PACKAGE.fullmatch(one) for one in value):  # type: ignore[attr-defined]
            raise LabError(path, f"{shown(value)} is no list of packages", "write the names of Debian packages")
        return tuple(sorted(set(value)))  # type: ignore[call-overload]

    return Field(doc, read, {"type": "array", "items": {"type": "string", "pattern": f"^{_PACKAGE.pattern}$"}}, ())


def list_of_names(doc: str) -> Field:
    """Names of other entries; whether they exist is not known here."""

    def read(value: object, path: str) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise LabError(path, f"{shown(value)} is no list", "write a list")
        texts = list(map(shown, value))
        if not texts or len(set(texts)) < len(texts):
            raise LabError(
                path,
                "is empty or names a host twice" if path.endswith("hosts") else "is empty or names one twice",
                "name each once",
            )
        return tuple(value)

    return Field(doc, read, {"type": "array", "items": _NAME_FORM, "minItems": 1, "uniqueItems": True})


def subnet(doc: str) -> Field:
    """A private IPv4 network."""

    def read(value: object, path: str) -> ipaddress.IPv4Network:
        try:
            network = ipaddress.IPv4Network(str(value))
            if network.prefixlen <= 29 and any(map(network.subnet_of, PRIVATE_NETWORKS)):
                return network
        except ValueError:
            pass
        problem = f"{shown(value)} is no private IPv4 network of eight addresses or more"
        raise LabError(path, problem, 'write "10.77.0.0/24"')

    return Field(doc, read, {"type": "string", "pattern": r"^[0-9.]+/[0-9]+$"})


def _printable(text: str) -> bool:
    return text.isprintable() and len(text) <= _TEXT_LIMIT
