"""Structured logs: an event and keys, one JSON object a line on stderr, with the run's ids on every line."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType

import structlog


def configure(process: str, *, level: str = "info") -> None:
    """Send all that this process says to stderr as JSON lines. Call once, in main().

    What libraries log, warn of and die of comes as JSON too, and never with a run's ids: a text with line ends in it
    cannot pretend to be a line of its own, nor of an organisation.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine(process))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _broke
    threading.excepthook = lambda given: _broke(given.exc_type, given.exc_value, given.exc_traceback)


class _JsonLine(logging.Formatter):
    """A record of the standard library's logging as one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "event": super().format(record),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "process": self._process,
        }
        return json.dumps(told)


def _broke(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
        return
    logging.getLogger("pam").critical("died", exc_info=(kind, error or kind(), trace))
