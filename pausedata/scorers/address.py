"""The address of a server that somebody runs: what may be given as one."""

from __future__ import annotations

from urllib.parse import urlsplit

from pausedata.core.errors import UsageError


def check_address(backend: str, url: str | None, where: str) -> None:
    """UsageError unless ``url`` is given where ``backend`` needs one, and only there.

    ``where`` is what the error calls the setting.
    """
    if backend != "server":
        if url is not None:
            raise UsageError(
                f"{where}: backend '{backend}' loads the model itself, 'server' alone has one: "
                "leave it out, or choose backend 'server'."
            )
    elif url is None:
        raise UsageError(
            f"{where}: backend 'server' needs the address of a running `vllm serve`, as "
            "http://HOST:PORT."
        )
    else:
        server_address(url, where)


def server_address(url: str, where: str) -> str:
    """``url`` without the ``/v1`` and the slash that it may end in.

    UsageError where it is no address, or holds more than one. ``where`` is what the error calls
    the setting; what might be a secret is not shown.
    """
    url = url.strip()
    if "@" in url:
        raise UsageError(
            f"{where}: leave user and password out: a key comes from the environment alone, as "
            "VLLM_API_KEY."
        )
    if "?" in url or "#" in url:
        raise UsageError(f"{where}: leave out what follows the path, from '?' or '#' on.")
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, an open bracket
        whole = False
    if not whole:
        raise UsageError(f"{where}: '{url}' is no address of a server, write http://HOST:PORT.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
