# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path of a CXL host: block devices over shared memory (CBD), served by `cxl-datapathd`."""

__version__ = "0.1.0"
