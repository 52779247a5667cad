"""How a tool says that a call did not work: try again, or never."""


class ToolRetry(Exception):
    """The call did not work as given; the model is told why and may try again."""


class ToolRefused(Exception):
    """The call will not be carried out however it is worded; the model is told why."""
