"""Embeddings without a model: words and their trigrams hashed into a vector of length one.

Texts that share words come out near each other, the same text always at the same place. The feature hashing
is that of Weinberger et al. 2009 (the hash gives the place and the sign).
"""

import base64
import hashlib
import math
import re
import struct
from collections import Counter

DIMENSIONS = 384
_TRIGRAM_WEIGHT = 0.3


def embedding(text: str, *, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector for a text."""
    weights: Counter[str] = Counter()
    for word in re.findall(r"\w+", text.lower()) or [text]:
        weights[word] += 1
        padded = f"^{word}$"
        for start in range(len(padded) - 2):
            weights["#" + padded[start : start + 3]] += 1
    vector = [0.0] * dimensions
    for feature, count in weights.items():
        digest = hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        weight = math.sqrt(count) * (_TRIGRAM_WEIGHT if feature.startswith("#") else 1.0)
        vector[(number >> 1) % dimensions] += weight if number & 1 else -weight
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:
        # All features cancelled out: any fixed unit vector is as good.
        return [1.0] + [0.0] * (dimensions - 1)
    return [value / norm for value in vector]


def as_base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats in base64: OpenAI's `encoding_format: base64`."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
