"""How a call to a model can fail: each failure is one sentence, says whether to retry, holds no secret."""

from typing import ClassVar

from workers.model.protocol import Usage


class ModelFailure(Exception):
    """The model gave no answer.

    `is_transient`: the same request may succeed later. `retry_after_seconds`: what the server asked for.
    `lost_usage`: what the broken attempts have probably cost, if the model had begun to answer.
    `lacks_allowance`: it would have been tried again, had the broken attempts left enough of what it may use.
    `is_quoting`: the sentence repeats the server's own words.
    """

    is_transient: ClassVar[bool] = False

    def __init__(self, sentence: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds
        self.lost_usage: Usage | None = None
        self.lacks_allowance = False
        self.is_quoting = False


class ModelTimeout(ModelFailure):
    """The model was silent for too long, or the whole call took too long."""

    is_transient = True


class ModelUnreachable(ModelFailure):
    """No connection to the model's server came about."""

    is_transient = True


class ModelRateLimited(ModelFailure):
    """The server asks us to slow down (429)."""

    is_transient = True


class ModelOverloaded(ModelFailure):
    """The server failed or is overloaded (5xx)."""

    is_transient = True


class MalformedAnswer(ModelFailure):
    """What came is no whole answer: a broken stream, a missing id, no choice, no finish."""

    is_transient = True


class ModelRefusedRequest(ModelFailure):
    """The server will not take this request however often it comes; the sentence says what to check."""

    def __init__(self, sentence: str, *, status: int, is_quoting: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.is_quoting = is_quoting


class ContextTooLong(ModelFailure):
    """The conversation is longer than the model can read: shorten it, then ask again."""
