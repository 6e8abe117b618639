# SPDX-License-Identifier: GPL-3.0-or-later
"""The host of a dynamic-capacity device against a model of its registers: the flow, and what goes wrong in it."""

from __future__ import annotations

import struct

import pytest
from dcd_model import BLOCK, COMPONENT, DEVICE, HDM, MAILBOX, MIB, REGION, Model
from hypothesis import given, settings
from hypothesis import strategies as st

from cxl_datapath.dcd import mailbox
from cxl_datapath.dcd.host import DcdHost
from cxl_datapath.dcd.window import Window
from cxl_datapath.errors import Code, DatapathError

WINDOW = Window(0x5D0000000, 4 << 30, 1)
E0, E1 = (128 * MIB, 64 * MIB), (256 * MIB, 64 * MIB)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def host(model):
    host = DcdHost(model)
    host.make_region(WINDOW)
    return host


def said(host: DcdHost) -> list[str]:
    return [each.what for each in host.history]


def test_taken_from_the_kernel_and_given_back(model):
    host = DcdHost(model)
    assert (model.bound, host.serial, len(host.regions), host.regions[1].base) == (None, 0x91, 2, REGION)
    assert host.make_region(WINDOW) is True and model.committed and model.mem_enabled
    assert host.make_region(WINDOW) is False, "the second time there is nothing to program"
    with pytest.raises(DatapathError, match="has a region"):
        host.give_back()
    host.destroy_region()
    assert not model.committed and not model.mem_enabled
    host.give_back()
    assert model.bound == "cxl_pci"


def test_no_region_no_accept(model):
    host = DcdHost(model)
    model.offer(E0)
    assert host.service() == 1
    assert model.held() == [] and model.pending == [] and model.log == []
    assert said(host) == ["refused: no region"]
    assert b"" not in model.commands


def test_an_offer_from_before_the_region_is_refused_by_it(model):
    model.offer(E0)
    host = DcdHost(model)
    host.make_region(WINDOW)
    host.service()
    assert model.held() == [] and model.log == [] and said(host) == ["refused: no region", "region made"]
    model.offer(E0)
    again = DcdHost(model)  # the daemon ended before it answered; the region is there
    again.make_region(WINDOW)
    again.service()
    assert model.held() == [E0]


def test_offer_accept_release(host, model):
    model.offer(E0)
    host.service()
    assert model.held() == [E0] == host.holdings.held
    model.ask_back(E0)
    host.service()
    assert model.held() == [] == host.holdings.held and said(host)[-2:] == ["accepted", "released"]
    assert host.service() == 0


def test_several_extents_as_one_chain(host, model):
    model.offer(E0, E1, (REGION, BLOCK))
    assert host.service() == 1
    assert model.held() == [E0, E1, (REGION, BLOCK)], "two regions, one request"


@pytest.mark.parametrize(
    ("tags", "sequence", "end"),
    [
        ("", (1, 2), "accepted"),
        ("aa", (2, 1), "accepted"),
        ("", (1, 3), "refused: a gap in the sequence"),
        ("", (2,), "refused: a gap in the sequence"),
        ("", (0, 1), "refused: a gap in the sequence"),
        ("ab", (), "refused: several tags"),
    ],
)
def test_shared_extents_come_in_order_and_under_one_tag(host, model, tags, sequence, end):
    model.offer(E0, E1, tags=tags, sequence=sequence)
    assert host.service() == 1 and said(host)[-1] == end
    assert model.held() == ([E0, E1] if end == "accepted" else []) and model.pending == [] and model.log == []


def test_a_release_under_a_user_is_ignored_and_can_be_asked_again(host, model):
    model.offer(E0)
    host.service()
    assert host.map("tool", (E0[0] + BLOCK, BLOCK)) == WINDOW.base + E0[0] + BLOCK
    model.ask_back(E0)
    host.service()
    assert model.held() == [E0] and said(host)[-1] == "release ignored"
    host.unmap("tool")
    assert model.held() == [E0], "it was not remembered"
    model.ask_back(E0)
    host.service()
    assert model.held() == []


def test_a_release_that_is_remembered(model):
    host = DcdHost(model)
    host.make_region(WINDOW, remember=True)
    model.offer(E0, E1)
    host.service()
    host.map("one", E0)
    host.map("two", (E0[0], BLOCK))
    model.ask_back(E0)
    host.service()
    host.unmap("one")
    # The part that "two" has not is free and was asked for.
    assert model.held() == [(E0[0], BLOCK), E1]
    host.unmap("two")
    assert model.held() == [E1]


