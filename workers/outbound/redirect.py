"""Where an answer sends its asker: followed by hand, so that every rule is asked again."""

from dataclasses import replace

from workers.kernel.errors import Refused
from workers.outbound.answer import Answer
from workers.outbound.failures import OutboundRefused
from workers.outbound.request import Request
from workers.outbound.target import Target, followed

_REDIRECTS = (301, 302, 303, 307, 308)
_KEPT_ACROSS_HOSTS = ("accept", "accept-language")
_NAMELESS = {
    "host": "It leads to a host that is not on the organisation's list.",
    "address": "It leads to an address that is not public.",
}


def next_step(answer: Answer, request: Request) -> tuple[Request, Target] | None:
    """What to ask next and where; None when the answer stands. Raises OutboundRefused for a step that is not taken.

    A body goes to the host that it was meant for and to no other. Methods change as in RFC 9110, 15.4.
    """
    location = answer.header("location")
    if answer.status not in _REDIRECTS or location is None:
        return None
    becomes_get = answer.status == 303 or (answer.status in (301, 302) and request.method == "POST")
    if not becomes_get and not request.is_safe and answer.status in (301, 302):
        return None
    target = followed(location, start=answer.target)
    if answer.target.scheme == "https" and target.scheme != "https":
        raise OutboundRefused("redirect", "It leads from https to http.")
    is_elsewhere = target.origin != answer.target.origin
    if becomes_get and not request.is_safe:
        request = replace(request, method="GET", body=None, headers=_without_content(request))
    if is_elsewhere and not request.is_safe:
        raise OutboundRefused(
            "redirect", "It would take the body to another host: call that host itself if it is meant."
        )
    if is_elsewhere:
        kept = {name: value for name, value in request.headers.items() if name.lower() in _KEPT_ACROSS_HOSTS}
        request = replace(request, headers=kept)
    return request, target


def without_names(error: Exception) -> str:
    """Why a step was not taken, without a name in it: the other side chose it, and this sentence is PAM's own word.

    Readers find the name in the audit log, and in the answer where that is shown.
    """
    if isinstance(error, Refused):
        return _NAMELESS.get(error.code, str(error))
    return "Its target did not answer."


def _without_content(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if not name.lower().startswith("content")}
