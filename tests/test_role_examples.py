# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as another project gets it: built, installed, and every example of a role's README run against it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = Path(__file__).resolve().parents[1]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cxl.lab installed, from what git knows of this checkout."""
    folder = tmp_path_factory.mktemp("collection")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, tracked):
        if not (ROOT / name).is_symlink() and not (ROOT / name).is_file():
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode)
    galaxy = [str(BIN / "ansible-galaxy"), "collection"]
    subprocess.run([*galaxy, "build", "--output-path", str(folder), str(source)], check=True, capture_output=True)
    archive = next(folder.glob("cxl-lab-*.tar.gz"))
    subprocess.run(
        [*galaxy, "install", "--offline", "--force", "-p", str(folder / "installed"), str(archive)],
        check=True,
        capture_output=True,
    )
    return folder / "installed"


def examples(role: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_has_an_example_that_the_installed_collection_understands(
    role: str, collections: Path, tmp_path: Path
) -> None:
    found = examples(role)
    assert found, "there is no example"
    assert "(../../README.md#as-a-collection)" in (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
    for number, example in enumerate(found):
        play = tmp_path / f"example{number}.yml"
        play.write_text(example, encoding="utf-8")
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        }
        command = [str(BIN / "ansible-playbook"), "-i", "localhost,node1,node2,", "--syntax-check", str(play)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_one_default_reaches_every_module_of_cbd(collections: Path, tmp_path: Path) -> None:
    modules = sorted(path.stem for path in (ROOT / "library").glob("cbd_*.py"))
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    assert sorted(runtime["action_groups"]["cbd"]) == modules
    nouns = {"cbd_transport": "transports", "cbd_backend": "backends", "cbd_blkdev": "blkdevs", "cbd_host": "hosts"}
    tasks = [{f"cxl.lab.{name}": {nouns[name]: []} if name in nouns else {}, "ignore_errors": True} for name in modules]
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    play["module_defaults"] = {"group/cxl.lab.cbd": {"runtime_dir": "/nowhere"}}
    (tmp_path / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    command = [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    said = [task for task in done.stdout.split("TASK [")[1:] if "nobody listens on /nowhere/control.sock" in task]
    assert len(said) == len(modules), done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_the_example_gives_the_role_what_it_takes(role: str) -> None:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    spec = _plain(specs["argument_specs"]["main"]["options"])
    for play in yaml.safe_load(examples(role)[0]):
        for entry in play["roles"]:
            if entry["role"] == f"cxl.lab.{role}":
                result = ArgumentSpecValidator(spec).validate(entry.get("vars", {}))
                assert result.error_messages == []


def _plain(spec: dict) -> dict:
    """An argument spec without its words."""
    plain = {}
    for name, option in spec.items():
        kept = {key: value for key, value in option.items() if key in ("type", "required", "default", "choices", "elements")}
        if "options" in option:
            kept["options"] = _plain(option["options"])
        plain[name] = kept
    return plain


@pytest.mark.parametrize("role", ROLES)
def test_every_default_of_a_role_is_documented(role: str) -> None:
    specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text(encoding="utf-8"))
    options = specs["argument_specs"]["main"]["options"]
    assert {name for name in defaults if not name.startswith("__")} <= set(options)
    readme = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    assert [name for name in options if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "library").glob("*.py")))
def test_every_module_is_documented(module: str) -> None:
    command = [str(BIN / "ansible-doc"), "-t", "module", "-M", str(ROOT / "library"), "--json", module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    known = yaml.safe_load(done.stdout)[module]
    assert known["doc"]["short_description"]
    assert known["examples"]
    assert known["return"]
    assert {"check_mode", "diff_mode"} <= set(known["doc"]["attributes"])
