"""Deposits: a secret sealed to the workers' public key by whoever types it, so that no database ever sees it plain.

    "PAMd" · version 1 (1 byte) · sealing key's id (16) · wrapped content key (384) · nonce (12) · ciphertext and tag

The content key is wrapped by RSA-OAEP (RFC 8017, SHA-256 for hash and mask) under 3072 bits, and encrypts by
AES-256-GCM with everything before the wrapped key as additional data: both are in every browser's WebCrypto. The text
is JSON that also says for what the secret was given, so that a deposit is of no use in another row.
"""

import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.kernel.envelope import KEY_BYTES, NONCE_BYTES, TAG_BYTES, SealBroken

HEAD = b"PAMd\x01"
KEY_BITS = 3072
MAX_TEXT_BYTES = 24_576
_HEAD_BYTES = len(HEAD) + 16
_WRAPPED_BYTES = KEY_BITS // 8
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def new_keys() -> tuple[bytes, bytes]:
    """A new pair: the public half as SPKI, the private one as PKCS #8, both DER. Takes some 0.2 s."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public, private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def seal(text: bytes, *, key_id: UUID, public_key: bytes) -> bytes:
    """Seal a text to a public key. Raises ValueError when the text is too long or the key is no RSA key."""
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError("a secret may hold 24 KiB")
    public = serialization.load_der_public_key(public_key)
    if not isinstance(public, rsa.RSAPublicKey) or public.key_size != KEY_BITS:
        raise ValueError(f"a sealing key is an RSA key of {KEY_BITS} bits")
    head, key, nonce = HEAD + key_id.bytes, os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    return head + public.encrypt(key, _OAEP) + nonce + AESGCM(key).encrypt(nonce, text, head)


def key_of(deposit: bytes) -> UUID:
    """To which key this is sealed. Raises SealBroken."""
    if not deposit.startswith(HEAD) or len(deposit) < _HEAD_BYTES + _WRAPPED_BYTES + NONCE_BYTES + TAG_BYTES:
        raise SealBroken("this is no sealed secret")
    return UUID(bytes=deposit[len(HEAD) : _HEAD_BYTES])


def open_deposit(deposit: bytes, *, private_key: bytes) -> bytes:
    """The text. Raises SealBroken, in the same words whatever is wrong with it."""
    key_of(deposit)
    private = serialization.load_der_private_key(private_key, password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    head, nonce_at = deposit[:_HEAD_BYTES], _HEAD_BYTES + _WRAPPED_BYTES
    body_at = nonce_at + NONCE_BYTES
    try:
        key = private.decrypt(deposit[_HEAD_BYTES:nonce_at], _OAEP)
        return AESGCM(key).decrypt(deposit[nonce_at:body_at], deposit[body_at:], head)
    except (InvalidTag, ValueError):
        raise SealBroken("the secret does not open: it was sealed to another key, or damaged") from None
