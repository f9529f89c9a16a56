"""Random numbers from stable keys, so they depend on the id and the seed but on no partitioning.

The generator is SplitMix64 (Steele, Lea, Flood 2014) used as a counter: draw j of a key is the mix
of key + j·γ.
"""

import zlib

import numpy as np

from mfspark.kernels.arrays import Float32s, Float64s, Int64s, UInt64s

# What one draw adds to the state of the generator.
GAMMA = np.uint64(0x9E3779B97F4A7C15)


def random_rows(keys: UInt64s, rank: int) -> Float32s:
    """Rows [factors, bias] to start from: factors uniform with variance 1/rank, bias zero.

    ``keys`` uint64 [n], one per row. Returns float32 [n, rank + 1]. A smaller start ends at the
    same place, but on MovieLens the first iterations then learn little more than biases.
    """
    rows = np.zeros((len(keys), rank + 1), np.float32)
    rows[:, :rank] = (uniform(keys, rank) - 0.5) * np.sqrt(12 / max(rank, 1))
    return rows


def hashed_uniform(seed: int, what: str, ids: Int64s, n: int) -> Float64s:
    """Numbers in [0, 1), float64 [len(ids), n], for integer ids; ``what`` keeps uses apart."""
    salt = mix(np.array([(seed * 2**32 + zlib.crc32(what.encode())) % 2**64], np.uint64))
    return uniform(mix(ids.astype(np.uint64) * GAMMA ^ salt), n)


def normal_rows(keys: UInt64s, sweep: int, n: int) -> Float32s:
    """Standard normal numbers, float32 [len(keys), n], that depend on key and sweep.

    The halves of 64 random bits give a pair of uniform numbers u, v, and these the pair of normal
    numbers √(−2 ln u) · (cos 2πv, sin 2πv) (Box & Muller 1958), all in single precision; u is at
    least 2⁻²⁵, so none is beyond 5.9.
    """
    assert keys.dtype == np.uint64
    half = -(-n // 2)
    own = mix(keys ^ mix(np.array([sweep], np.uint64) * GAMMA))
    bits = _random_bits(own, half).view(np.uint32).reshape(len(keys), half, 2) >> np.uint32(8)
    numbers = bits.astype(np.float32) * np.float32(2.0**-24)
    radius = np.sqrt(np.float32(-2) * np.log(numbers[..., 0] + np.float32(2.0**-25)))
    angle = np.float32(2 * np.pi) * numbers[..., 1]
    rows = np.empty((len(keys), 2 * half), np.float32)
    rows[:, :half], rows[:, half:] = radius * np.cos(angle), radius * np.sin(angle)
    return rows[:, :n]


def uniform(keys: UInt64s, n: int) -> Float64s:
    """Numbers in [0, 1), float64 [len(keys), n]; the keys should look random themselves."""
    return (_random_bits(keys, n) >> np.uint64(11)).astype(np.float64) / 2.0**53


def _random_bits(keys: UInt64s, n: int) -> UInt64s:
    draws = np.arange(1, n + 1, dtype=np.uint64) * GAMMA
    return mix(keys[:, None] + draws[None, :])


def mix(z: UInt64s) -> UInt64s:
    """The draws of states, all 64 bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
