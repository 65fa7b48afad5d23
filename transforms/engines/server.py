"""Any OpenAI-compatible server, asked through the `openai` client on an event loop of its own.

The client repeats a request after a timeout, a lost connection, 408, 409, 429 or 5xx, waiting as long as
`Retry-After` says (up to two minutes) or ever longer (to 8 seconds). What still fails then is a failed row. An answer
that says that no request can succeed (401, 403, 404, or one that sends it to another address) ends the stage, and so
does a server that has gone.

Nothing but the prompt and what `keys` binds to this server leaves: the client would add what the environment has for
OpenAI's own (keys, organization, project, headers), and follow where an answer sends it.
"""

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from schemas.errors import StageError, UsageError
from schemas.urls import redact_urls
from transforms.engines.engine import Completion, EngineConfig, Request
from transforms.engines.keys import OPENAI, address_of, how_to_bind, key_for, stays_here
from transforms.engines.reasoning import split_reasoning

MAX_RETRIES = 10  # about a minute in all
DEADLINE_SECONDS = 1800.0  # of a request with all its retries
GONE_REQUESTS = 20  # so many failing in a row, beyond those at work at once, and the server has gone
PROBE_SECONDS = 10.0
ERROR_CHARACTERS = 300
SMALL_ANSWER = 256  # tokens: where not even these fit beside the prompt, the prompt is too long
# What a request may carry beside the key; OpenAI's client and the environment (OPENAI_CUSTOM_HEADERS) have more.
HEADERS = frozenset(("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"))
OPENAI_HEADERS = frozenset(("openai-organization", "openai-project"))
CONTEXT_MARKS = ("context length", "context_length", "maximum model length", "max_model_len", "too long")


