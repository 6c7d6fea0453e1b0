"""An evaluation that cannot be is refused before any work."""

from __future__ import annotations

import pytest

from item.errors import UsageError
from pipelines.evaluate.configuration import resolve


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocols": ["everything"]}, "protocols must be among one_to_all, leave_one_out"),
        ({"subset_column": "style"}, "subset_column needs metadata"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_configuration_is_refused_before_any_work(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        resolve(None, {"features": ["f"], "output": "o"}, changes)
