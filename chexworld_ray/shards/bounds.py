"""Bounds on what a stranger's file may make this process allocate, beside those that headers are asked for."""

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from chexworld_ray.shards.rejected import Rejected

_STATM = "/proc/self/statm"
_RESERVE = 1 << 30  # bytes for all that is no pixel
_BYTES_A_PIXEL = (
    32  # decoding, cleaning and encoding take up to 18 (a TIFF of 32-bit floats), measured on 25 megapixels
)


class _Bound:
    """The limit of the process, shared by threads that decode at the same time."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, (-1, -1)


_bound = _Bound()


@contextmanager
def memory_bound(max_megapixels: float) -> Iterator[None]:
    """Let the block allocate what pictures of so many megapixels can need; what asks for more fails and is a reject.

    The kernel refuses the allocation (RLIMIT_DATA: private memory, not Ray's shared store nor address space that is
    only reserved), so that one file costs itself, not the worker. Linux only; elsewhere nothing is bounded.

    Raises:
        Rejected: an allocation was refused.
    """
    extra = _RESERVE + int(max_megapixels * 1e6 * _BYTES_A_PIXEL)
    _enter(extra)
    try:
        yield
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        raise Rejected("too large", f"needs more memory than {extra / 1e9:.1f} GB to be decoded") from None
    finally:
        _leave()


def _enter(extra: int) -> None:
    with _bound.lock:
        if _bound.users == 0 and os.path.exists(_STATM):
            import resource

            with open(_STATM, encoding="ascii") as file:
                used = int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
            _bound.before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min([used + extra, *limits]), hard))
        _bound.users += 1


def _leave() -> None:
    with _bound.lock:
        _bound.users -= 1
        if _bound.users == 0 and os.path.exists(_STATM):
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, _bound.before)


def inflate(data: bytes, limit: int, window: int = zlib.MAX_WBITS) -> bytes:
    """All that deflated bytes hold, at most `limit` bytes; `window` tells the framing, as zlib counts it.

    Raises:
        OverflowError: they hold more.
        zlib.error: they are damaged.
        EOFError: they break off.
    """
    parts: list[bytes] = []
    room = limit
    while data:
        stream = zlib.decompressobj(window)
        parts.append(stream.decompress(data, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise OverflowError(f"more than {limit} bytes")
        if not stream.eof:
            raise EOFError("the compressed data breaks off")
        # gzip files may follow one another in one file, padded with zeros
        data = stream.unused_data.lstrip(b"\0") if window > zlib.MAX_WBITS else b""
    return b"".join(parts)
