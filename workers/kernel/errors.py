"""What can go wrong between PAM and its database, each situation one sentence; nothing here knows HTTP."""


class PamError(Exception):
    """The root of PAM's own errors."""


class Refused(PamError):
    """A verb said no. `code` is one word for programs, the message one sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SignedOut(PamError):
    """The token is missing, wrong, expired or revoked."""


class Unavailable(PamError):
    """The database, the queue or a gateway did not answer; trying again later may help."""


class FenceLost(PamError):
    """Another worker holds the run, or it has ended: drop it without a further write."""


class AccessRevoked(PamError):
    """The person who asked may not work in the organisation any more."""


class SettingMissing(PamError):
    """The process cannot start without this setting; the message names it and says where it comes from."""
