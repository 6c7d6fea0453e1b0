"""Errors travel between processes, and say whose fault a disk is."""

import errno
import pickle

import pytest

from item.errors import MachineError, UsageError, refusal_of_disk


def test_message_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UsageError("Install the model.")))
    assert type(error) is UsageError
    assert str(error) == "Install the model."


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_a_full_disk_is_the_machines_fault_and_a_closed_one_the_users(number: int) -> None:
    found = refusal_of_disk(OSError(number, "no"), "Make room.")
    assert type(found) is (UsageError if number == errno.EACCES else MachineError)
    assert str(found) == "Make room."
