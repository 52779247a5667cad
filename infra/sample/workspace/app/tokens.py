"""Who is asking: the access token of Supabase Auth, verified."""

from uuid import UUID

import jwt


class TokenRefused(Exception):
    """The access token is missing, forged or expired."""


def read_user_id(authorization: str, *, secret: str) -> UUID:
    """Return the person's id from an `Authorization: Bearer …` header.

    Raises TokenRefused.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused("Send the access token as a bearer token.")
    try:
        claims = jwt.decode(token, secret, algorithms=["HS256"], audience="authenticated")
        return UUID(claims["sub"])
    except (jwt.InvalidTokenError, KeyError, ValueError) as refusal:
        raise TokenRefused("Sign in again: the access token is not valid.") from refusal
