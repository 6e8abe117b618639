# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that speaks to libvirt.

A domain belongs to a lab when its metadata says so. The metadata lives in libvirt itself, so ownership survives the loss of
every file of ours.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from ..errors import LabError
from .domain_xml import LAB_NAMESPACE
from .plan import Seen, domain_name
from .store import Owner

_LOGS = Path("/var/log/libvirt/qemu")
_LIBVIRTS_OWN = re.compile(
    r"[ -]|LC_ALL=|char device|.*\\$|.*: starting up libvirt version|.* is tainted: |.*'-mon' is deprecated"
)
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
}


class LibvirtHost:
    """A connection to one hypervisor."""

    def __init__(self, uri: str) -> None:
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise LabError(
                f"libvirt at {uri}", str(error), "check that libvirtd runs and that you have the rights (root, or group libvirt)"
            ) from error

    def emulator_user(self) -> Owner:
        """The user that libvirt gives to QEMU, from the security model "dac"."""
        for model in self._security_models:
            label = model.findtext("baselabel", "")
            if model.findtext("model") == "dac" and label:
                uid, gid = label.split(":")
                return Owner(int(uid.lstrip("+")), int(gid.lstrip("+")))
        return Owner(0, 0)

    def confinement_models(self) -> list[str]:
        """Mandatory access control that would keep QEMU from the files of a lab."""
        names = [model.findtext("model", "") for model in self._security_models]
        return [name for name in names if name in ("apparmor", "selinux")]

    @functools.cached_property
    def _security_models(self) -> list[ET.Element]:
        # Asked once: libvirt may have to ask every QEMU of the machine first.
        return ET.fromstring(self._connection.getCapabilities()).findall("host/secmodel")

    def seen(self, lab: str) -> dict[str, Seen]:
        """The domains of the lab by the names of their hosts."""
        found = {}
        for domain in self._connection.listAllDomains():
            mark = self._mark(domain)
            # A copy of a domain has its metadata too, and another name.
            if mark is not None and mark.get("name") == lab and domain.name() == domain_name(lab, mark.get("host", "")):
                state = _STATES.get(domain.state()[0], "off")
                port = mark.get("ssh_port", "0")
                found[mark.get("host", "")] = Seen(state, _parse(mark.text), int(port) if port.isdecimal() else 0)
        return found

    def start(self, xml: str) -> None:
        """Defines the domain and starts it.

        :raises LabError: with QEMU's own message; a domain of this name that is not the lab's is left alone.
        """
        wanted = ET.fromstring(xml)
        name = wanted.findtext("name", "")
        try:
            old = self._find(name)
            if old is not None and self._mark(old) is None:
                raise LabError(f"domain {name}", "exists and was not made by cxl.lab", "rename or remove it")
            if old is not None:
                # Without it libvirt takes the definition for another domain of the same name.
                ET.SubElement(wanted, "uuid").text = old.UUIDString()
            domain = self._connection.defineXML(ET.tostring(wanted, encoding="unicode"))
            try:
                domain.create()
            except libvirt.libvirtError:
                if old is None:
                    # What never ran has nothing to lose: the next run may build it with other settings.
                    domain.undefine()
                raise
        except libvirt.libvirtError as error:
            raise LabError(f"domain {name}", f"did not start: {error}", observed=self.emulator_log(name)) from error

    def remove(self, name: str) -> None:
        """Stops a domain of ours at once and forgets it."""
        domain = self._find(name)
        if domain is None or self._mark(domain) is None:
            return
        try:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        except libvirt.libvirtError as error:
            if self._find(name) is not None:
                raise LabError(f"domain {name}", f"could not be removed: {error}", "look at the log of libvirtd") from error
        _log(name).unlink(missing_ok=True)

    def resume(self, name: str) -> None:
        domain = self._find(name)
        if domain is not None and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            domain.resume()

    def power(self, name: str, action: str) -> None:
        """Does "stop", "start", "reset" or "resume" to a domain that ``seen`` showed, at once and without asking the guest.

        :raises LabError: with libvirt's or QEMU's own message.
        """
        acts = {"stop": "destroy", "start": "create", "reset": "reset", "resume": "resume"}
        domain = self._find(name)
        if domain is None:
            raise LabError(f"domain {name}", "is gone", "build the lab again (site.yml)")
        try:
            getattr(domain, acts[action])()
        except libvirt.libvirtError as error:
            step = "look at the log of libvirtd"
            raise LabError(f"domain {name}", f"{action} failed: {error}", step, observed=self.emulator_log(name)) from error

    def is_active(self, name: str) -> bool:
        domain = self._find(name)
        return domain is not None and bool(domain.isActive())

    @staticmethod
    def emulator_log(name: str, lines: int = 12) -> str:
        """What QEMU wrote to its standard error last; libvirt's own lines and the long command line are left out."""
        return "\n".join(tail(_log(name), lines, _LIBVIRTS_OWN))

    def _find(self, name: str) -> Any:
        try:
            return self._connection.lookupByName(name)
        except libvirt.libvirtError:
            return None

    @staticmethod
    def _mark(domain: Any) -> ET.Element | None:
        try:
            return ET.fromstring(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, LAB_NAMESPACE, 0))
        except (libvirt.libvirtError, ET.ParseError):
            return None


def _log(domain: str) -> Path:
    return _LOGS / f"{domain}.log"


def _parse(text: str | None) -> dict[str, Any] | None:
    try:
        spec = json.loads(text or "")
    except ValueError:
        return None
    return spec if isinstance(spec, dict) else None


def tail(file: Path, lines: int, unwanted: re.Pattern[str] | None = None) -> list[str]:
    """The last lines of a log, cut to what a person reads; those that begin like ``unwanted`` do not count."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 16384))
            text = opened.read().decode(errors="replace")
    except OSError:
        return []
    kept = [line.rstrip()[:300] for line in text.splitlines() if line.strip() and not (unwanted and unwanted.match(line))]
    return kept[-lines:]