def test_a_part_released_leaves_the_rest_usable(host, model):
    model.offer(E0)
    host.service()
    host.map("tool", (E0[0], 32 * MIB))
    model.ask_back((E0[0] + 32 * MIB, 16 * MIB))
    host.service()
    assert model.held() == [(E0[0], 32 * MIB), (E0[0] + 48 * MIB, 16 * MIB)]
    assert host.map("more", (E0[0] + 48 * MIB, 16 * MIB)) and host.holdings.users["tool"] == (E0[0], 32 * MIB)
    with pytest.raises(DatapathError, match="not all accepted"):
        host.map("hole", (E0[0] + 32 * MIB, BLOCK))


def test_a_mapping_over_two_extents(host, model):
    model.offer((0, 64 * MIB))
    model.offer((64 * MIB, 64 * MIB))
    host.service()
    assert host.map("both", (32 * MIB, 64 * MIB))
    for part in ((0, 64 * MIB), (64 * MIB, 64 * MIB)):
        model.ask_back(part)
    host.service()
    assert model.held() == [(0, 128 * MIB)]


def test_extents_from_before_are_adopted(model):
    model.accepted = {0, 1, 5}
    host = DcdHost(model)
    assert host.holdings.held == [(0, 2 * BLOCK), (5 * BLOCK, BLOCK)] and said(host) == ["found"]
    host.make_region(WINDOW)
    assert host.map("tool", (0, 2 * BLOCK)) == WINDOW.base


def test_a_restart_of_the_daemon_changes_nothing(host, model):
    model.offer(E0)
    host.service()
    host.map("tool", E0)
    model.offer(E1)  # while nobody looks
    again = DcdHost(model)
    assert again.make_region(WINDOW) is False
    again.adopt_user("tool", E0)
    again.service()
    model.ask_back(E0)
    again.service()
    assert model.held() == [E0, E1]


def test_overlap_limit_and_what_lies_outside(host, model):
    model.offer(E0)
    host.service()
    model.offer((E0[0], BLOCK), E1)  # QEMU would not offer it
    host.service()
    assert model.held() == [E0, E1] and said(host)[-1] == "accepted in part"
    device = Model()
    limited = DcdHost(device)
    limited.make_region(WINDOW, limit=100 * MIB)
    device.offer(E0)
    device.offer(E1)
    device.offer((0, BLOCK))
    limited.service()
    assert device.held() == [E0, (E1[0], 36 * MIB)] and said(limited)[-1] == "refused"


def test_more_than_the_log_holds(host, model):
    for number in range(12):
        model.offer((number * 4 * BLOCK, BLOCK))
    host.service()
    assert len(model.held()) == 8 and "4 events were lost" in said(host) and model.log == []


def test_more_extents_than_one_answer_holds(host, model):
    for first in range(0, 240, 8):
        for number in range(first, first + 8):
            model.offer((number * 2 * BLOCK, BLOCK)) if number < 128 else None
        host.service()
    assert len(host.extents) == 128 and host.holdings.held == model.held()


@pytest.mark.parametrize("opcode", [0x4802, 0x4803, 0x0101, 0x4801])
def test_a_daemon_that_dies_at_any_command(model, opcode):
    """Answer first, then clear: whatever was done is found to be done."""
    host = DcdHost(model)
    host.make_region(WINDOW)
    model.offer((0, BLOCK))
    host.service()
    model.offer(E0)
    model.ask_back((0, BLOCK))
    model.die_before = opcode
    with pytest.raises(KeyboardInterrupt):
        host.service()
    model.die_before = None
    again = DcdHost(model)
    again.make_region(WINDOW)
    again.service()
    assert model.held() == [E0] and model.pending == [] and model.log == []


@pytest.mark.parametrize("opcode", [0x4802, 0x4803, 0x0101])
def test_a_daemon_that_dies_while_it_refuses(model, opcode):
    host = DcdHost(model)
    model.offer(E0)
    model.die_before = opcode
    with pytest.raises(KeyboardInterrupt):
        host.service()
    model.die_before = None
    DcdHost(model).service()
    assert model.held() == [] and model.pending == [] and model.log == []


def test_a_region_with_users_stays_and_one_without_gives_everything_back(host, model):
    model.offer(E0)
    host.service()
    host.map("tool", E0)
    with pytest.raises(DatapathError, match="is used by tool") as caught:
        host.destroy_region()
    assert caught.value.code == Code.BUSY and model.held() == [E0] and model.committed
    host.unmap("tool")
    host.destroy_region()
    assert model.held() == []
    model.offer(E0)
    host.service()
    assert model.held() == [], "no region, no accept"


