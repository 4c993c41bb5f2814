"""Publishing and loading models. A version exists once the report of the task that published it is accepted."""

from __future__ import annotations

from causey._current import current
from causey._errors import CauseyException
from causey._formats import PICKLE, choose_format, decode_model, encode_model
from causey._task import MODEL_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping
    from typing import Any

    from causey._attempt import Attempt

__all__ = ["Published", "get", "list", "load", "publish"]


class Published:
    """Handle of a model published by the running step."""

    def __init__(self, name: str, run: str, format: str) -> None:
        self.name = name
        self.run = run
        self.format = format

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@run/{self.run}"

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"Published({self.uri!r}, format={self.format!r})"


def publish(
    name: str,
    model: Any,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    format: str | None = None,
    allow_pickle: bool = False,
) -> Published:
    """Publishes a model from inside a step, as the next version of `name` once the step has succeeded.

    Without `format`: skops for scikit-learn estimators (when skops is installed), text, bytes or json by type. Bytes
    may be given in any other format by its name. Pickle only with `allow_pickle`.
    """
    attempt = current._attempt
    if attempt is None:
        raise CauseyException("models.publish works only inside a running step")
    _check_name(name)
    if any(each["model"] == name for each in attempt.published):
        raise CauseyException(f"this step has already published a model '{name}'")
    numbers = _checked_metrics(name, metrics)
    chosen = format or choose_format(model)
    attempt.models[f"{MODEL_PREFIX}{name}"] = encode_model(name, model, chosen, allow_pickle)
    attempt.published.append(
        {
            "model": name,
            "artifact": f"{MODEL_PREFIX}{name}",
            "format": chosen,
            "metrics": numbers,
            "tags": {str(key): str(value) for key, value in (tags or {}).items()},
            "description": description,
            "allow_pickle": allow_pickle and chosen == PICKLE,
        }
    )
    return Published(name, current.run_id or "", chosen)


def load(
    name: str, version: int | str | None = None, allow_pickle: bool = False, trusted: builtins.list[str] | None = None
) -> Any:
    """The model itself, the latest version unless one is given. `trusted` names types that skops may build."""
    _check_name(name)
    attempt = current._attempt
    if attempt is not None:
        content, format = _from_worker(attempt, name, version)
    else:
        from causey._client import Client

        with Client().open("GET", f"/models/{name}/{_version(version)}/content") as response:
            format = response.headers["Causey-Model-Format"]
            content = response.read()
    return decode_model(name, content, format, allow_pickle, trusted)


def get(name: str, version: int | str | None = None) -> dict[str, Any]:
    """What is known about a version: format, metrics, tags, the run that published it."""
    from causey._client import Client

    _check_name(name)
    found: dict[str, Any] = Client().get(f"/models/{name}/{_version(version)}")
    return found


def list() -> builtins.list[dict[str, Any]]:
    """All models with their latest versions."""
    from causey._client import Client

    found: builtins.list[dict[str, Any]] = Client().get("/models")["models"]
    return found


def _from_worker(attempt: Attempt, name: str, version: int | str | None) -> tuple[Any, str]:
    number = None if version in (None, "latest") else int(version or 0)
    answer = attempt.ask({"type": "model", "name": name, "version": number})
    if answer["type"] != "model_found":
        raise CauseyException(f"model '{name}' cannot be loaded: {answer.get('message')}")
    artifact = attempt.store.object(answer["object"]).artifacts[answer["artifact"]]
    return artifact.raw(), answer["format"]


def _version(version: int | str | None) -> int | str:
    return "latest" if version in (None, "latest") else int(version or 0)


def _check_name(name: str) -> None:
    allowed = isinstance(name, str) and 0 < len(name) <= 64 and name.isascii()
    if not allowed or not name.replace("_", "").replace("-", "").isalnum():
        raise CauseyException(f"{name!r} is not a model name: use up to 64 letters, digits, '_' and '-'")


def _checked_metrics(name: str, metrics: Mapping[str, float] | None) -> dict[str, float]:
    checked = {}
    for metric, value in (metrics or {}).items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise CauseyException(f"metric '{metric}' of model '{name}' is not a number: {value!r}") from None
        if number != number or number in (float("inf"), float("-inf")):
            raise CauseyException(f"metric '{metric}' of model '{name}' is {number}, which cannot be recorded")
        checked[str(metric)] = number
    return checked
