"""Weights on disk: safetensors that say what they are, and the authors' checkpoints.

A weights file holds tensors and, in its header, text: the model's name and sizes, the sha256 of the tensors, that of
the header itself, and whatever the writer adds (where the weights come from, what they were trained on). It is
complete: nobody needs to remember which sizes made it. No pickle is ever executed.
"""

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from repro import files
from repro.errors import ReproError, unknown_name
from repro.models import MODELS, build, model_class
from repro.models.base import Denoiser
from repro.models.classical import PRESETS

NAME_IT = "--network sadnet, say, or model= in Python"
# Sizes that say how often a part is repeated: each has tensors of its own.
COUNTS = ("modules", "units", "depth", "blocks", "stages", "groups")


def save(net: Denoiser, path: str | Path, metadata: dict | None = None, *, dtype: torch.dtype | None = None) -> Path:
    """Write a network's parameters and buffers to ``path`` (.safetensors), atomically, and return the path.

    ``metadata`` is anything JSON can hold. ``dtype=torch.float16`` halves the file, and :func:`load` gives
    float32 again. Values that are not finite, or become so in ``dtype``, are a ReproError: no file is
    written.
    """
    tensors = {}
    for name, tensor in net.state_dict().items():
        tensor = tensor.detach().cpu().to(dtype if tensor.is_floating_point() else None)
        tensors[name] = tensor.contiguous().clone()  # a copy each: safetensors refuses shared memory
    _require_finite(tensors, f"The {net.name} to be saved")
    header = {
        "model": net.name,
        "sizes": json.dumps(asdict(net.sizes)),
        "sha256": checksum(tensors),
        "metadata": json.dumps(metadata or {}),
    }
    header["header_sha256"] = _header_checksum(header)
    with files.write_atomically(path) as temporary:
        # Through memory rather than safetensors' own writer, so that a full disk is the OSError it is.
        temporary.write_bytes(safetensors.save(tensors, header))
    return Path(path)


def load(name_or_path: str | Path, model: str | None = None, results: Path | None = None) -> Denoiser:
    """A network with trained weights, float32, on the CPU, in evaluation mode.

    ``name_or_path`` is a name in :func:`published`, one of other authors' in :data:`repro.published.SOURCES`
    (``dncnn-gray-50-published``), or a file: a .safetensors written by :func:`save`, or an
    authors' checkpoint (.pth, .pt, or safetensors without our header), for which ``model`` must say what it
    is. With ``model`` given, weights of another model are refused. Whatever is wrong with a file, a
    truncated or altered one included, is a ReproError that says so. (The checksum in a file guards against
    accidents; who can forge the tensors can forge it too.)

    A filter without weights goes by its own name: ``load("bm3d")``, or with sizes by one of
    :data:`repro.models.classical.PRESETS`: ``load("bm3d-estimated")``. ``results`` is a folder of results whose weights
    come before those of the study.
    """
    name, sizes = PRESETS.get(name_or_path, (name_or_path, {}))
    if name in MODELS and model in (None, name, name_or_path) and model_class(name).weightless:
        return build(name, **sizes).eval()
    if name in MODELS and model_class(name).weightless:
        raise ReproError(f"{name_or_path} is a filter without weights, and no {model}.")
    path = find(name_or_path, results)
    if _is_torch_file(path):
        return _from_torch_file(path, model)
    header, tensors = _read(path)
    if "model" not in header:
        if model is None:
            raise ReproError(f"{path} does not say which model it is for; name the model ({NAME_IT}).")
        return from_upstream(model, tensors)
    if model is not None and header["model"] != model:
        raise ReproError(f"{path} holds weights of {header['model']}, not of {model}.")
    if checksum(tensors) != header.get("sha256"):
        raise ReproError(f"{path} is damaged: its tensors do not have the checksum written beside them.")
    if header.get("header_sha256") not in (None, _header_checksum(header)):  # None: written before there was one
        raise ReproError(f"{path} is damaged: its header does not have the checksum written in it.")
    _require_finite(tensors, str(path))
    try:
        sizes = dict(json.loads(header.get("sizes", "")))
    except (ValueError, TypeError) as error:
        raise ReproError(f"{path} is damaged: it does not give the network's sizes.") from error
    counts = [name for name in COUNTS if isinstance(sizes.get(name), int) and sizes[name] > len(tensors)]
    if counts:
        raise ReproError(f"{path} is damaged: {counts[0]} = {sizes[counts[0]]} are more than it has tensors.")
    try:
        net = build(header["model"], **sizes)
    except ReproError as error:
        raise ReproError(f"{path} is damaged: {error}") from error
    _fill(net, {name: name for name in net.state_dict()}, tensors, str(path))
    return net.eval()


