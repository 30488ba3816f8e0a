"""`headway serve`: load a checkpoint, open a port, serve until Ctrl-C.

On this machine alone unless another address is named; then a key is asked for, or `--open` says that none is wanted. The key
comes from an environment variable: everybody on a machine can read a command line. It does not know what a request looks like.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.errors import ConfigError

Say = Callable[[str], None]
_LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


def serve(
    checkpoint: str,
    host: str,
    port: int,
    name: str,
    key_env: str,
    is_open: bool,
    slots: int,
    most: int,
    say: Say,
    device: str = "auto",
) -> None:
    """Serve until Ctrl-C. ConfigError for an address that needs a key, a port in use, or what is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise ConfigError("headway serve needs starlette and uvicorn: pip install 'headway[serve]'") from None
    key = _key(key_env)
    if not _is_loopback(host) and not key and not is_open:
        raise ConfigError(f"--host {host} lets others in: name the variable with a key by --api-key-env, or say --open")
    listening = _listen(host, port)
    with listening:
        hosts = _LOCAL_NAMES if _is_loopback(host) else frozenset({""})
        service = load_service(checkpoint, name, slots, most, key, hosts, device)
        try:
            config = uvicorn.Config(
                service.app(), ws="none", log_level="warning", timeout_graceful_shutdown=5, limit_concurrency=1024
            )
            address = f"[{host}]" if ":" in host else host
            say(f"{service.name}: http://{address}:{listening.getsockname()[1]}/v1 (Ctrl-C ends it)")
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            service.batcher.close()
    say("ended")


def load_service(checkpoint: str, name: str, slots: int, most: int, key: str, hosts: frozenset[str], device: str = "auto") -> Any:
    """A checkpoint as a service, its engine's thread running: `Service.batcher.close()` ends that."""
    from headway.serve.app import Service
    from headway.serve.batcher import Batcher
    from headway.serve.loading import load_engine

    tokenizer, engine = load_engine(checkpoint, device)
    batcher = Batcher(engine, slots, most)
    return Service(name or Path(checkpoint).name, tokenizer, engine.model.config.max_positions, batcher, hosts, key)


def _key(key_env: str) -> str:
    key = os.environ.get(key_env, "").strip() if key_env else ""
    if key_env and not key:
        raise ConfigError(f"the environment variable {key_env} should hold the API key; it is not set")
    return key


def _listen(host: str, port: int) -> socket.socket:
    """The socket, before anything heavy is loaded: a port in use is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(512)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {getattr(error, 'strerror', None) or error}") from None
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
