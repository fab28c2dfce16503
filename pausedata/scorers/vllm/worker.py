"""The process that an engine runs in: started by `process.EngineProcess`, ended with its parent.

All that vLLM prints goes to this process's log. It leads a process group of its own, so that a
Ctrl-C on the terminal does not reach vLLM, and so that vLLM's own processes can be ended with it.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import signal
import sys
import threading
from importlib import import_module, metadata
from multiprocessing.connection import Connection
from typing import Any

from pausedata.core.errors import UsageError, reason
from pausedata.scorers.engine_settings import check_settings
from pausedata.scorers.sizes import VLLM_STEP_TOKENS
from pausedata.scorers.vllm.loop import Message, failed, serve


def main() -> None:
    """Load the engine that the parent describes, and serve it until told to stop."""
    atexit.register(_end_group)  # the first registered is the last called: after vLLM's own
    pipe = Connection(int(sys.argv[1]))
    os.set_inheritable(pipe.fileno(), False)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = pipe.recv()
    sent = threading.Lock()

    def send(message: Message) -> None:
        with sent:
            pipe.send(message)

    def receive(wait: bool) -> Message | None:
        return pipe.recv() if wait or pipe.poll() else None

    try:
        engine, facts = _start(job, lambda message: send(("warn", message)))
    except Exception as error:  # whatever the part of vLLM that fails raises
        send(failed(error))
        return
    send(("ready", facts()))
    serve(engine, receive, send, facts)


def _end_with_parent() -> None:
    """End this process and vLLM's, at once, when the parent's end of standard input closes."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _end_group() -> None:
    """End vLLM's processes with this one, also where nobody is left to do so."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.killpg(0, signal.SIGKILL)


def _start(job: dict[str, Any], warn: Any) -> tuple[Any, Any]:
    """The engine, and what tells of it."""
    try:
        vllm: Any = import_module("vllm")
        arguments: Any = import_module("vllm.engine.arg_utils")
        platform: Any = import_module("vllm.platforms").current_platform
    except Exception as error:  # an extension that was built for another torch raises anything
        raise UsageError(
            f"vLLM cannot be imported: {reason(error)}. Install it anew: "
            "pip install --force-reinstall 'pausedata[vllm]'"
        ) from error
    from pausedata.scorers.vllm.engine import Engine

    known = {field.name for field in dataclasses.fields(arguments.EngineArgs)}
    check_settings(job["engine"], known)
    on_cpu = platform.is_cpu()
    settings = {
        "model": job["model"],
        "revision": job["revision"],
        "dtype": job["dtype"],
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "logprobs_mode": "raw_logprobs",
        "max_model_len": job["longest"] + 1,  # the one that it wants to predict
        "max_num_batched_tokens": job["batch_tokens"] or VLLM_STEP_TOKENS[_runner(on_cpu)],
        "disable_log_stats": True,
    }
    if on_cpu:
        # A process fewer, and a quicker start; and no compiler is needed.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        settings["enforce_eager"] = True
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            settings["kv_cache_memory_bytes"] = _kv_cache_bytes(
                job, settings["max_num_batched_tokens"]
            )
    settings |= job["engine"]
    settings = {key: value for key, value in settings.items() if key in known}
    llm = vllm.LLM(**settings)
    engine = Engine(llm, job["dtype"], warn)
    v2 = getattr(llm.llm_engine.vllm_config, "use_v2_model_runner", False)

    def facts() -> dict[str, Any]:
        return {
            "versions": {
                "python": sys.version.split()[0],
                "torch": metadata.version("torch"),
                "vllm": vllm.__version__,
            },
            "rank_ties": engine.way.rank_ties,
            "settings": {
                "device": "cpu" if on_cpu else platform.get_device_name(),
                "runner": "v2" if v2 else "v1",
                "path": engine.way.name,
                "max_num_batched_tokens": settings["max_num_batched_tokens"],
                **({"engine": job["engine"]} if job["engine"] else {}),
            },
        }

    return engine, facts


def _kv_cache_bytes(job: dict[str, Any], step: int) -> int:
    """Room for the keys and values of two steps, or of the longest example.

    On a CPU vLLM would take nearly all memory for it.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        job["model"], revision=job["revision"], trust_remote_code=False
    ).get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    heads = getattr(config, "num_key_value_heads", None) or heads
    each = 2 * config.num_hidden_layers * heads * size * (4 if job["dtype"] == "float32" else 2)
    return max(1 << 28, 2 * each * max(job["longest"] + 1, step))


def _runner(on_cpu: bool) -> str:
    if on_cpu:
        return "cpu"
    try:
        has_triton = import_module("vllm.triton_utils").HAS_TRITON
    except (ImportError, AttributeError):
        return "v1"
    wanted = os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "1").lower() not in ("0", "false")
    return "v2" if has_triton and wanted else "v1"


if __name__ == "__main__":
    main()
