# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab as data: parse and validate (model), assign what was left open (plan), describe to libvirt (domain_xml), run (lab)."""
