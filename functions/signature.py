"""Standard Webhooks signatures (https://www.standardwebhooks.com): HMAC-SHA256 over "id.timestamp.body"."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from functions.problems import SignatureRefused

TOLERANCE_SECONDS = 300


class SignatureCheck:
    """Checks a body's sender. The secret's own UTF-8 bytes are the key, as in pam_private.ring()."""

    def __init__(self, *, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._key = secret.encode()
        self._clock = clock

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises SignatureRefused: a header is missing, the time is 5 minutes off, or no signature fits."""
        message_id = headers.get("webhook-id", "")
        sent_at = headers.get("webhook-timestamp", "")
        signatures = headers.get("webhook-signature", "")
        if not (message_id and sent_at and signatures):
            raise SignatureRefused("Send webhook-id, webhook-timestamp and webhook-signature.")
        if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= 12):
            raise SignatureRefused("webhook-timestamp is seconds since 1970.")
        if abs(self._clock() - int(sent_at)) > TOLERANCE_SECONDS:
            raise SignatureRefused("webhook-timestamp is more than 5 minutes off: check the clock, or sign again.")
        signed = b".".join((message_id.encode("latin-1", "replace"), sent_at.encode(), body))
        expected = b"v1," + base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest())
        given = [one.encode("latin-1", "replace") for one in signatures.split(" ")[:16]]
        if not any(hmac.compare_digest(expected, one) for one in given):
            raise SignatureRefused("No signature fits this body: check PAM_WEBHOOK_SECRET on both sides.")
