# SPDX-License-Identifier: Apache-2.0
"""The harness's own command line, with the model `banyan` registered (the package does that)."""
from lm_eval.__main__ import cli_evaluate

from banyan._end import together

together(cli_evaluate)