def from_upstream(name: str, state_dict: Mapping[str, Tensor | np.ndarray], **sizes) -> Denoiser:
    """A network from a state dict under the authors' own parameter names, in evaluation mode.

    Sizes are read off the arrays; ``sizes`` override them and say what shapes cannot (SADNet:
    ``dilations``). A ``module.`` prefix and ``num_batches_tracked`` counters are tolerated. Everything else
    is strict: a missing or surplus name, a wrong shape or a value that is not finite is a ReproError that
    names it.
    """
    cls = model_class(name)
    if not hasattr(cls, "upstream_sizes"):
        raise ReproError(f"No authors' names are known for {name}.")
    arrays = {}
    for key, array in state_dict.items():
        if not isinstance(key, str) or not isinstance(array, Tensor | np.ndarray):
            kind = type(array).__name__
            raise ReproError(f"These are no weights of a {name}: {key} is no array, but {kind}.")
        try:
            if isinstance(array, np.ndarray):  # torch takes neither negative strides nor another order of bytes
                array = np.array(array, array.dtype.newbyteorder("="), order="C")
            arrays[key.removeprefix("module.")] = torch.as_tensor(array)
        except (TypeError, ValueError) as error:
            raise ReproError(f"These are no weights of a {name}: {key} is an array of {array.dtype}.") from error
    arrays = {key: array for key, array in arrays.items() if not key.endswith("num_batches_tracked")}
    what = f"This checkpoint for {name}"
    _require_finite(arrays, what)
    try:
        inferred = cls.upstream_sizes(arrays)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ReproError(f"{what} has arrays of shapes that no {name} has.") from error
    net = build(name, **(inferred | sizes))
    if hasattr(net, "upstream_aliases"):
        _drop_aliases(net.upstream_aliases(), arrays, what)
    naming = cls.upstream_naming(arrays) if hasattr(cls, "upstream_naming") else cls.upstream_name
    _fill(net, {ours: naming(ours) for ours in net.state_dict()}, arrays, what)
    return net.eval()


def find(name_or_path: str | Path, results: Path | None = None) -> Path:
    """The file behind a published name (in ``results``, then in the study's) or a path; a ReproError for none.

    Other authors' weights are fetched and converted into the cache when first asked for.
    """
    known = published() | (published(results) if results else {})
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ReproError(f"There is no weights file {path}.")
    from repro import published as others  # which reads and writes with this module

    if str(name_or_path) in others.SOURCES:
        return others.convert(str(name_or_path))
    short = [name for name in known if name.removesuffix("-seed0") == name or name.removesuffix("-seed0") not in known]
    filters = [name for name in MODELS if model_class(name).weightless]
    raise unknown_name("trained model or filter", str(name_or_path), [*short, *others.SOURCES, *filters, *PRESETS])


def published(results: Path | None = None) -> dict[str, Path]:
    """Names and files of the weights that come with the study, or with another folder of results,
    ``results/weights/<experiment>-seed<k>.safetensors``.

    A file is known by its name without the suffix; an experiment's lowest seed by the experiment's name
    alone, too. What a kill left half-written begins with a dot, and is none.
    """
    found = sorted(((results or files.results()) / "weights").glob("[!.]*.safetensors"), key=_by_experiment_and_seed)
    names: dict[str, Path] = {}
    for path in found:
        names.setdefault(re.sub(r"-seed\d+$", "", path.stem), path)
    return names | {path.stem: path for path in found}


