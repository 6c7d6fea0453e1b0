"""Which of the published nights a range means; the commit itself is tested through the jobs."""

import datetime

from hypothesis import given
from hypothesis import strategies as st

from pipelines.tables.published import nights_between

DATES = st.dates(datetime.date(2025, 12, 20), datetime.date(2026, 1, 20))


@given(st.lists(DATES, unique=True), st.none() | DATES, st.none() | DATES)
def test_a_range_holds_its_ends_and_what_lies_between(dates, first, last):
    found = nights_between([date.isoformat() for date in dates], first, last)
    low, high = first or datetime.date.min, last or datetime.date.max
    assert found == [date.isoformat() for date in dates if low <= date <= high]
