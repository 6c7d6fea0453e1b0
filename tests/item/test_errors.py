"""UsageError travels between processes."""

import pickle

from item.errors import UsageError


def test_message_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UsageError("Install the model.")))
    assert type(error) is UsageError
    assert str(error) == "Install the model."
