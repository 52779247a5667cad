"""How a tool says that a call did not work: try again, or never. What it cost all the same comes with it."""

from decimal import Decimal


class ToolRetry(Exception):
    """The call did not work as given; the model is told why and may try again."""

    def __init__(self, message: str, *, cost_usd: Decimal = Decimal(0)) -> None:
        super().__init__(message)
        self.cost_usd = cost_usd


class ToolRefused(Exception):
    """The call will not be carried out however it is worded; the model is told why."""

    def __init__(self, message: str, *, cost_usd: Decimal = Decimal(0)) -> None:
        super().__init__(message)
        self.cost_usd = cost_usd
