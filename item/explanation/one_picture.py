"""One picture explained, from its file."""

from __future__ import annotations

from item.explanation.sentences import Explanation
from item.explanation.sentences import explain as explain_row
from item.featurizing import featurize
from item.heads.head import Head
from item.images.given import GivenPicture
from item.profiles import Profile


def explain(
    picture: GivenPicture, head: Head | None = None, profile: Profile | str = "mini"
) -> Explanation:
    """Say what a head makes of one picture, and why.

    Parameters
    ----------
    picture : an image file as bytes or a path, or a Pillow image
    head : the one that ships with ``mini`` if none is given
    profile : that the head was trained on

    Returns
    -------
    Explanation: ``verdict``, ``score``, ``sentence``, ``caption``, ``objects`` and more; its
    ``as_text()`` is for people, its ``as_dict()`` for JSON.

    Raises
    ------
    UsageError
        If the picture cannot be read, a model is missing, or the head is of another profile.

    Examples
    --------
    >>> import item, PIL.Image
    >>> found = item.explain(PIL.Image.new("RGB", (64, 48), "red"))
    >>> found.sentence.endswith("."), bool(0 <= found.score <= 1)
    (True, True)
    """
    table = featurize([picture], profile)
    judge = head or Head.load()
    judge.check_table(table)
    return explain_row(table.to_pylist()[0], judge)
