"""Counter-based random integers: the numpy side.

A random number is a pure function of what it is for: (seed, position, purpose, draw). Nothing has to be
saved or restored, and nothing depends on the number of workers. `views/random.py` is the twin in torch;
integers and uniforms of the two are equal to the last bit. The mixer is splitmix64 (Steele, Lea and
Flood, OOPSLA 2014).
"""

import numpy as np

INCREMENT = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB

UInt64Array = np.ndarray


def mix(x: UInt64Array) -> UInt64Array:
    """Finaliser of splitmix64: a bijection of 64-bit integers that looks random."""
    x = x + np.uint64(INCREMENT)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MULTIPLIER_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MULTIPLIER_2)
    return x ^ (x >> np.uint64(31))


def hash_integers(*keys: int | np.ndarray) -> UInt64Array:
    """Hash integers (broadcast against each other) into uint64, in the order given."""
    with np.errstate(over="ignore"):
        state = np.zeros((), np.uint64)
        for key in keys:
            state = mix(state ^ np.asarray(key).astype(np.uint64))
        return np.asarray(state)


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Uniform float32 in [0, 1) with 24 random bits, one for each broadcast element of `keys`."""
    return (hash_integers(*keys) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def permutation(size: int, *keys: int) -> np.ndarray:
    """A permutation of range(size) (int64), a pure function of size and keys."""
    return np.argsort(hash_integers(*keys, np.arange(size)), kind="stable")
