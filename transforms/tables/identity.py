"""Who a row is and which random draw it gets: from its content alone, never from time, worker or position."""

import xxhash


def content_id(*parts: str) -> str:
    """Return 32 hexadecimal digits for a tuple of texts (xxh3-128 over length-prefixed UTF-8)."""
    digest = xxhash.xxh3_128()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sampling_seed(row_id: str, step: str, draw: int, seed: int) -> int:
    """Return the 31-bit seed of a row's draw number `draw` of `step`.

    `seed` is the recipe's integer.
    """
    return int(content_id(row_id, step, str(draw), str(seed))[:8], 16) & 0x7FFFFFFF
