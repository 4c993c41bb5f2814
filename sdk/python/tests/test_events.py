"""Publishing events and following notifications over HTTP."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from causey import CauseyException, ServerException, events
from causey._sse import parse


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(events, "FIRST_PAUSE_SECONDS", 0.0)


def stream(*parts, sequence="10"):
    """An answer to `follow` that ends after the given notifications."""

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Causey-Sequence", sequence)
        request.end_headers()
        for position, id in parts:
            data = json.dumps({"specversion": "1.0", "type": "t", "source": "/causey", "id": id, "data": {"n": id}})
            request.wfile.write(f"id: {position}\nevent: t\ndata: {data}\n\n".encode())
        request.wfile.write(b": half an event\ndata: {")

    return answer


def turns(*answers):
    """Each request gets the next answer, the last one again and again."""
    remaining = list(answers)
    return lambda request: (remaining.pop(0) if len(remaining) > 1 else remaining[0])(request)


def afters(server):
    return [parse_qs(urlsplit(path).query).get("after", [None])[0] for _, path, _, _ in server.requests]


def test_publish_sends_a_structured_cloudevent(server):
    server.answers["POST /v1/events"] = lambda request: request.json(202, {"sequence": 5, "started": []})
    assert events.publish("data.arrived", {"day": 1}, subject="s", id="i", source="/me") == {
        "sequence": 5,
        "started": [],
    }
    _, _, headers, body = server.requests[0]
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert json.loads(body) == {
        "specversion": "1.0",
        "type": "data.arrived",
        "source": "/me",
        "id": "i",
        "subject": "s",
        "datacontenttype": "application/json",
        "data": {"day": 1},
    }


def test_publish_tries_again_with_the_same_id(server):
    server.answers["POST /v1/events"] = turns(
        lambda request: request.json(503, {"detail": "no leader"}), lambda request: request.json(202, {"sequence": 1})
    )
    assert events.publish("t") == {"sequence": 1}
    first, second = (json.loads(body) for _, _, _, body in server.requests)
    assert first == second


def test_refused_event_is_not_sent_again(server):
    server.answers["POST /v1/events"] = lambda request: request.json(400, {"detail": "no type", "code": "CSY-1"})
    with pytest.raises(ServerException, match="no type"):
        events.publish("")
    assert len(server.requests) == 1
    with pytest.raises(CauseyException, match="the data of event 't' is not JSON"):
        events.publish("t", object())


def test_follow_goes_on_behind_the_last_event_after_a_break(server):
    server.answers["GET /v1/events/follow"] = turns(
        stream(("11.0", "a"), ("12.0", "b")), stream(("12.0", "b"), ("13.1", "c"))
    )
    following = events.follow(type="t", name="m")
    assert [next(following).id for _ in range(3)] == ["a", "b", "c"]
    assert afters(server) == [None, "12.0"]
    assert "type=t" in server.requests[0][1] and "name=m" in server.requests[0][1]


def test_follow_that_broke_before_the_first_event_misses_nothing(server):
    server.answers["GET /v1/events/follow"] = turns(stream(sequence="7"), stream(("8.0", "a")))
    assert next(events.follow()).id == "a"
    assert afters(server) == [None, "7"]


def test_subscriber_acts_once_over_restarts(server, tmp_path):
    (tmp_path / ".causey").mkdir()
    server.answers["GET /v1/events/follow"] = stream(("11.0", "a"), ("12.0", "b"), ("13.0", "c"))
    following = events.follow(subscriber="mailer")
    assert [next(following).id, next(following).id] == ["a", "b"]
    # Left in the middle of acting on b, so b comes again.
    following.close()
    stored = json.loads((tmp_path / ".causey" / "subscribers" / "mailer.json").read_text())
    assert stored == {"position": "11.0", "ids": ["a"]}
    following = events.follow(subscriber="mailer")
    assert [next(following).id, next(following).id] == ["b", "c"]
    assert afters(server) == [None, "11.0"]


def test_wrong_token_ends_following(server, monkeypatch):
    monkeypatch.setenv("CAUSEY_TOKEN", "wrong")
    with pytest.raises(ServerException, match="the token is missing or wrong"):
        next(events.follow())


def test_lines_of_a_stream_become_messages():
    lines = [
        b": comment\n",
        b"id: 1\n",
        b"event: run\n",
        b"data: a\n",
        b"data: b\n",
        b"\n",
        b"data:c\r\n",
        b"\r\n",
        b"data: cut",
    ]
    assert [(each.event, each.data, each.id) for each in parse(lines)] == [("run", "a\nb", "1"), ("message", "c", "1")]


def test_argo_event_publishes_to_causey(server, capsys):
    from causey._argo_event import ArgoEvent

    server.answers["POST /v1/events"] = lambda request: request.json(202, {})
    id = ArgoEvent("table.new").add_to_payload("alpha", 1).publish({"beta": 2})
    sent = json.loads(server.requests[0][3])
    assert sent["type"] == "table.new" and sent["id"] == id
    assert sent["data"]["alpha"] == "1" and sent["data"]["beta"] == 2 and sent["data"]["name"] == "table.new"
    assert ArgoEvent("x").safe_publish() is None and len(server.requests) == 1


def test_retried_step_sends_the_same_event_id(run_step, server):
    from server import TOKEN

    server.answers["POST /v1/events"] = lambda request: request.json(202, {})
    body = f"""
    import os
    from causey import events

    class Flow(FlowSpec):
        @step
        def start(self):
            os.environ["CAUSEY_URL"], os.environ["CAUSEY_TOKEN"] = {server.url!r}, {TOKEN!r}
            events.publish("a")
            events.publish("a")
            self.next(self.end)

        @step
        def end(self):
            pass
    """
    answer, _, _ = run_step(body)
    assert answer["type"] == "finished", answer
    sent = [json.loads(body) for _, _, _, body in server.requests]
    assert [event["id"] for event in sent] == ["once-1", "once-2"]
    assert sent[0]["source"] == "/causey/flows/Flow/start"
