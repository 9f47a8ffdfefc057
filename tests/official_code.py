"""Where tests find a checkout of the official code, if there is one."""

import os

import pytest

REPO = os.environ.get("ANCHORDETR_REPO", "")

needs_official_code = pytest.mark.skipif(not REPO, reason="ANCHORDETR_REPO names no checkout of the official code")
