"""How a tool says that a call did not work: try again, or never. What it cost all the same comes with it.

`origin` names whose words the message repeats when they are not PAM's own, as a result's origin does: the model gets
them marked as data, and the run counts as having read what nobody vouches for.
"""

from decimal import Decimal


class ToolRetry(Exception):
    """The call did not work as given; the model is told why and may try again."""

    def __init__(self, message: str, *, cost_usd: Decimal = Decimal(0), origin: str | None = None) -> None:
        super().__init__(message)
        self.cost_usd = cost_usd
        self.origin = origin


class ToolRefused(Exception):
    """The call will not be carried out however it is worded; the model is told why."""

    def __init__(self, message: str, *, cost_usd: Decimal = Decimal(0), origin: str | None = None) -> None:
        super().__init__(message)
        self.cost_usd = cost_usd
        self.origin = origin
