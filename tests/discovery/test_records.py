"""What Consul's records mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import records
from discovery.records import Health, health, read, registration
from muster.values import Worker

ANN = Worker(id="worker-10.0.0.1-8501-ann", host="10.0.0.1", port=8501)


def check(status: str, check_id: str = "c") -> dict[str, Any]:
    return {"CheckID": check_id, "Status": status}


def record(checks: list[Any] | None = None, node: str = "10.9.9.9", **service: Any) -> dict[str, Any]:
    """A healthy instance as Consul shows it, changed as the test wants it."""
    return {
        "Node": {"Node": "n1", "Address": node},
        "Service": {"ID": "ann", "Service": "worker", "Address": "10.0.0.1", "Port": 8501, "Tags": [], "Meta": {}}
        | service,
        "Checks": [check("passing")] if checks is None else checks,
    }


def listed(registered: dict[str, Any]) -> dict[str, Any]:
    """The health record that Consul makes of a registration."""
    return record(
        ID=registered["service_id"],
        Address=registered["address"],
        Port=registered["port"],
        Tags=registered["tags"],
        Meta=registered["meta"],
        Weights=registered["weights"],
        checks=[registered["check"], *registered["extra_checks"]],
    )


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], Health.PASSING),
        ([check("passing"), check("passing")], Health.PASSING),
        ([check("passing"), check("warning")], Health.WARNING),
        ([check("warning"), check("critical"), check("passing")], Health.CRITICAL),
        ([check("passing"), check("critical", "serfHealth")], Health.CRITICAL),
        ([check("passing"), check("critical", "_service_maintenance:ann")], Health.MAINTENANCE),
        ([check("passing"), check("critical", "_node_maintenance")], Health.MAINTENANCE),
        ([check("something new")], Health.CRITICAL),
        ([{}], Health.CRITICAL),
        (["not a check"], Health.CRITICAL),
    ],
    ids=[
        "nobody checks it",
        "all checks pass",
        "one check warns",
        "the worst check counts",
        "the node is dead",
        "the service is in maintenance",
        "the node is in maintenance",
        "a status nobody knows",
        "a check without a status",
        "a check that is none",
    ],
)
def test_an_instance_is_as_healthy_as_its_worst_check(checks: list[Any], expected: Health) -> None:
    assert health(checks) is expected


@pytest.mark.parametrize("status", ["critical", "maintenance", "unknown"])
def test_what_is_not_healthy_is_not_in_the_snapshot(status: str) -> None:
    assert read([record([check(status)])]).workers == ()


def test_an_instance_that_warns_gets_its_warning_weight() -> None:
    weights = {"Passing": 10, "Warning": 2}
    assert read([record(Weights=weights)]).workers[0].weight == 10
    assert read([record([check("warning")], Weights=weights)]).workers[0].weight == 2


def test_an_instance_that_warns_with_a_warning_weight_of_nothing_gets_nothing() -> None:
    assert read([record([check("warning")], Weights={"Passing": 10, "Warning": 0})]).workers == ()


@pytest.mark.parametrize("weights", [None, {}, {"Passing": "ten"}, {"Passing": -1}])
def test_a_weight_that_makes_no_sense_counts_as_one(weights: object) -> None:
    assert read([record(Weights=weights)]).workers[0].weight == 1


def test_a_service_without_an_address_is_at_its_node() -> None:
    assert read([record(Address="")]).workers[0].host == "10.9.9.9"


def test_only_tags_that_name_models_are_models() -> None:
    tags = ["model:digits", "v1", "model:", "modelling", "model:with:colon"]
    assert read([record(Tags=tags)]).workers[0].models == ("digits", "with:colon")


def test_a_service_that_names_no_model_does_not_say_that_it_has_none() -> None:
    for meta in ({}, {"models": "somebody else's"}):
        assert read([record(Tags=["v1"], Meta=meta)]).workers[0].models is None
    assert read([record(Tags=["v1"], Meta={"models": ""})]).workers[0].models == ()


def test_only_tags_that_number_a_known_model_are_versions() -> None:
    tags = ["version:digits/2", "model:digits", "version:digits/1", "version:digits/1"]
    strange = [
        "1.0",
        "digits",
        "digits/",
        "digits/-1",
        "digits/x",
        "digits/9223372036854775808",
        "cats/1",
        "/1",
        "digits/²",
    ]
    tags += ["version:" + text for text in strange]
    assert read([record(Tags=tags)]).workers[0].versions == (("digits", 1), ("digits", 2))


@given(st.text(min_size=1, max_size=20))
def test_any_name_of_a_model_survives_as_a_tag_that_can_stand_in_a_list(name: str) -> None:
    registered = registration(ANN.serving({name: [7]}), "worker", ttl=3)
    assert not any(set(tag) & set(", \t\r\n\0\"'") for tag in registered["tags"])
    assert read([listed(registered)]).workers[0].versions == ((name, 7),)


def test_metadata_that_makes_no_sense_is_no_metadata() -> None:
    meta = {"grpc_port": "99999", "capacity": "many", "replay_safe": "maybe"}
    assert read([record(Meta=meta)]).workers == (Worker(id="ann", host="10.0.0.1", port=8501),)


@pytest.mark.parametrize("member", ["Tags", "Meta", "Weights"])
def test_null_stands_for_nothing_in_records_as_go_writes_them(member: str) -> None:
    assert read([record(**dict[str, Any]({member: None}))]).workers == (Worker(id="ann", host="10.0.0.1", port=8501),)


@pytest.mark.parametrize(
    "service",
    [
        {"Address": "0.0.0.0"},
        {"Address": "::"},
        {"Address": "169.254.169.254"},
        {"Address": "::ffff:169.254.169.254"},
        {"Address": "fe80::1%eth0"},
        {"Address": "224.0.0.1"},
        {"Address": "255.255.255.255"},
        {"Address": "127.1"},
        {"Address": "0xa9fea9fe"},
        {"Address": "user@host"},
        {"Address": "host/path"},
        {"Address": "host\r\nX: y"},
        {"Address": 5},
        {"Port": 0},
        {"Port": 65536},
        {"Port": "8501"},
        {"Port": True},
        {"Port": None},
        {"ID": ""},
        {"ID": "a b"},
        {"ID": "a\nb"},
        {"ID": "ä"},
    ],
    ids=repr,
)
def test_a_record_that_nothing_should_be_sent_to_is_left_out_with_a_reason(service: dict[str, Any]) -> None:
    reading = read([record(**service), record(ID="bob")])
    assert [worker.id for worker in reading.workers] == ["bob"]
    assert len(reading.complaints) == 1
    assert "\n" not in reading.complaints[0]


@pytest.mark.parametrize("entry", [None, 3, [], {}, {"Service": {}}, {"Service": {}, "Checks": []}, {"Checks": 1}])
def test_a_record_of_the_wrong_shape_is_left_out(entry: object) -> None:
    reading = read([entry, record()])
    assert len(reading.workers) == 1
    assert len(reading.complaints) == 1


@pytest.mark.parametrize("answer", [None, {}, "no", 3])
def test_an_answer_that_is_no_list_is_an_error(answer: object) -> None:
    with pytest.raises(ValueError, match="not a list"):
        read(answer)


def test_the_order_of_records_does_not_matter() -> None:
    entries = [record(ID=name) for name in ("cid", "ann", "bob")]
    assert read(entries) == read(entries[::-1])
    assert [worker.id for worker in read(entries).workers] == ["ann", "bob", "cid"]


def test_a_worker_that_two_agents_list_is_one_worker() -> None:
    assert len(read([record(), record()]).workers) == 1


def test_two_services_that_share_an_id_stay_two() -> None:
    workers = read([record(ID="tf"), record(ID="tf", Address="10.0.0.2")]).workers
    assert [worker.id for worker in workers] == ["tf", "tf@10.0.0.2:8501"]


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=30)
_MODELS = st.dictionaries(_TEXT.filter(bool), st.lists(st.integers(0, 2**63 - 1), max_size=3), max_size=4)
_WORKERS = st.builds(
    lambda models, **more: Worker(**more) if models is None else Worker(**more).serving(models),
    id=st.from_regex(r"[!-~]{1,60}", fullmatch=True),
    host=st.one_of(st.sampled_from(["127.0.0.1", "10.1.2.3", "::1", "fd00::7", "worker-1", "gpu.example.org"])),
    port=st.integers(1, 65535),
    models=st.none() | _MODELS,
    grpc_port=st.none() | st.integers(1, 65535),
    version=_TEXT,
    replay_safe=st.booleans(),
    capacity=st.integers(0, 10**8),
    weight=st.integers(1, 65535),
)


@given(_WORKERS)
def test_what_a_worker_registers_is_what_a_watcher_reads(worker: Worker) -> None:
    through_the_wire = json.loads(json.dumps([listed(registration(worker, "worker", ttl=3))]))
    assert read(through_the_wire).workers == (worker,)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(
        st.builds(
            lambda service, checks, node: {"Service": service, "Checks": checks, "Node": node},
            st.dictionaries(st.sampled_from(["ID", "Address", "Port", "Tags", "Meta", "Weights"]), _JSON) | _JSON,
            st.lists(_JSON, max_size=2) | _JSON,
            st.dictionaries(st.just("Address"), _JSON) | _JSON,
        )
        | _JSON,
        max_size=3,
    )
)
def test_no_record_however_strange_breaks_the_reading(entries: list[Any]) -> None:
    reading = read([*entries, record(ID="sane")])
    assert "sane" in [worker.id for worker in reading.workers]


def test_metadata_fits_into_what_consul_takes() -> None:
    worker = Worker(**{**_fields(ANN), "models": tuple(f"modèle-{n}" for n in range(200)), "version": "ü" * 600})
    registered = registration(worker, "worker", ttl=3)
    assert all(len(value.encode()) <= 512 for value in registered["meta"].values())
    assert read([listed(registered)]).workers[0].models == worker.models


def _fields(worker: Worker) -> dict[str, Any]:
    return {name: getattr(worker, name) for name in Worker.__slots__}


@pytest.mark.parametrize(
    "wrong",
    [{"id": "a b"}, {"host": ""}, {"host": "0.0.0.0"}, {"port": 0}, {"grpc_port": 0}, {"weight": 0}, {"capacity": -1}],
    ids=repr,
)
def test_a_worker_that_nobody_could_reach_cannot_be_registered(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not"):
        registration(Worker(**{**_fields(ANN), **wrong}), "worker", ttl=3)


def test_both_checks_begin_as_passing_and_are_forgotten_some_time_after_they_fail() -> None:
    registered = registration(ANN, "worker", ttl=3)
    ttl, http = registered["check"], registered["extra_checks"][0]
    assert ttl["CheckID"] == records.ttl_check_id(ANN.id)
    assert ttl["TTL"] == "3000ms"
    assert http["HTTP"] == "http://10.0.0.1:8501/readyz"
    assert {ttl["Status"], http["Status"]} == {"passing"}
    assert {ttl["DeregisterCriticalServiceAfter"], http["DeregisterCriticalServiceAfter"]} == {"1m"}
