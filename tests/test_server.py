"""`backend: server`: scores from a vLLM server that somebody runs, whatever happens to it."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx2
import numpy as np
import pytest
from conftest import Recipe, Run
from vllm_server import Answer, Drop, FakeVllm, card, vllm_error

from pausedata import scorers
from pausedata.core.errors import DataError, PausedataError, UsageError
from pausedata.models.ref import ModelRef
from pausedata.pipeline.recipe import parse_recipe
from pausedata.scorers import Example, Job, Scores, server
from pausedata.scorers.address import server_address
from pausedata.scorers.server import ServerScorer, client
from pausedata.store.dataset import open_version

KEY = "sk-telling-key-kx91"
QUICK = client.Times(
    connect=5, answer=60, look=20, first_wait=0.01, longest_wait=0.05, notice=0, patience=60
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TIMES", QUICK)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake(model_folder: Path) -> Iterator[FakeVllm]:
    fake = FakeVllm(model_folder).start()
    yield fake
    fake.stop()


class Listener:
    """Makes scorers for the server, and hears what a person would."""

    def __init__(self, fake: FakeVllm, model: Path) -> None:
        self._fake, self._model = fake, model
        self.said: list[str] = []
        self.warned: list[str] = []
        self._made: list[ServerScorer] = []

    def load(self, **settings: Any) -> ServerScorer:
        settings = {"url": self._fake.url, "say": self.said.append} | settings
        model = settings.pop("model", ModelRef("folder", "tiny", self._model))
        self._made.append(server.load(Job(model, warn=self.warned.append, **settings)))
        return self._made[-1]

    def close(self) -> None:
        for scorer in self._made:
            scorer.close()


@pytest.fixture
def listener(fake: FakeVllm, model_folder: Path) -> Iterator[Listener]:
    listener = Listener(fake, model_folder)
    yield listener
    listener.close()


def examples(count: int, seed: int = 0) -> list[Example]:
    """Random ids below 400, no two examples alike."""
    random = np.random.default_rng(seed)
    return [
        Example(
            random.integers(0, 400, random.integers(1, 9)).astype(np.int32),
            random.integers(0, 400, random.integers(1, 20)).astype(np.int32),
        )
        for _ in range(count)
    ]


def right(fake: FakeVllm, wanted: list[Example]) -> list[Scores]:
    """What the model says, asked for without any HTTP."""
    found = []
    for example in wanted:
        ids = [*map(int, example.prompt_ids), *map(int, example.response_ids)]
        rows = fake.prompt_logprobs(ids)[len(example.prompt_ids) :]
        values = [value for row in rows for value in row.values()]
        logprob = np.array([value["logprob"] for value in values], np.float32)
        found.append(Scores(logprob, np.array([value["rank"] for value in values], np.int32)))
    return found


def same(found: list[Scores], expected: list[Scores]) -> bool:
    assert len(found) == len(expected)
    return all(
        np.array_equal(a.logprob, b.logprob) and np.array_equal(a.rank, b.rank)  # type: ignore
        for a, b in zip(found, expected, strict=True)
    )


def test_scores_are_those_of_the_transformers_backend(
    listener: Listener, model_folder: Path
) -> None:
    """In order, of the response alone; an empty response needs no request."""
    wanted = examples(30)
    wanted.insert(7, Example([5], np.empty(0, np.int32)))
    done: list[int] = []
    found = listener.load().score(wanted, done.append)
    reference = scorers.load_scorer("transformers", ModelRef("folder", "tiny", model_folder))
    for ours, theirs in zip(found, reference.score(wanted), strict=True):
        assert ours.logprob.dtype == np.float32
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-4)
        assert ours.rank is not None
        assert ours.rank.dtype == np.int32
        np.testing.assert_array_equal(ours.rank, theirs.rank)
        assert ours.entropy is None
    assert sorted(done) == sorted(len(e) for e in wanted if len(e.response_ids))


def test_a_request_is_of_ids_and_asks_for_their_log_probabilities_alone(
    fake: FakeVllm, listener: Listener
) -> None:
    listener.load().score([Example([3, 4], np.array([5, 6], np.int32))])
    assert fake.bodies[-1] == {
        "model": "tiny",
        "prompt": [3, 4, 5, 6],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }


def test_what_is_recorded_of_a_server_names_no_place(fake: FakeVllm, listener: Listener) -> None:
    fake.cards = [card("/srv/models/tiny", "/srv/models/tiny", 512)]
    scorer = listener.load()
    assert scorer.settings() == {"path": "server", "served_model": "tiny", "max_model_len": 512}
    assert scorer.versions() == {"vllm": "0.32.0"}
    assert (scorer.rank_ties, scorer.workers, scorer.context_length) == ("included", 2, 511)
    fake.version = None
    assert listener.load().versions() == {}


@pytest.mark.parametrize(
    "given", ["http://h:80", "http://h:80/", "http://h:80/v1", " http://h:80/v1/ "]
)
def test_an_address_may_end_in_v1_or_a_slash(given: str) -> None:
    assert server_address(given, "--url") == "http://h:80"
    assert server_address(given.replace("h:80", "h/a"), "--url") == "http://h/a"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("localhost:8000", "write http://HOST:PORT"),
        ("ftp://h", "write http://HOST:PORT"),
        ("http://", "write http://HOST:PORT"),
        ("http://h:x", "write http://HOST:PORT"),
        ("http://[::1", "write http://HOST:PORT"),
        (f"http://me:{KEY}@h:80", "VLLM_API_KEY"),
        (f"http://h/v1?key={KEY}", "leave out"),
    ],
)
def test_what_is_no_address_is_refused_and_no_secret_shown(given: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"scoring.url: .*{told}") as refused:
        server_address(given, "scoring.url")
    assert KEY not in str(refused.value)


def test_both_lanes_together_keep_to_the_bound_and_use_it(
    fake: FakeVllm, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is answered before as many as may be are in flight."""
    monkeypatch.setattr(client, "MOST_IN_FLIGHT", 8)

    def when_full(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        with fake.changed:
            assert fake.changed.wait_for(lambda: fake.most_in_flight >= 8, timeout=60)
        return honest()

    fake.answer = when_full
    scorer = listener.load()
    lots = [examples(20, seed=1), examples(20, seed=2)]
    found: dict[int, list[Scores]] = {}

    def score(lane: int) -> None:
        found[lane] = scorer.score(lots[lane])

    workers = [threading.Thread(target=score, args=(lane,)) for lane in (0, 1)]
    for lane in workers:
        lane.start()
    for lane in workers:
        lane.join()
    assert fake.most_in_flight == 8
    for lane in (0, 1):
        assert same(found[lane], right(fake, lots[lane]))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_may_be_another_the_next_time_is_asked_for_again(
    fake: FakeVllm, listener: Listener, status: int
) -> None:
    fake.answer = lambda number, ids, honest: (
        honest() if number % 3 == 0 else vllm_error(status, "not now")
    )
    wanted = examples(5)
    assert same(listener.load().score(wanted), right(fake, wanted))
    assert sorted(map(tuple, set(map(tuple, fake.asked)))) == sorted(
        (*map(int, e.prompt_ids), *map(int, e.response_ids)) for e in wanted
    )


def test_a_dropped_connection_is_made_again(fake: FakeVllm, listener: Listener) -> None:
    def drop(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        if number in (2, 3):
            raise Drop
        return honest()

    fake.answer = drop
    wanted = examples(6)
    assert same(listener.load().score(wanted), right(fake, wanted))


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(
    fake: FakeVllm, listener: Listener
) -> None:
    came: list[float] = []

    def later(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        came.append(monotonic())
        return honest() if number > 1 else Answer(429, {}, {"Retry-After": "1"})

    fake.answer = later
    listener.load().score(examples(1))
    first, second = came
    assert second - first >= 1  # what is waited without being asked is 0.02 at most


def test_when_to_come_back_may_be_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(value: str) -> float:
        return client._asked_wait(httpx2.Response(503, headers={"Retry-After": value}))

    assert wait("7") == 7
    assert wait("Wed, 01 Jan 2020 00:00:00 GMT") == 0
    assert wait("Fri, 01 Jan 2100 00:00:00 GMT") > 1e9
    assert wait("soon") == wait("") == wait("-3") == 0


def restarting(fake: FakeVllm, at: int, listener: Listener, change: Callable[[], None]) -> Any:
    """An ``answer`` that at the ``at``-th request kills the server, which is back ``change``d.

    When somebody was told that it is away, not before.
    """

    def answer(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        if number == at:
            fake.stop()
            change()
            while not listener.warned:
                sleep(0.01)
            fake.start()
            raise Drop
        return honest()

    return answer


def test_a_server_that_restarts_in_mid_run_costs_time_and_nothing_else(
    fake: FakeVllm, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person hears once that it is away and once that it is back; its version is noted anew."""
    monkeypatch.setattr(client, "MOST_IN_FLIGHT", 4)
    monkeypatch.setattr(server, "TIMES", replace(QUICK, notice=0.2))
    fake.answer = restarting(fake, 6, listener, lambda: setattr(fake, "version", "0.33.0"))
    wanted = examples(40)
    scorer = listener.load()
    assert same(scorer.score(wanted), right(fake, wanted))
    (warning,) = listener.warned
    assert "Trying again for up to 1 minutes" in warning
    assert listener.said == ["the server answers again"]
    assert scorer.versions() == {"vllm": "0.33.0"}


@pytest.mark.parametrize(
    "other",
    [
        card("tiny", "another", 1024),
        card("another", "tiny", 1024),
        card("tiny", "tiny", 2048),
        card("tiny", "tiny", 1024, parent="base"),
    ],
)
@pytest.mark.parametrize("noticed", [True, False])
def test_scores_of_another_model_are_not_taken(
    fake: FakeVllm,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, Any],
    noticed: bool,
) -> None:
    """Neither after a restart, nor where the model was changed behind an unbroken connection."""
    monkeypatch.setattr(client, "MOST_IN_FLIGHT", 4)
    fake.cards = [card("tiny", "tiny", 1024)]

    def change() -> None:
        fake.cards = [other]

    def quietly(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        if number == 12:
            change()
        return honest()

    fake.answer = restarting(fake, 6, listener, change) if noticed else quietly
    scorer = listener.load()
    with pytest.raises(DataError, match=r"^the server does not serve 'tiny' as it did|not exist"):
        scorer.score(examples(12))


def changed(position: int, change: Callable[[list[Any]], None]) -> Any:
    """An ``answer`` with the ``position``-th prompt's positions changed."""

    def answer(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        given = honest()
        if number == position:
            change(given.content["choices"][0]["prompt_logprobs"])
        return given

    return answer


def set_value(name: str, value: Any) -> Callable[[list[Any]], None]:
    def change(positions: list[Any]) -> None:
        next(iter(positions[3].values()))[name] = value

    return change


WRONG: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "shifted": (lambda p: p.insert(1, p.pop()), "token id 11 was sent at position 1, and 13 came"),
    "too few": (lambda p: p.pop(), "3 positions came back for 4 tokens"),
    "a hole": (lambda p: p.__setitem__(2, None), "token id 12 was sent at position 2, and None"),
    "minus infinity": (set_value("logprob", -9999.0), "-9999.0 came back for response token 1"),
    "NaN": (set_value("logprob", float("nan")), "nan came back for response token 1"),
    "infinity": (set_value("logprob", float("inf")), "inf came back for response token 1"),
    "nothing": (set_value("logprob", None), "None came back for response token 1"),
    "no rank": (set_value("rank", None), "rank None came back for response token 1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_answer_that_cannot_be_true_is_an_error(
    fake: FakeVllm, listener: Listener, wrong: str
) -> None:
    change, told = WRONG[wrong]
    fake.answer = changed(1, change)
    with pytest.raises(DataError, match=f"example 0 of the batch: .*{told}"):
        listener.load().score([Example([10, 11], np.array([12, 13], np.int32))])
    assert len(fake.asked) == 1


def test_what_is_refused_is_not_asked_for_again(fake: FakeVllm, listener: Listener) -> None:
    """The first line that the server says is passed on."""
    fake.answer = lambda number, ids, honest: vllm_error(400, "Token id 999 is out\nTraceback")
    with pytest.raises(DataError, match=r"example 0 .*400: Token id 999 is out$"):
        listener.load().score(examples(1))
    assert len(fake.asked) == 1


def test_an_example_that_always_fails_is_given_up(fake: FakeVllm, listener: Listener) -> None:
    fake.answer = lambda number, ids, honest: vllm_error(500, "not JSON compliant: nan")
    with pytest.raises(DataError, match=r"example 0 .*500: not JSON compliant: nan\.") as end:
        listener.load().score(examples(1))
    assert "Finished shards are kept" in str(end.value)
    assert len(fake.asked) == client.MOST_FAILURES


@pytest.mark.parametrize("how", ["away", "busy"])
def test_a_server_that_does_not_come_back_is_given_up(
    fake: FakeVllm, listener: Listener, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """After some time, not after some tries: that it is busy says nothing of an example."""
    monkeypatch.setattr(server, "TIMES", replace(QUICK, patience=2))
    monkeypatch.setattr(client, "MOST_FAILURES", 3 if how == "away" else 1)

    def answer(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        if how == "busy":
            return vllm_error(503, "overloaded")
        fake.stop()
        raise Drop

    fake.answer = answer
    scorer = listener.load()
    with pytest.raises(DataError, match="Finished shards are kept, the same command goes on"):
        scorer.score(examples(3))
    assert len(listener.warned) == 1
    assert listener.said == []
    assert how == "away" or len(fake.asked) > 3


def test_nothing_to_ask_ends_at_once(model_folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"{url}: no answer .*vllm serve MODEL"):
            server.load(Job(ModelRef("folder", "tiny", model_folder), url=url))


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [
        ("/v1/models", Answer(200, "<html>"), "no JSON: is it a vLLM server"),
        ("/v1/models", Answer(200, {"models": []}), "no list of models: is it a vLLM server"),
        ("/v1/models", Answer(404, {"detail": "Not Found"}), "or the path is wrong"),
        ("/v1/models", Answer(503, ""), "503: Service Unavailable. Start a server"),
        ("/v1/models", Answer(200, {"data": []}), "has no model"),
        ("/v1/completions", Answer(200, {"choices": [{"text": "x"}]}), "no prompt_logprobs"),
    ],
)
def test_what_is_no_vllm_server_is_known_before_work_starts(
    fake: FakeVllm,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    answer: Answer,
    told: str,
) -> None:
    honest = fake.respond
    monkeypatch.setattr(
        fake, "respond", lambda asked, *more: answer if asked == path else honest(asked, *more)
    )
    with pytest.raises(UsageError, match=told):
        listener.load()


def test_a_key_comes_from_the_environment_and_is_shown_to_the_server_alone(
    fake: FakeVllm, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.key = KEY
    with pytest.raises(UsageError, match="wants a key: set VLLM_API_KEY"):
        listener.load()
    monkeypatch.setenv("VLLM_API_KEY", "another-key")
    with pytest.raises(UsageError, match="does not take the key in VLLM_API_KEY") as refused:
        listener.load()
    assert "another-key" not in str(refused.value)
    monkeypatch.setenv("VLLM_API_KEY", "a\nb")
    with pytest.raises(UsageError, match="VLLM_API_KEY holds characters"):
        listener.load()

    monkeypatch.setenv("VLLM_API_KEY", KEY)
    scorer = listener.load()
    fake.answer = lambda number, ids, honest: vllm_error(400, f"Bearer {KEY} may not do this")
    with pytest.raises(DataError, match="Bearer … may not do this"):
        scorer.score(examples(1))
    assert KEY not in json.dumps(scorer.settings())


def test_of_several_models_the_one_that_is_called_so_is_taken(
    fake: FakeVllm, listener: Listener
) -> None:
    fake.cards = [
        card("base", "/m/tiny", 1024),
        card("poet", "/adapters/verse", None, parent="base"),
    ]
    assert listener.load().settings()["served_model"] == "base"
    lora = ModelRef("adapter", "verse")
    assert listener.load(model=lora).settings()["served_model"] == "poet"
    assert listener.warned == []
    with pytest.raises(UsageError, match=r"none is 'ORG/x': 'base', 'poet'"):
        listener.load(model=ModelRef("hub", "ORG/x"))


def test_one_model_under_another_name_is_taken_with_a_word(
    fake: FakeVllm, listener: Listener
) -> None:
    fake.cards = [card("gpt-4", "/m/other", 1024)]
    listener.load()
    (warning,) = listener.warned
    assert "calls its model 'gpt-4', not 'tiny'" in warning


def test_the_longest_example_and_one_token_must_fit(fake: FakeVllm, listener: Listener) -> None:
    fake.cards = [card("tiny", "tiny", 100)]
    listener.load(longest=99)
    with pytest.raises(UsageError, match=r"has 100 tokens, the server takes 99 .*--max-model-len"):
        listener.load(longest=100)


def test_options_for_an_engine_are_refused(listener: Listener) -> None:
    with pytest.raises(UsageError, match=r"scoring\.engine is for"):
        listener.load(engine={"max_num_seqs": 4})


def test_an_empty_prompt_is_refused(listener: Listener) -> None:
    with pytest.raises(DataError, match="example 0 of the batch has an empty prompt"):
        listener.load().score([Example([], np.array([1], np.int32))])


def test_closing_ends_calls_that_are_under_way(fake: FakeVllm, listener: Listener) -> None:
    """As Ctrl-C does; the server would not have answered."""
    never = threading.Event()

    def silent(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        never.wait(60)
        raise Drop

    fake.answer = silent
    scorer = listener.load()
    errors: list[PausedataError] = []

    def score() -> None:
        with pytest.raises(DataError) as end:
            scorer.score(examples(100))
        errors.append(end.value)

    workers = [threading.Thread(target=score) for _ in range(2)]
    for lane in workers:
        lane.start()
    with fake.changed:
        assert fake.changed.wait_for(lambda: fake.in_flight >= client.MOST_IN_FLIGHT, timeout=60)
    scorer.close()
    for lane in workers:
        lane.join(timeout=30)
    assert [str(error) for error in errors] == ["the scorer was closed."] * 2
    with pytest.raises(DataError, match="closed"):
        scorer.score(examples(1))
    scorer.close()
    never.set()
    assert not [t for t in threading.enumerate() if t.name == "server" and t.is_alive()]


def test_who_does_not_want_more_is_sent_no_more(
    fake: FakeVllm, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_IN_FLIGHT", 2)

    class Enough(BaseException):
        pass

    def enough(tokens: int) -> None:
        raise Enough

    held = threading.Semaphore(1)  # the first request alone is answered

    def answer(number: int, ids: list[int], honest: Callable[[], Answer]) -> Answer:
        held.acquire(timeout=60)
        return honest()

    fake.answer = answer
    scorer = listener.load()
    with pytest.raises(Enough):
        scorer.score(examples(50), enough)
    scorer.close()
    held.release(100)
    assert len(fake.asked) <= 3


@pytest.fixture
def served(recipe: Recipe, fake: FakeVllm) -> Recipe:
    """The recipe, scored by the server."""
    recipe.data["scoring"] = {"backend": "server", "url": fake.url + "/v1"}
    return recipe


def files_with(root: Path, *words: str) -> list[str]:
    """Files below ``root`` that hold one of the words, in whatever is not compressed."""
    return [
        str(path)
        for path in root.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]


def scores_in(root: Path, run: str) -> list[list[float]]:
    table = open_version(root).table(f"scores/{run}")
    return [row for shard in table.shards for row in table.read(shard)["logprob"].to_pylist()]


def test_a_recipe_is_built_by_a_server_and_records_no_address(
    served: Recipe,
    fake: FakeVllm,
    model_folder: Path,
    run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.key = KEY
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    built = run("build", served.write(), "--set", f"scoring.url={fake.url}")
    assert built.status == 0, built.err
    facts = open_version(served.out).table("scores/base").entry.provenance
    assert facts["inputs"]["backend"] == "server"
    assert facts["versions"] == {"vllm": ["0.32.0"]}
    assert facts["rank_ties"] == "included"
    assert facts["settings"] == [{"path": "server", "served_model": "tiny", "max_model_len": 1024}]

    again = run("build", served.write(), "--json")
    assert json.loads(again.out)["committed"] is False  # the address decides nothing
    more = ("score", served.out, "--run", "other", "--model", model_folder)
    for words in (["--url", fake.url], [f"--url={fake.url}", "--replace"]):
        scored = run(*more, "--backend", "server", *words)
        assert scored.status == 0, scored.err
    own = run(*more[:3], "own", *more[4:], "--backend", "transformers")
    assert own.status == 0, own.err
    for ours, theirs in zip(
        scores_in(served.out, "base"), scores_in(served.out, "own"), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert files_with(served.out, "127.0.0.1", KEY) == []
    manifest = json.loads((served.out / "versions" / "0001" / "manifest.json").read_text())
    assert manifest["command"] == "build recipe.yaml"
    assert manifest["recipe"]["scoring"]["backend"] == "server"
    for result in (built, again, own):
        assert KEY not in result.out + result.err


def test_a_build_that_the_server_ends_keeps_shards_and_no_address(
    served: Recipe, fake: FakeVllm, run: Callable[..., Run]
) -> None:
    """Shards have four examples; the second shard's requests are refused, once."""
    served.data["scoring"]["cross_check"] = 0
    fake.answer = lambda number, ids, honest: vllm_error(400, "no") if number >= 9 else honest()
    failed = run("build", served.write())
    assert failed.status == 1
    assert "400: no" in failed.err
    assert files_with(served.out, "127.0.0.1") == []
    fake.answer = lambda number, ids, honest: honest()
    assert run("build", served.write()).status == 0
    # Nine of the twelve at least were sent the first time; what was finished is not sent again.
    assert sum(times == 1 for times in Counter(map(tuple, fake.asked)).values()) >= 4


def test_score_without_an_address_says_that_none_is_recorded(
    served: Recipe, run: Callable[..., Run], model_folder: Path
) -> None:
    assert run("build", served.write()).status == 0
    score = ("score", served.out, "--run", "base", "--model", model_folder)
    without = run(*score)
    assert without.status == 2
    assert "--url (no dataset records it): backend 'server' needs the address" in without.err
    wrong = run(*score, "--backend", "transformers", "--url", "http://127.0.0.1:1")
    assert wrong.status == 2
    assert "--url: backend 'transformers' loads the model itself" in wrong.err


@pytest.mark.parametrize(
    ("scoring", "told"),
    [
        ({"backend": "server"}, "r.yaml: scoring.url: backend 'server' needs the address"),
        ({"url": "http://h"}, "r.yaml: scoring.url: backend 'auto' loads the model itself"),
        ({"backend": "server", "url": f"http://a:{KEY}@h"}, "r.yaml: scoring.url: leave user"),
    ],
)
def test_a_recipe_gives_an_address_where_one_is_wanted(
    recipe: Recipe, scoring: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        parse_recipe(recipe.data | {"scoring": scoring}, "r.yaml")
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (["score", "d", "--url", "http://h:1/v1", "--run", "x"], "score d --run x"),
        (["score", "d", "--url=http://h:1", "--run", "x"], "score d --run x"),
        (["build", "r", "--set", "scoring.url=http://h:1"], "build r"),
        (["build", "r", "--set=scoring.url=http://h:1", "--update"], "build r --update"),
        (
            ["build", "r", "--set", "scoring={backend: server, url: 'http://h:1', run: a}"],
            "build r --set 'scoring={backend: server, run: a}'",
        ),
        (["build", "r", "--set=scoring={url: http://h}"], "build r '--set=scoring={}'"),
        (
            ["build", "r", "--set", "scoring={run: 'a'}"],
            """build r --set 'scoring={run: '"'"'a'"'"'}'""",
        ),
        (["build", "r", "--set", "scoring.run=a"], "build r --set scoring.run=a"),
    ],
)
def test_commands_are_recorded_without_a_servers_address(
    monkeypatch: pytest.MonkeyPatch, given: list[str], recorded: str
) -> None:
    from pausedata.cli.common import command_line

    monkeypatch.setattr("sys.argv", ["pausedata", *given])
    assert command_line() == recorded
