"""Counter-based random integers: the numpy side, and the table of what random numbers are for.

A random number is a pure function of what it is for: (seed, position, purpose, draw). Nothing has to be
saved or restored, and nothing depends on the number of workers. `views/random.py` is the twin in torch;
integers and uniforms of the two are equal to the last bit. The mixer is splitmix64 (Steele, Lea and
Flood, OOPSLA 2014).
"""

from enum import IntEnum, unique

import numpy as np

INCREMENT = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB

UInt64Array = np.ndarray


@unique
class Purpose(IntEnum):
    """What a draw is for: each has a stream of its own. A number is never changed, for runs go on with it."""

    # of training, by position
    CROP = 1
    JITTER = 2
    ACTION = 3
    NOISE = 4
    BLOCKS = 5
    TOKEN_CHOICE = 6
    FLIP = 7
    SIGREG = 8
    # of the plan, by epoch
    PLAN_GROUPS = 9
    PLAN_ROWS = 10
    # of evaluation, by the seed of a draw
    LABEL_SHARE = 11
    SHOTS = 12
    FIT_ORDER = 13
    HEAD_IMAGES = 14
    FIT_CROP = 15
    FIT_JITTER = 16
    # of analyses, by the seed of a run
    LAYOUT = 17
    CORRESPONDENCE = 18
    DECODER = 19


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


def generator(seed: int, purpose: Purpose, *keys: int) -> np.random.Generator:
    """numpy's generator, where many numbers of one kind are drawn in a row; `keys`: which row of draws it is."""
    return np.random.default_rng([seed, int(purpose), *keys])


def permutation(size: int, *keys: int) -> np.ndarray:
    """A permutation of range(size) (int64), a pure function of size and keys."""
    return np.argsort(hash_integers(*keys, np.arange(size)), kind="stable")
