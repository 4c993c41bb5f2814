"""Formats of published models: how a model becomes bytes that others may load, preferring those that run no code."""

from __future__ import annotations

from causey._encoding import Encoded, encode_in_one_stream
from causey._errors import CauseyException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PICKLE = "pickle"


def choose_format(model: Any) -> str:
    if _is_estimator(model):
        try:
            import skops.io  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
        except ImportError:
            return PICKLE
        return "skops"
    if isinstance(model, str):
        return "text"
    if isinstance(model, (bytes, bytearray, memoryview)):
        return "bytes"
    if _is_json(model):
        return "json"
    return PICKLE


def encode_model(name: str, model: Any, format: str, allow_pickle: bool) -> Encoded:
    kind = type(model).__name__
    if format == "skops":
        import skops.io

        return Encoded([skops.io.dumps(model)], "skops", kind)
    if format == "text":
        return Encoded([_expect(name, model, format, str).encode()], "text", kind)
    if format == "json":
        import json

        try:
            return Encoded([json.dumps(model, allow_nan=False).encode()], "json", kind)
        except (TypeError, ValueError) as problem:
            raise CauseyException(f"model '{name}' cannot be published as json: {problem}") from None
    if format == PICKLE:
        if not allow_pickle:
            raise CauseyException(
                f"model '{name}' of type {kind} can only be published as a pickle, which runs code when it is loaded\n"
                f"hint: {_advice(model)}, or publish(…, allow_pickle=True) if all who load it trust you"
            )
        # In one stream: what is served over HTTP has no table of buffers.
        return encode_in_one_stream(model)
    # Whatever the format is called, its bytes are the publisher's business: onnx, safetensors, ubj …
    return Encoded([bytes(_expect(name, model, format, (bytes, bytearray, memoryview)))], "bytes", format)


def _expect(name: str, model: Any, format: str, types: Any) -> Any:
    if not isinstance(model, types):
        expected = "text" if types is str else "bytes"
        raise CauseyException(f"model '{name}' in format '{format}' must be {expected}, not {type(model).__name__}")
    return model


def _advice(model: Any) -> str:
    if _is_estimator(model):
        return "pip install skops"
    return "publish its bytes in a format of its own (format='onnx', 'safetensors', …)"


def decode_model(name: str, content: Any, format: str, allow_pickle: bool, trusted: list[str] | None) -> Any:
    if format == PICKLE:
        if not allow_pickle:
            raise CauseyException(
                f"model '{name}' is a pickle, which runs code when it is loaded\n"
                "hint: load(…, allow_pickle=True) if you trust who published it"
            )
        import pickle

        return pickle.loads(content)
    if format == "skops":
        return decode_skops(bytes(content), trusted)
    from causey._encoding import decode

    return decode(content, format if format in ("text", "json") else "bytes")


def decode_skops(content: bytes, trusted: list[str] | None) -> Any:
    try:
        import skops.io
    except ImportError:
        raise CauseyException(
            "this model is stored with skops, which is not installed\nhint: pip install skops"
        ) from None
    unknown = [name for name in skops.io.get_untrusted_types(data=content) if name not in (trusted or ())]
    if unknown:
        raise CauseyException(
            f"the model contains types that are not trusted: {', '.join(unknown)}\n"
            f"hint: load(…, trusted={unknown!r}) if you trust them"
        )
    return skops.io.loads(content, trusted=trusted)


def _is_estimator(model: Any) -> bool:
    return not isinstance(model, type) and all(hasattr(model, method) for method in ("fit", "get_params", "set_params"))


def _is_json(model: Any) -> bool:
    if isinstance(model, dict):
        return all(type(key) is str and _is_json(value) for key, value in model.items())
    if type(model) is list:
        return all(map(_is_json, model))
    return model is None or type(model) in (bool, int, float, str)
