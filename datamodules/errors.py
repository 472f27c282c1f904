"""Errors a user can mend, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class UserError(Exception):
    """What is wrong, where, and how to mend it; doors print it as one line and exit with status 2."""

    def __init__(self, what: str, where: object = "", mend: str = ""):
        self.what, self.where, self.mend = what, str(where), mend
        head = f"{self.where}: {what}" if self.where else what
        line = f"{head}; {mend}" if mend else head
        super().__init__(" ".join(line.split()))


_noted: ContextVar[list[UserError] | None] = ContextVar("noted", default=None)


def refuse(error: UserError) -> None:
    """Raises it, or notes it where `noting` asks for all that is wrong: for faults of a set after which its making can go on."""
    noted = _noted.get()
    if noted is None:
        raise error
    noted.append(error)


@contextmanager
def noting() -> Iterator[list[UserError]]:
    """The list of what is refused inside."""
    token = _noted.set([])
    try:
        yield _noted.get()
    finally:
        _noted.reset(token)


def door(work) -> None:
    """Runs a command: a `UserError` ends it with one line and status 2, Ctrl-C with 130; anything else is a bug."""
    import os
    import sys

    # Before torch is imported: OpenMP threads that soon go to sleep while they wait. On two cores shared with other work,
    # torch's default spinning made a training step 4 to 10 times slower; on idle ones this costs nothing (measured).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
