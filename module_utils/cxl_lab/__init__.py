# SPDX-License-Identifier: GPL-3.0-or-later
"""The functional core of the cxl.lab modules: plans, parsers and one command runner. Imports nothing of Ansible."""
