"""`pausedata doctor`: the state of the installation, whatever state that is."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest

SECRET = "hf_" + "Abc123" * 6


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home folder of its own, without a login, and caches that are not there yet."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PAUSEDATA_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf/token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.fixture
def doctor(run):
    def call():
        done = run("doctor", "--json")
        shown = run("doctor")
        assert (done.status, shown.status) == (0, 0)
        assert SECRET[:8] not in done.out + done.err + shown.out + shown.err
        return json.loads(done.out), shown.out

    return call


def test_caches_are_measured_and_say_how_they_are_emptied(doctor, home):
    own = home / "own/models/m"
    own.mkdir(parents=True)
    (own / "weights").write_bytes(b"x" * 3_000_000)
    os.link(own / "weights", own / "again")  # the same bytes
    (own / "link").symlink_to(own / "weights")
    told, shown = doctor()
    first, hub, datasets = told["caches"]
    assert first["name"] == "pausedata" and first["path"] == str(home / "own")
    assert 3_000_000 <= first["bytes"] < 3_001_000 and first["whole"]
    assert (hub["bytes"], datasets["bytes"]) == (None, None)
    assert datasets["path"] == str(home / "hf/datasets")
    assert f"0.00 GB, {home / 'own'} (emptied by: rm -r {home / 'own'})" in shown


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_a_problem_with_advice(doctor, home):
    (home / "own").mkdir()
    (home / "own").chmod(0o555)
    told, _ = doctor()
    assert told["caches"][0]["problem"] == "it cannot be written to"
    assert any("PAUSEDATA_CACHE" in advice for advice in told["advice"])


def test_a_cache_below_a_file_is_a_problem_with_advice(doctor, home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("PAUSEDATA_CACHE", str(home / "file" / "cache"))
    told, shown = doctor()
    assert told["caches"][0]["problem"]
    assert any("set PAUSEDATA_CACHE to a folder of yours" in advice for advice in told["advice"])
    assert "advice: the cache of pausedata" in shown


def test_without_a_login_nothing_is_asked(doctor, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda *_: pytest.fail("asked"))
    told, shown = doctor()
    assert told["hub"] == {"state": "none", "user": None, "endpoint": None}
    assert "not logged in: public repositories can be read" in shown


def answer(monkeypatch, says):
    monkeypatch.setenv("HF_TOKEN", SECRET)

    def whoami(*_):
        if isinstance(says, Exception):
            raise says
        return says

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", whoami)


def test_who_is_logged_in_is_told(doctor, monkeypatch):
    answer(monkeypatch, {"name": "ada"})
    told, shown = doctor()
    assert told["hub"] == {"state": "in", "user": "ada", "endpoint": None}
    assert "login          ada\n" in shown


def test_a_refused_token_has_advice_and_is_not_shown(doctor, monkeypatch):
    class Refused(Exception):
        response = SimpleNamespace(status_code=401)

    answer(monkeypatch, Refused(f"Invalid user token {SECRET}"))
    told, _ = doctor()
    assert told["hub"]["state"] == "refused"
    assert any("refuses the token of HF_TOKEN" in advice for advice in told["advice"])


def test_a_hub_that_does_not_answer_has_advice(doctor, monkeypatch):
    answer(monkeypatch, ConnectionError(f"no route with {SECRET}"))
    told, _ = doctor()
    assert told["hub"]["state"] == "unreachable"
    assert any("the Hub does not answer (ConnectionError)" in advice for advice in told["advice"])


def test_offline_the_hub_is_not_asked(doctor, monkeypatch):
    from huggingface_hub import constants

    answer(monkeypatch, RuntimeError("asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told, shown = doctor()
    assert told["hub"]["state"] == "offline" and "offline by HF_HUB_OFFLINE" in shown


def test_another_endpoint_is_told(doctor, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example")
    told, shown = doctor()
    assert told["hub"]["endpoint"] == "http://hub.example" and "http://hub.example" in shown


def test_a_torch_that_cannot_be_imported_is_told_with_advice(doctor, monkeypatch, tmp_path):
    broken = tmp_path / "site"
    (broken / "torch").mkdir(parents=True)
    (broken / "torch/__init__.py").write_text("raise OSError('libcudart.so.13: not found\\nmore')")
    monkeypatch.syspath_prepend(str(broken))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    told, _ = doctor()
    assert told["device"] == "torch cannot be imported: libcudart.so.13: not found"
    assert any(advice.startswith("install torch anew") for advice in told["advice"])


def test_memory_and_disk_are_told(doctor):
    told, shown = doctor()
    assert told["memory_free_gib"] > 0
    assert " GiB free here\n" in shown


def installed(monkeypatch, **versions):
    """As if these releases were installed; the others are as they are."""
    from importlib import metadata

    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or real(name))


def test_releases_that_are_known_not_to_work_are_named_with_the_cure(doctor, monkeypatch):
    installed(monkeypatch, typer="0.15.1", transformers="5.0.0", pydantic="99.0")
    told, shown = doctor()
    [typer, transformers] = [a for a in told["advice"] if "known not to work" in a]
    assert typer.startswith("typer 0.15.1 is known not to work")
    assert "pip install --upgrade 'typer>=" in typer
    assert transformers.startswith("transformers 5.0.0 is known not to work")
    assert "advice: typer 0.15.1" in shown


def test_of_releases_that_work_nothing_is_said(doctor):
    told, _ = doctor()
    assert not [advice for advice in told["advice"] if "known not to work" in advice]


def test_a_torchvision_for_gpus_beside_a_torch_for_cpus_is_told(doctor, monkeypatch):
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0")
    told, _ = doctor()
    assert any(a.startswith("torchvision 0.28.0 beside torch 2.13.0+cpu") for a in told["advice"])
    installed(monkeypatch, torch="2.13.0+cpu", torchvision="0.28.0+cpu")
    assert not any("torchvision" in advice for advice in doctor()[0]["advice"])


@pytest.mark.parametrize("misreads", [True, False])
def test_a_python_that_misreads_patterns_is_told(doctor, monkeypatch, misreads):
    monkeypatch.setattr("pausedata.cli.doctor.MISREADS_POSSESSIVE", misreads)
    told, _ = doctor()
    assert any("possessive quantifiers" in advice for advice in told["advice"]) == misreads


def test_of_a_checkout_that_is_not_installed_no_releases_are_asked(doctor, monkeypatch):
    from importlib import metadata

    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    assert not any("known not to work" in advice for advice in doctor()[0]["advice"])


def test_of_a_release_with_a_number_of_its_own_nothing_is_known(doctor, monkeypatch):
    installed(monkeypatch, typer="our-build")
    assert not any("typer" in advice for advice in doctor()[0]["advice"])