def describe(name_or_path: str | Path, results: Path | None = None) -> dict:
    """What a weights file says of itself: model, sizes, sha256, and the metadata its writer added."""
    path = find(name_or_path, results)
    header = _read(path, tensors=False)[0]
    if missing := {"model", "sizes", "sha256"} - header.keys():
        raise ReproError(
            f"{path} was not written by this package: it does not say its {' and '.join(sorted(missing))}."
        )
    return json.loads(header.get("metadata", "{}")) | {
        "model": header["model"],
        "sizes": json.loads(header["sizes"]),
        "sha256": header["sha256"],
    }


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _header_checksum(header: Mapping[str, str]) -> str:
    """sha256 over what a header says, its own checksum left out."""
    said = {name: text for name, text in header.items() if name != "header_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as opened:
            names = opened.keys() if tensors else ()
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ReproError(f"{path} is not a complete safetensors file.") from error


def _is_torch_file(path: Path) -> bool:
    """By its first bytes, since names are given freely: a zip archive, or a pickle of protocol 2 and later. What says
    nothing goes by its name. The header of a safetensors file begins behind its length, of eight bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ReproError(f"Cannot read {path}: {error.strerror or error}.") from error
    if head[8:] == b"{":
        return False
    return head[:2] == b"PK" or head[:1] == b"\x80" or path.suffix.lower() in (".pth", ".pt")


def _from_torch_file(path: Path, model: str | None) -> Denoiser:
    if model is None:
        raise ReproError(f"{path} does not say which model it is for; name the model ({NAME_IT}).")
    return from_upstream(model, read_torch_file(path))


def read_torch_file(path: Path) -> Mapping[str, Tensor]:
    """The arrays of an authors' .pth or .pt file by name. Nothing in it is executed; a ReproError if it asks for it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said once, below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ReproError(
            f"{path} is refused: it holds more than plain arrays, and reading it could run code."
        ) from error
    except Exception as error:  # a damaged pickle fails in any way there is
        raise ReproError(f"{path} is not a complete checkpoint file.") from error
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        checkpoint = checkpoint["state_dict"]  # beside an epoch, an optimiser's state and the like
    if not isinstance(checkpoint, Mapping):
        raise ReproError(f"{path} holds no parameters by name.")
    return checkpoint


def _fill(net: Denoiser, names: dict[str, str], arrays: Mapping[str, Tensor], what: str) -> None:
    """Copy ``arrays`` into ``net``, whose parameter ``ours`` is called ``names[ours]`` there. Strict."""
    own = net.state_dict()
    counters = {ours for ours in own if ours.endswith("num_batches_tracked") and names[ours] not in arrays}
    names = {ours: theirs for ours, theirs in names.items() if ours not in counters}
    if missing := [theirs for theirs in names.values() if theirs not in arrays]:
        raise ReproError(f"{what} lacks {_listed(missing)}, which a {net.name} of these sizes has.")
    if surplus := sorted(set(arrays) - set(names.values())):
        raise ReproError(f"{what} has {_listed(surplus)}, which a {net.name} of these sizes has not.")
    for ours, theirs in names.items():
        if arrays[theirs].shape != own[ours].shape:
            found, wanted = list(arrays[theirs].shape), list(own[ours].shape)
            raise ReproError(f"{what} has {theirs} in the shape {found} instead of {wanted}.")
        if arrays[theirs].is_floating_point() != own[ours].is_floating_point() or arrays[theirs].is_complex():
            found = str(arrays[theirs].dtype).removeprefix("torch.")
            raise ReproError(f"{what} has {theirs} as {found}, which a {net.name} cannot have.")
    with torch.no_grad():
        for ours, theirs in names.items():
            own[ours].copy_(arrays[theirs])


def _drop_aliases(aliases: Mapping[str, str], arrays: dict[str, Tensor], what: str) -> None:
    """Leave each array that goes by two names (alias -> name) under the second one alone."""
    for alias, name in aliases.items():
        if alias not in arrays:
            continue
        array = arrays.pop(alias)
        if not torch.equal(arrays.setdefault(name, array), array):
            raise ReproError(f"{what} has two different arrays {alias} and {name}, which are one and the same layer.")


def _require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ReproError(f"{what} has values in {name} that are not finite numbers.")


def _listed(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _by_experiment_and_seed(path: Path) -> tuple[str, int]:
    experiment, _, seed = path.stem.rpartition("-seed")
    return (experiment, int(seed)) if seed.isdigit() else (path.stem, 0)
