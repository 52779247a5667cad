"""A Lambda execution environment, as far as a handler can tell: its own thread, and real event shapes."""

import base64
import copy
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

SHAPES = {
    name: json.loads((Path(__file__).parent / "requests" / f"{name}.json").read_text())
    for name in ("http_api", "function_url")
}
CONTEXT = SimpleNamespace(aws_request_id="c6af9ac6-7b61-11e6-9a41-93e8deadbeef", function_name="pam")


def request(
    shape: str,
    method: str,
    path: str,
    *,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> dict[str, Any]:
    """The event that API Gateway (HTTP API, payload 2.0) or a function URL makes of a request."""
    event: dict[str, Any] = copy.deepcopy(SHAPES[shape])
    event |= {"rawPath": path, "rawQueryString": query}
    event["requestContext"]["http"] |= {"method": method, "path": path}
    event["headers"] |= {name.lower(): value for name, value in (headers or {}).items()}
    if body is not None:
        event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        event["headers"] |= {"content-length": str(len(body)), "content-type": "application/json"}
    return event


class LambdaFunction:
    """One warm environment: the module's handler is looked up once, then invoked one request at a time."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._thread = ThreadPoolExecutor(1)
        self._handler: Callable[[Any, Any], Any] = self._thread.submit(getattr, module, "handler").result()

    def __call__(self, event: dict[str, Any]) -> Any:
        """Invoke; what is answered must be JSON."""
        answer = self._thread.submit(self._handler, event, CONTEXT).result(30)
        return json.loads(json.dumps(answer))

    def close(self) -> None:
        """End the environment; the next one starts cold."""
        del self._module.handler
        self._thread.shutdown()
