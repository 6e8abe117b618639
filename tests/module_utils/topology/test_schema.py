# SPDX-License-Identifier: GPL-3.0-or-later
"""The published schema and the guide are those of the model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.topology.schema import SECTIONS, SHORT, json_schema

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "docs" / "topology.schema.json"


def test_the_published_schema_is_that_of_the_model():
    """After a wanted change: RECORD=1 .venv/bin/python -m pytest -k published tests/module_utils/topology/test_schema.py"""
    text = json.dumps(json_schema(), indent=1) + "\n"
    if os.environ.get("RECORD"):
        PUBLISHED.write_text(text, encoding="utf-8")
    assert PUBLISHED.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("section", SECTIONS)
def test_the_guide_names_every_key_with_its_meaning(section):
    guide = (ROOT / "docs" / "topology.md").read_text(encoding="utf-8")
    chapter = guide.split(f"\n### {section}\n")[1].split("\n### ")[0].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]*) \|", chapter, re.MULTILINE))
    assert rows == {key: field.doc for key, field in SECTIONS[section].items()}


def test_the_guide_names_the_short_forms():
    guide = (ROOT / "docs" / "topology.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` | {field.doc} |" in guide for key, field in SHORT.items())


@pytest.mark.parametrize("section", SECTIONS)
def test_patterns_and_limits_of_the_schema_hold_for_the_defaults(section):
    for key, form in json_schema()["properties"][section]["items"]["properties"].items():
        default = form.get("default")
        if isinstance(default, str) and "pattern" in form:
            assert re.search(form["pattern"], default), key
        if "enum" in form and default is not None:
            assert default in form["enum"], key
