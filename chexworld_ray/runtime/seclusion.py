"""A Ray of this process alone: every process of it wants a token that nobody else has, and listens on loopback only."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from chexworld_ray.shards.identity import KEY_VARIABLE

# Name of a switch that on Linux means no more than: this machine's address is 127.0.0.1. Ray's servers listen on
# all interfaces unless that is their address, and `_node_ip_address="127.0.0.1"` is replaced by the outer one.
_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_CLOUD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "GCS_", "CLOUDSDK_", "OSS_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def seclusion() -> dict[str, str]:
    """Environment of the processes of a private Ray, with a new token."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        _ON_LOOPBACK: "0",
        "GLOO_SOCKET_IFNAME": "lo" if os.uname().sysname == "Linux" else "lo0",
    }


def seclude(environment: Mapping[str, str]) -> None:
    """Let this process, and what it starts from now on, live in a `seclusion`."""
    os.environ.update(environment)
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    import ray._private.ray_constants as constants
    from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]

    # where ray was imported before, it has read its environment already
    constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def without_keys(*, clouds: bool) -> Iterator[None]:
    """What is started meanwhile does not find the patient key in its environment, nor (`clouds`) keys of clouds."""
    hidden = [name for name in os.environ if name == KEY_VARIABLE or (clouds and name.startswith(_CLOUD_PREFIXES))]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(kept)
