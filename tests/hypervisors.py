# SPDX-License-Identifier: GPL-3.0-or-later
"""Hypervisors for the tests: a pretended one, and libvirt's own test driver, which is libvirt without a machine."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ansible.module_utils.cxl_lab.topology.domain_xml import LAB_NAMESPACE, QEMU_NAMESPACE

TEST_URI = "test:///default"


class FakeHypervisor:
    """Domains by name; ``failures`` are raised one after another by the next starts."""

    def __init__(self, failures=()) -> None:
        self.failures = list(failures)
        self.domains: dict[str, str] = {}
        self.started: list[ET.Element] = []
        self.removed: list[str] = []
        self.models: list[str] = []

    def confinement_models(self) -> list[str]:
        return self.models

    def start(self, xml: str) -> None:
        domain = ET.fromstring(xml)
        self.started.append(domain)
        if self.failures:
            raise self.failures.pop(0)
        self.domains[domain.findtext("name")] = "running"

    def remove(self, name: str) -> None:
        self.removed.append(name)
        self.domains.pop(name, None)

    def resume(self, name: str) -> None:
        if self.domains.get(name) == "paused":
            self.domains[name] = "running"

    def is_active(self, name: str) -> bool:
        return self.domains.get(name) in ("running", "paused")

    def ports(self) -> list[int]:
        """The forwarded port of each start."""
        return [int(domain.find(f"metadata/{{{LAB_NAMESPACE}}}lab").get("ssh_port")) for domain in self.started]


def for_test_driver(xml: str) -> str:
    """The same domain with what the test driver does not know left out."""
    domain = ET.fromstring(xml)
    domain.set("type", "test")
    for tag in ("cpu", "sysinfo", "devices", f"{{{QEMU_NAMESPACE}}}commandline", "os"):
        for element in domain.findall(tag):
            domain.remove(element)
    ET.SubElement(ET.SubElement(domain, "os"), "type").text = "hvm"
    return ET.tostring(domain, encoding="unicode")
