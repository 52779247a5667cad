"""How a request ends that got no answer: refused by a rule of ours, or failed on its way."""

from workers.kernel.errors import PamError, Refused


class OutboundRefused(Refused):
    """A rule forbids it, however often it is tried. `code` names the rule: url, host, address, method, header …"""


class OutboundFailed(PamError):
    """The other side did not answer.

    `was_sent`: the request may have arrived. `may_repeat`: sending it again may help.
    """

    def __init__(self, message: str, *, was_sent: bool, may_repeat: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.may_repeat = may_repeat


class CredentialAway(OutboundFailed):
    """The connection's secret could not be had now, so nothing was sent; asking at once again does not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, was_sent=False, may_repeat=False)
