"""Configurations: what is refused, what a reload changes, and what labels may name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.worker.lives import Life, config, entry, living, publish, until
from worker.messages.config import ModelServerConfig, parse_config
from worker.models.catalogue import Stage
from worker.models.config import ModelConfig, models_of
from worker.models.policy import All, Latest, Specific
from worker.status import Code, StatusError


def test_a_configuration_is_read_with_its_policies_and_labels() -> None:
    message = config(
        'name: "a" base_path: "/models/a"',
        'name: "b" base_path: "file:///b" model_version_policy { latest { num_versions: 2 } }',
        'name: "c" base_path: "/c" model_version_policy { all {} } version_labels { key: "new" value: 4 }',
        'name: "d" base_path: "/d" model_version_policy { specific { versions: 2 versions: 4 } }',
    )
    assert models_of(message.model_config_list.config, {}) == {
        "a": ModelConfig("a", "/models/a", Latest(0)),
        "b": ModelConfig("b", "file:///b", Latest(2)),
        "c": ModelConfig("c", "/c", All(), {"new": 4}),
        "d": ModelConfig("d", "/d", Specific(frozenset({2, 4}))),
    }


def test_the_old_way_to_say_tensorflow_is_understood() -> None:
    text = b'model_config_list { config { name: "a" base_path: "/a" model_type: TENSORFLOW } }'
    listed = parse_config(text, ModelServerConfig, "the test").model_config_list.config
    assert models_of(listed, {}) == {"a": ModelConfig("a", "/a", Latest(0))}


TENSORFLOW = 'model_platform: "tensorflow"'


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([f'name: "a" base_path: "/a" {TENSORFLOW}'] * 2, "Illegal to list model a multiple times in config list"),
        (
            [f'name: "a" base_path: "models/a" {TENSORFLOW}'],
            r"Expected model a to have an absolute path or URI; got base_path\(\)=models/a",
        ),
        (
            [f'name: "a" base_path: "gs://bucket/a" {TENSORFLOW}'],
            "gs://bucket/a of model a is not a directory of this machine: there is no file system for gs://$",
        ),
        ([f'name: "a" {TENSORFLOW}'], r"got base_path\(\)=$"),
        ([f'base_path: "/a" {TENSORFLOW}'], "has no name"),
        (['name: "a" base_path: "/a"'], "Illegal setting neither"),
        ([f'name: "a" base_path: "/a" model_type: TENSORFLOW {TENSORFLOW}'], "Illegal setting both"),
        (['name: "a" base_path: "/a" model_platform: "x"'], "Model a requests unsupported platform x"),
        (['name: "a" base_path: "/a" model_type: OTHER'], "Model a requests unsupported platform"),
        (['name: "known" base_path: "/a" model_platform: "x"'], "Illegal to change a model's platform"),
        (
            [f'name: "a" base_path: "/a" {TENSORFLOW} logging_config {{ }}'],
            r"No request-logger-creator provided\.",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_as_a_whole(models: list[str], sentence: str) -> None:
    text = f"model_config_list {{ {' '.join(f'config {{ {model} }}' for model in models)} }}".encode()
    listed = parse_config(text, ModelServerConfig, "the test").model_config_list.config
    with pytest.raises(StatusError, match=sentence) as caught:
        models_of(listed, {"known": ModelConfig("known", "/", Latest())})
    assert caught.value.canonical is Code.INVALID_ARGUMENT


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """The base path of a model with the versions 1, 2 and 3."""
    for version in (1, 2, 3):
        publish(tmp_path / "a", version)
    return tmp_path / "a"


def flags(tmp_path: Path, *models: str) -> dict[str, str]:
    """The flags for a configuration file with these models."""
    file = tmp_path / "models.config"
    file.write_text(str(config(*models)))
    return {"model_config_file": str(file)}


SPECIFIC = "model_version_policy {{ specific {{ versions: {} versions: {} }} }}"
ALL = "model_version_policy { all {} }"


async def test_every_policy_is_followed_and_a_changed_one_too(tmp_path: Path, a: Path) -> None:
    async with living(**flags(tmp_path, entry("a", a, SPECIFIC.format(1, 7)))) as life:
        await life.manager.ready()
        assert life.catalogue.available == {"a": (1,)}
        await life.manager.reload(config(entry("a", a, ALL)))
        await life.serves(a=[1, 2, 3])
        await life.manager.reload(config(entry("a", a, "model_version_policy { latest { num_versions: 2 } }")))
        await life.serves(a=[2, 3])
        await life.manager.reload(config(entry("a", a, SPECIFIC.format(1, 3))))
        await life.serves(a=[1, 3])


async def test_a_reload_adds_waits_for_and_removes_models(tmp_path: Path, a: Path) -> None:
    publish(tmp_path / "b", 5)
    async with living(**flags(tmp_path, entry("a", a))) as life:
        await life.manager.ready()
        await life.manager.reload(config(entry("b", tmp_path / "b")))
        assert "b" in life.catalogue.available
        await life.serves(b=[5])
        await until(lambda: life.stages("a") == {3: Stage.END})
        await life.manager.reload(config())
        await life.serves()


async def test_a_reload_with_a_model_that_cannot_be_loaded_says_so_and_keeps_the_others(
    tmp_path: Path, a: Path
) -> None:
    publish(tmp_path / "b", 1, "broken")
    async with living(**flags(tmp_path, entry("a", a))) as life:
        await life.manager.ready()
        with pytest.raises(StatusError, match=r"version: 1\} due to error: UNKNOWN: the mod") as it:
            await life.manager.reload(config(entry("a", a), entry("b", tmp_path / "b")))
        assert it.value.canonical is Code.UNKNOWN
        assert life.catalogue.available == {"a": (3,)}


async def test_who_waits_for_a_model_without_a_directory_may_stop_and_holds_up_nobody(tmp_path: Path, a: Path) -> None:
    async with living(**flags(tmp_path, entry("a", a))) as life:
        await life.manager.ready()
        waiting = asyncio.ensure_future(life.manager.reload(config(entry("a", a), entry("b", tmp_path / "b"))))
        publish(a, 4)
        await life.serves(a=[4])
        assert not waiting.done()
        await life.manager.reload(config(entry("a", a)))
        with pytest.raises(StatusError, match="b} due to error: CANCELLED"):
            await waiting


async def test_a_reload_that_is_refused_changes_nothing(tmp_path: Path, a: Path) -> None:
    async with living(**flags(tmp_path, entry("a", a))) as life:
        await life.manager.ready()
        custom = parse_config(b"custom_model_config {}", ModelServerConfig, "the test")
        only_lists = "Only ModelConfigList is currently supported"
        for message, sentence in (
            (config(entry("a", a), entry("a", a)), "multiple times"),
            (ModelServerConfig(), only_lists),
            (custom, only_lists),
        ):
            with pytest.raises(StatusError, match=sentence) as caught:
                await life.manager.reload(message)
            assert caught.value.canonical is Code.INVALID_ARGUMENT
        assert life.catalogue.available == {"a": (3,)}


async def test_a_changed_base_path_is_followed_without_a_gap_even_if_the_version_is_the_same(
    tmp_path: Path, a: Path
) -> None:
    publish(tmp_path / "new", 3)
    async with living(**flags(tmp_path, entry("a", a))) as life:
        await life.manager.ready()
        gone: list[tuple[int, ...]] = []
        life.catalogue.on_change(lambda: gone.append(life.catalogue.available.get("a", ())))
        let_go = life.loader.hold(3)
        with life.catalogue.use("a", 3) as old:
            await life.manager.reload(config(entry("a", tmp_path / "new")))
            await until(lambda: life.loader.waiting == 1)
            assert life.stages("a") == {3: Stage.AVAILABLE}
            let_go()
            await until(lambda: life.catalogue.servables != (old,))
            assert life.stages("a") == {3: Stage.AVAILABLE}
            assert not life.loader.closed
        await until(lambda: life.loader.closed == [("a", 3)])
        assert gone == [(3,)]
        assert life.stages("a") == {3: Stage.AVAILABLE}


async def test_a_single_model_can_be_reconfigured_and_a_directory_of_models_cannot(tmp_path: Path, a: Path) -> None:
    (a / "3" / "saved_model.pb").touch()
    async with living(model=str(tmp_path)) as life:
        await life.manager.ready()
        with pytest.raises(StatusError, match="--model_config_file") as caught:
            await life.manager.reload(config(entry("a", a)))
        assert caught.value.canonical is Code.FAILED_PRECONDITION
    async with living(model_name="a", model_base_path=str(a)) as life:
        await life.manager.ready()
        await life.manager.reload(config(entry("a", a, ALL)))
        await life.serves(a=[1, 2, 3])


# The file


def write(settings: dict[str, str], text: str | None) -> None:
    """Put `text` where the configuration is; or take the file away."""
    file = Path(settings["model_config_file"])
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


async def test_the_file_is_read_again_and_one_that_does_not_parse_changes_nothing(
    tmp_path: Path, a: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = flags(tmp_path, entry("a", a))
    async with living(model_config_file_poll_wait_seconds=0.02, **settings) as life:
        await life.manager.ready()
        write(settings, "model_config_list { nonsense }")
        await until(lambda: "the models stay as they are" in caplog.text)
        write(settings, None)
        await until(lambda: "No such file" in caplog.text)
        publish(a, 4)
        await life.serves(a=[4])  # which takes longer than some looks at the file
        assert caplog.text.count("the models stay as they are") == 2  # once for each reason, not for each look
        flags(tmp_path, entry("b", a))
        await life.serves(b=[4])


@pytest.mark.parametrize(
    ("there", "sentence"),
    [((), "cannot be read: No such file"), (("saved_model.pb",), "has no version: no directory in it has a number")],
)
async def test_what_the_start_waits_for_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, there: tuple[str, ...], sentence: str
) -> None:
    base = tmp_path / "m"
    for name in there:
        (base / name).mkdir(parents=True)
    publish(tmp_path / "other", 1)
    async with living(**flags(tmp_path, entry("m", base), entry("other", tmp_path / "other"))) as life:
        starting = asyncio.create_task(life.manager.ready())
        await life.serves(other=[1])  # which takes several looks
        assert caplog.text.count(sentence) == 1
        assert str(base) in caplog.text
        publish(base, 1)
        await starting
        assert caplog.text.count(sentence) == 1


async def test_of_two_names_for_one_version_the_last_is_taken_and_that_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "m"
    publish(base, 7)
    publish(base, "007", words="another")
    async with living(**flags(tmp_path, entry("m", base))) as life:
        await life.manager.ready()
        await life.serves(m=[7])
        publish(base, 8)
        await life.serves(m=[8])  # which takes another look
    assert caplog.text.count(f"{base} of the model 'm' has version 7 twice: 7 is taken, 007 is not") == 1


# Labels


def label(**labels: int) -> str:
    return " ".join(f'version_labels {{ key: "{key}" value: {version} }}' for key, version in labels.items())


def named(life: Life, text: str) -> int:
    with life.catalogue.use("a", label=text) as servable:
        return servable.version


async def test_labels_name_available_versions_and_move_with_a_reload(tmp_path: Path, a: Path) -> None:
    async with living(**flags(tmp_path, entry("a", a, ALL))) as life:
        await life.manager.ready()
        await life.serves(a=[1, 2, 3])
        await life.manager.reload(config(entry("a", a, ALL + label(stable=1, canary=2, old=1))))
        assert [named(life, text) for text in ("stable", "canary", "old")] == [1, 2, 1]
        await life.manager.reload(config(entry("a", a, ALL + label(stable=2))))
        assert named(life, "stable") == 2
        with pytest.raises(StatusError, match="Unrecognized servable version label: canary"):
            named(life, "canary")


async def test_a_label_for_a_version_that_is_not_available_is_refused_and_nothing_changes(
    tmp_path: Path, a: Path
) -> None:
    async with living(**flags(tmp_path, entry("a", a))) as life:
        await life.manager.ready()
        await life.manager.reload(config(entry("a", a, label(stable=3))))
        with pytest.raises(StatusError) as caught:
            await life.manager.reload(config(entry("a", a, ALL + label(stable=1))))
        assert caught.value.canonical is Code.FAILED_PRECONDITION
        assert caught.value.message == (
            "Request to assign label to version 1 of model a, which is not currently available for inference"
        )
        assert named(life, "stable") == 3
        assert life.catalogue.available == {"a": (3,)}


async def test_labels_in_the_first_configuration_need_a_flag(tmp_path: Path, a: Path) -> None:
    settings = flags(tmp_path, entry("a", a, label(stable=3)))
    async with living(**settings) as life:
        with pytest.raises(StatusError, match="not currently available"):
            await life.manager.ready()
    async with living(allow_version_labels_for_unavailable_models=True, **settings) as life:
        await life.manager.ready()
        assert named(life, "stable") == 3
        await life.manager.reload(config(entry("a", a, label(stable=3, early=2))))
        with pytest.raises(StatusError, match="version 1 of model a"):  # an old label does not move to nothing
            await life.manager.reload(config(entry("a", a, label(stable=1))))
