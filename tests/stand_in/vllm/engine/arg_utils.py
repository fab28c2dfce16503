from dataclasses import dataclass


@dataclass
class EngineArgs:
    model: str = ""
    revision: str | None = None
    dtype: str = "auto"
    skip_tokenizer_init: bool = False
    enable_prefix_caching: bool = True
    logprobs_mode: str = "raw_logprobs"
    max_model_len: int = 0
    max_num_batched_tokens: int = 0
    disable_log_stats: bool = False
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.92
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    max_num_seqs: int = 256
