"""Publishing models from steps and loading them, inside steps and outside."""

from __future__ import annotations

import base64
import pickle

import pytest
import worker as peer

from causey import CauseyException, ServerException, models

FLOW = """
from causey import models

class Flow(FlowSpec):
    @step
    def start(self):
        {body}
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def content(answer, name):
    entry = answer["artifacts"][name]
    data = base64.b64decode(answer["data"])
    return entry["encoding"], data[entry["offset"] : entry["offset"] + entry["bytes"]]


@pytest.mark.parametrize(
    ("call", "format", "encoding", "expected"),
    [
        ("'tree'", "text", "text", b"tree"),
        ("b'weights'", "bytes", "bytes", b"weights"),
        ("{'a': [1, 2.5]}", "json", "json", b'{"a": [1, 2.5]}'),
        ("b'onnx bytes', format='onnx'", "onnx", "bytes", b"onnx bytes"),
        ("(1, 2), allow_pickle=True", "pickle", "pickle5", pickle.dumps((1, 2), 5)),
    ],
)
def test_format_follows_the_type(call, format, encoding, expected, run_step):
    answer, _, _ = run_step(
        FLOW.format(body=f"self.uri = models.publish('m-1', {call}, metrics={{'mape': 0.5}}, tags={{'k': 1}}).uri")
    )
    assert answer["publish"] == [
        {
            "model": "m-1",
            "artifact": "_model_m-1",
            "format": format,
            "metrics": {"mape": 0.5},
            "tags": {"k": "1"},
            "description": "",
            "allow_pickle": format == "pickle",
        }
    ]
    assert content(answer, "_model_m-1") == (encoding, expected)
    assert pickle.loads(content(answer, "uri")[1]) == "models:/m-1@run/r1"


def test_scikit_learn_models_are_published_with_skops(run_step):
    pytest.importorskip("skops")
    answer, worker, runner = run_step(
        "from sklearn.linear_model import LinearRegression\n"
        + FLOW.format(body="models.publish('m', LinearRegression().fit([[0], [1]], [0, 2]))")
    )
    assert answer["publish"][0]["format"] == "skops"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'m', object()", "model 'm' of type object can only be published as a pickle"),
        ("'m', 1, format='text'", "model 'm' in format 'text' must be text, not int"),
        ("'m', 1, format='onnx'", "model 'm' in format 'onnx' must be bytes, not int"),
        ("'no name', 1", "'no name' is not a model name"),
        ("'m', 1, metrics={'a': float('nan')}", "metric 'a' of model 'm' is nan, which cannot be recorded"),
    ],
)
def test_wrong_publish_is_refused(call, message, run_step):
    answer, _, _ = run_step(FLOW.format(body=f"models.publish({call})"))
    assert answer["error"]["message"].startswith(message)


def test_publishing_the_same_name_twice_is_refused(run_step):
    answer, _, _ = run_step(FLOW.format(body="models.publish('m', 1); models.publish('m', 2)"))
    assert answer["error"]["message"] == "this step has already published a model 'm'"


def test_publish_outside_a_step_is_refused():
    with pytest.raises(CauseyException, match="only inside a running step"):
        models.publish("m", 1)


def test_model_is_not_passed_on_to_later_steps(run_step):
    answer, worker, runner = run_step(FLOW.format(body="models.publish('m', 'x')"))
    start = peer.message(worker.store, "start")
    parent = peer.compose(start, worker.fork().run(start))
    later = worker.fork().run(peer.message(worker.store, "end", inputs=[parent]))
    assert "_model_m" not in later["artifacts"]


def test_step_loads_a_model_through_its_worker(flow_file, start_worker):
    worker = start_worker(
        flow_file(
            """
            from causey import models

            class Flow(FlowSpec):
                @step
                def start(self):
                    models.publish("m", {"w": 1})
                    self.next(self.end)

                @step
                def end(self):
                    self.model = models.load("m", version=4)
                    models.load("n")
            """
        )
    )
    start = peer.message(worker.store, "start")
    published = peer.compose(start, worker.fork().run(start))
    asked = []

    def answers(question):
        asked.append(question)
        if question["name"] == "n":
            return {"type": "model_failed", "name": "n", "message": "there is no model 'n'"}
        return {
            "type": "model_found",
            "name": "m",
            "version": 4,
            "object": {key: published[key] for key in ("run", "key", "digest")},
            "artifact": "_model_m",
            "format": "json",
            "metrics": {},
        }

    answer = worker.fork().run(peer.message(worker.store, "end", inputs=[published]), answers)
    assert asked == [{"type": "model", "name": "m", "version": 4}, {"type": "model", "name": "n", "version": None}]
    assert answer["error"]["message"] == "model 'n' cannot be loaded: there is no model 'n'"


def test_model_is_loaded_from_the_server_outside_a_step(server):
    def answer(request):
        request.bytes(200, b'{"w": 1}', {"Causey-Model-Format": "json", "Causey-Model-Version": "3"})

    server.answers["GET /v1/models/m/latest/content"] = answer
    server.answers["GET /v1/models/m/3"] = lambda request: request.json(200, {"name": "m", "version": 3})
    server.answers["GET /v1/models"] = lambda request: request.json(200, {"models": [{"name": "m"}]})
    assert models.load("m") == {"w": 1}
    assert models.get("m", 3) == {"name": "m", "version": 3}
    assert models.list() == [{"name": "m"}]
    with pytest.raises(ServerException) as caught:
        models.get("absent")
    assert (str(caught.value), caught.value.status, caught.value.code) == (
        "there is no /v1/models/absent/latest\nhint: look again",
        404,
        "CSY-1004",
    )


def test_pickle_is_loaded_only_on_demand(server):
    server.answers["GET /v1/models/m/latest/content"] = lambda request: request.bytes(
        200, pickle.dumps((1,)), {"Causey-Model-Format": "pickle"}
    )
    with pytest.raises(CauseyException, match="model 'm' is a pickle"):
        models.load("m")
    assert models.load("m", allow_pickle=True) == (1,)


def test_skops_names_types_it_does_not_trust(server):
    skops = pytest.importorskip("skops.io")
    body = skops.dumps(Untrusted())
    server.answers["GET /v1/models/m/latest/content"] = lambda request: request.bytes(
        200, body, {"Causey-Model-Format": "skops"}
    )
    with pytest.raises(CauseyException, match="types that are not trusted: .*Untrusted"):
        models.load("m")


class Untrusted:
    pass


def test_missing_server_is_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("CAUSEY_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServerException, match="no Causey server is known here"):
        models.list()


def test_address_and_token_come_from_the_state_folder(server, tmp_path, monkeypatch):
    from server import TOKEN

    (tmp_path / ".causey").mkdir()
    (tmp_path / ".causey" / "url").write_text(f"{server.url}\n")
    (tmp_path / ".causey" / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.delenv("CAUSEY_URL")
    monkeypatch.delenv("CAUSEY_TOKEN")
    server.answers["GET /v1/models"] = lambda request: request.json(200, {"models": []})
    assert models.list() == []
