# SPDX-License-Identifier: GPL-3.0-or-later
"""``make bench``: the data path, the limits of the machine and its peers in one run. Not part of the wheel.

``cases`` says what is measured, ``probes`` how one figure is taken, ``servers`` what runs meanwhile, ``run`` does it in turns,
``results`` makes rows of it, ``schema`` checks them, ``table`` and ``plots`` show them, ``lab`` adds those of a lab.
"""
