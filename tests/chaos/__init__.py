"""One fault per file, one rule per test: what a client and a poller may rely on while something fails."""

import pytest

pytest.register_assert_rewrite("tests.chaos.rules")
