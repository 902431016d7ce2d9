"""Why a statement is not sent."""

UNAUTHORIZED = "Unauthorized operation"
INJECTION = "SQL injection detected"
PARAMETERS = "Invalid parameters"


class Refused(Exception):
    """The statement was not proven. The text is for the script's author and begins with one of the words above."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def unauthorized(detail: str) -> Refused:
    """Something that scripts may not do, or that was not proven to be harmless."""
    return Refused(UNAUTHORIZED, detail)


def injection(detail: str) -> Refused:
    """A text that looks as if values had been written into it."""
    return Refused(INJECTION, detail)


def parameters(detail: str) -> Refused:
    """Parameters that do not fit the statement."""
    return Refused(PARAMETERS, detail)
