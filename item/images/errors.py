"""What is raised for a file that is not a picture, with its code and the particulars."""

from __future__ import annotations

from item.tables import ErrorCode


class ImageError(Exception):
    """An image cannot be used, and it is the file's fault.

    Attributes
    ----------
    code : ErrorCode
    message : str
        One sentence with the particulars, printable ASCII.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message