class ServerEngine:
    def __init__(self, config: EngineConfig):
        try:
            import openai
        except ImportError as error:
            raise UsageError("engine.engine = 'server': the package openai is not installed") from error
        self._config = config
        self._openai = openai
        self.concurrency = config.concurrency
        self._key = key_for(str(config.base_url))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server-engine", daemon=True)
        self._thread.start()
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key="none",  # `_strip` puts the key in
            max_retries=MAX_RETRIES,
            timeout=config.timeout_seconds,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,
                trust_env=not stays_here(str(config.base_url)),  # or a proxy would be sent the key in plain text
                event_hooks={"request": [self._strip]},
            ),
        )
        self._failed_in_a_row = 0
        self._slots = asyncio.Semaphore(config.concurrency)
        try:
            asyncio.run_coroutine_threadsafe(self._probe(), self._loop).result()
        except BaseException:
            self.close()
            raise

    def submit(self, request: Request) -> Future[Completion]:
        return asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        pending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._client.close()

    async def _strip(self, request: Any) -> None:
        """Leave in an outgoing request this server's key and the headers that every request has."""
        is_openai = address_of(str(self._config.base_url)) == OPENAI
        for name in set(request.headers) - HEADERS - (OPENAI_HEADERS if is_openai else set()):
            del request.headers[name]
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"

    def _short(self, error: Exception) -> str:
        """Return status, message and cause of an error in one line.

        The key, which some servers repeat, is left out.
        """
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, dict) else None
        status, cause = getattr(error, "status_code", ""), error.__cause__
        text = f"{status} {message or error} {f'({type(cause).__name__}: {cause})' if cause else ''}"
        return " ".join(self._without_key(text).split())[:ERROR_CHARACTERS]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _keyless(self, completion: Completion) -> Completion:
        """Return a completion in which nothing repeats the key."""
        texts: dict[str, Any] = {name: getattr(completion, name) for name in ("text", "reasoning", "error")}
        texts = {name: text and self._without_key(text) for name, text in texts.items()}
        return replace(completion, **texts)

    def _refusal(self, error: Any) -> str:
        """Return why no request to this server can succeed, and what to do about it."""
        if 300 <= error.status_code < 400:
            target = redact_urls(self._without_key(error.response.headers.get("Location", "elsewhere")))
            return f"the server sends requests on to {target}, and none is sent there; name that address as base_url"
        short = self._short(error)
        if error.status_code not in (401, 403):
            return short
        if self._key:
            return f"the server refuses the key that is bound to it: {short}"
        return f"no key is bound to this server ({how_to_bind(str(self._config.base_url))}); it says: {short}"

    async def _probe(self) -> None:
        """Ask for the list of models once.

        So a wrong address, key or model is noticed before any work starts.
        """
        openai, config = self._openai, self._config
        where = f"engine.base_url = {config.base_url!r}"
        try:
            answer = await self._client.with_options(max_retries=1, timeout=PROBE_SECONDS).models.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UsageError(f"{where}: {self._refusal(error)}") from None
        except openai.APIStatusError as error:
            if 300 <= error.status_code < 400:
                raise UsageError(f"{where}: {self._refusal(error)}") from None
            if error.status_code < 500 and error.status_code not in (404, 405, 408, 409, 429):
                raise UsageError(f"{where}: {self._short(error)}") from None
            return  # it is there, and lists no models, or is busy
        except openai.APIConnectionError as error:
            raise UsageError(f"{where}: no server answers there: {self._short(error)}") from None
        except ValueError:
            return
        names = [str(model.id) for model in getattr(answer, "data", None) or []]
        if names and config.model not in names:
            listed = self._without_key(", ".join(names[:20]))
            raise UsageError(f"engine.model = {config.model!r}: the server has {listed}")

    async def _answer(self, request: Request) -> Completion:
        openai, config = self._openai, self._config
        async with self._slots:
            if self._failed_in_a_row >= config.concurrency + GONE_REQUESTS:
                raise StageError(
                    f"{config.base_url}: the server has gone, or answers no more: "
                    f"{self._failed_in_a_row} requests failed in a row"
                )
            try:
                async with asyncio.timeout(max(DEADLINE_SECONDS, 2 * config.timeout_seconds)):
                    answer, tokens = await self._ask(request)
                self._failed_in_a_row = 0
                completion = self._keyless(_completion(answer, config.style == "chat"))
                if completion.finish_reason == "length" and tokens < request.sampling.max_tokens:
                    return Completion.failed(
                        f"prompt_too_long: cut off at {tokens} tokens, because the server had no room"
                    )
                return completion
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise StageError(f"{config.base_url}: {self._refusal(error)}") from None
            except openai.APIStatusError as error:
                if 300 <= error.status_code < 400:
                    raise StageError(f"{config.base_url}: {self._refusal(error)}") from None
                text = self._short(error)
                if error.status_code >= 500 or error.status_code in (402, 429):  # the latter after all its retries
                    self._failed_in_a_row += 1
                elif _is_about_context(text):
                    return Completion.failed(f"prompt_too_long: {text}")
                return Completion.failed(f"server_error: {text}")
            except (TimeoutError, openai.APITimeoutError):
                self._failed_in_a_row += 1
                return Completion.failed(f"server_error: no answer within {config.timeout_seconds:g} seconds")
            except openai.APIConnectionError as error:
                self._failed_in_a_row += 1
                return Completion.failed(f"server_error: {self._short(error)}")
            except (openai.OpenAIError, ValueError, TypeError, AttributeError, IndexError) as error:
                return Completion.failed(f"bad_answer: {self._short(error)}")

    async def _ask(self, request: Request) -> tuple[Any, int]:
        """Return the server's answer, and the tokens it was allowed.

        They are halved for as long as the server says that it has no room for them beside the prompt.
        """
        arguments = self._arguments(request)
        while True:
            try:
                return await self._send(request.prompt, arguments), arguments["max_tokens"]
            except self._openai.BadRequestError as error:
                if arguments["max_tokens"] <= SMALL_ANSWER or not _is_about_context(self._short(error)):
                    raise
                arguments["max_tokens"] = max(SMALL_ANSWER, arguments["max_tokens"] // 2)

    async def _send(self, prompt: str, arguments: dict[str, Any]) -> Any:
        if self._config.style == "completion":
            return await self._client.completions.create(prompt=prompt, **arguments)
        messages: Any = [{"role": "user", "content": prompt}]
        return await self._client.chat.completions.create(messages=messages, **arguments)

    def _arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments of a request: OpenAI's by name, vLLM's own in the body beside them.

        What is neutral is left out: not every server knows it.
        """
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "model": self._config.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
        }
        extra = dict(sampling.extra)
        if sampling.top_p != 1.0:
            arguments["top_p"] = sampling.top_p
        if sampling.stop:
            arguments["stop"] = list(sampling.stop)
        if request.seed is not None:
            arguments["seed"] = request.seed
        if sampling.repetition_penalty != 1.0:
            extra["repetition_penalty"] = sampling.repetition_penalty
        if self._config.chat_template_kwargs:
            extra["chat_template_kwargs"] = self._config.chat_template_kwargs
        if extra:
            arguments["extra_body"] = extra
        return arguments


def _is_about_context(error: str) -> bool:
    return any(mark in error.lower() for mark in CONTEXT_MARKS)


def _completion(answer: Any, chat: bool) -> Completion:
    """Return the completion in a server's answer.

    Raises AttributeError, IndexError or TypeError where it holds none.
    """
    choice = answer.choices[0]
    reasoning = None
    if chat:
        text = choice.message.content or ""
        reasoning = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
        if reasoning is None:
            text, reasoning = split_reasoning(text)
    else:
        text = choice.text
    usage = answer.usage
    prompt_tokens, completion_tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    if choice.finish_reason not in ("stop", "length"):
        return Completion.failed(f"finish_reason: {choice.finish_reason}", prompt_tokens)
    return Completion(_valid(text), _valid(reasoning), choice.finish_reason, prompt_tokens, completion_tokens)


def _valid(text: str | None) -> str | None:
    """Return a text that a table can hold, which JSON's halves of characters are not."""
    return None if text is None else text.encode("utf-8", "replace").decode()
