"""Whether this machine is logged in on the Hub. The token itself is never shown."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from typing import Any

from pausedata.core.errors import first_line
from pausedata.core.network import HubProblem, problem_of

_TIMEOUT_S = 5.0
_DEFAULT = "https://huggingface.co"


def login() -> dict[str, Any]:
    """``state`` (none, unreadable, offline, unreachable, refused, in), ``user`` where the Hub says
    who it is, ``endpoint`` where it is not the Hub's own, and ``advice`` on what is wrong.
    """
    try:
        from huggingface_hub import constants, get_token

        endpoint = None if constants.ENDPOINT == _DEFAULT else constants.ENDPOINT
        state = {"state": "none", "user": None, "endpoint": endpoint, "advice": None}
        if not get_token():
            return state
    except Exception as error:  # an unreadable file, a broken installation
        advice = f"the Hub's token cannot be read ({first_line(error)}): `hf auth login` writes it"
        return {"state": "unreadable", "user": None, "endpoint": None, "advice": advice}
    if constants.HF_HUB_OFFLINE:
        return state | {"state": "offline"}
    return state | _ask_the_hub()


def _ask_the_hub() -> dict[str, Any]:
    """What the Hub says of the token, if it answers within seconds."""
    from huggingface_hub import HfApi

    thread = ThreadPoolExecutor(1)
    try:
        account = thread.submit(HfApi().whoami).result(_TIMEOUT_S)
        return {"state": "in", "user": account.get("name")}
    except TookTooLong:
        return _unreachable("it took too long")
    except Exception as error:
        refused = problem_of(error) is HubProblem.TOKEN_REFUSED
        if refused or "401" in str(error) or "Invalid user token" in str(error):
            variable = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the stored login"
            advice = f"the Hub refuses the token of {variable}: `hf auth login`, or unset it"
            return {"state": "refused", "advice": advice}
        return _unreachable(type(error).__name__)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def _unreachable(why: str) -> dict[str, Any]:
    advice = f"the Hub does not answer ({why}): check the network and HF_ENDPOINT"
    return {"state": "unreachable", "advice": advice}