def test_forced_removal_is_seen(host, model):
    model.offer(E0)
    host.service()
    model.accepted.clear()
    model._events(2, [E0])
    host.service()
    assert host.holdings.held == [] and said(host)[-1] == "taken by force"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda host: host.map("a", E1), "not all accepted"),
        (lambda host: host.map("a", (E0[0] - BLOCK, 2 * BLOCK)), "not all accepted"),
        (lambda host: host.unmap("a"), r"is not there \(there are: tool\)"),
        (lambda host: host.map("tool", (E0[0], BLOCK)), "is there with 0x8000000"),
    ],
)
def test_mappings_that_cannot_be(host, model, act, message):
    model.offer(E0)
    host.service()
    host.map("tool", E0)
    assert host.map("tool", E0), "the same again is no change"
    with pytest.raises(DatapathError, match=message):
        act(host)
    assert list(host.holdings.users) == ["tool"]


# ---- devices that are not what they should be


def test_no_dynamic_capacity():
    with pytest.raises(DatapathError, match="has no dynamic capacity"):
        DcdHost(Model(regions=0))


def test_somebody_else_has_the_decoder(model):
    other = DcdHost(model)
    other.make_region(Window(0x700000000, 4 << 30, 1))
    with pytest.raises(DatapathError, match="elsewhere already") as caught:
        DcdHost(model).make_region(WINDOW)
    assert caught.value.code == Code.BUSY


@pytest.mark.parametrize("window", [Window(0x5D0000000, 512 * MIB, 1), Window(0x5D0000000 + MIB, 4 << 30, 1)])
def test_windows_that_do_not_fit(model, window):
    with pytest.raises(DatapathError):
        DcdHost(model).make_region(window)
    assert not model.committed and not model.mem_enabled


def test_a_mailbox_that_hangs(host, model, monkeypatch):
    monkeypatch.setattr(mailbox, "TIMEOUT_S", 0.01)
    struct.pack_into("<I", model.bar(DEVICE).raw, MAILBOX + 4, 1)
    model.log.append(bytes(128))
    model._show_log()
    with pytest.raises(DatapathError, match="mailbox is busy") as caught:
        host.service()
    assert caught.value.code == Code.TIMEOUT


def test_a_decoder_that_does_not_commit(model, monkeypatch):
    host = DcdHost(model)
    monkeypatch.setattr(model.bar(COMPONENT), "_stored", lambda offset: None)
    with pytest.raises(DatapathError, match="did not commit"):
        host.make_region(WINDOW)


@settings(max_examples=150)
@given(
    where=st.sampled_from(["config", DEVICE, COMPONENT]),
    place=st.integers(0, 0x400) | st.integers(HDM, HDM + 64) | st.integers(0x1000, 0x1010),
    junk=st.binary(min_size=1, max_size=8),
)
def test_damaged_registers_are_an_error_and_never_more(where, place, junk):
    model = Model()
    raw = model._config if where == "config" else {DEVICE: model._device, COMPONENT: model._component}[where].raw
    raw[place : place + len(junk)] = junk[: max(len(raw) - place, 0)]
    struct.pack_into("<H", model._config, 4, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox, "TIMEOUT_S", 0.0)
        try:
            host = DcdHost(model)
            host.make_region(WINDOW)
            model.offer(E0)
            host.service()
        except DatapathError:
            pass
        except KeyError as error:
            assert error.args[0] in range(6), "a BAR that the model lacks"


act = st.one_of(
    st.tuples(st.just("offer"), st.integers(0, 15), st.integers(1, 6)),
    st.tuples(st.just("ask"), st.integers(0, 15), st.integers(1, 6)),
    st.tuples(st.just("map"), st.integers(0, 15), st.integers(1, 4)),
    st.tuples(st.just("unmap"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
)


@settings(max_examples=80)
@given(acts=st.lists(act, max_size=25), remember=st.booleans())
def test_nothing_that_is_used_ever_goes(acts, remember):
    model = Model()
    host = DcdHost(model)
    host.make_region(WINDOW, remember=remember)
    for number, (name, first, count) in enumerate(acts):
        extent = (first * BLOCK, count * BLOCK)
        if name == "offer" and not set(range(first, first + count)) & model.accepted:
            model.offer(extent)
        elif name == "ask":
            model.ask_back(extent)
        elif name == "map":
            try:
                host.map(f"m{number}", extent)
            except DatapathError:
                assert not set(range(first, first + count)) <= model.accepted
        elif name == "unmap" and host.holdings.users:
            host.unmap(sorted(host.holdings.users)[first % len(host.holdings.users)])
        elif name == "restart":
            users = dict(host.holdings.users)
            host = DcdHost(model)
            host.make_region(WINDOW, remember=remember)
            for user, extent in users.items():
                host.adopt_user(user, extent)
        host.service()
        assert host.holdings.held == model.held() and not model.pending and not model.log
        for user in host.holdings.users.values():
            assert set(range(user[0] // BLOCK, sum(user) // BLOCK)) <= model.accepted
