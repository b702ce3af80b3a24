"""Published weights: from_pretrained and save_pretrained, in the file format of transformers.

A checkpoint is a folder with config.json and safetensors files. Its `model_type` selects a
`Family`, whose tables convert the configuration and the arrays to those of a model in this library,
and back.
"""

import contextlib
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.calls import State
from ..core.layer import Layer
from ..files import fresh
from ..files.reading import FileError, read_json
from ..installation import required
from ..interop.torch_names import state_dict
from ..interop.torch_weights import from_torch
from ..layers.shape import upsample
from ..train.weights import LONGEST_HEADER, open_arrays
from ..validation import Accepts, one_of
from .families import Family, unsupported

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
UNSAVED = ("implementation",)  # fields that config.json does not have
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
path_like: Accepts = Accepts(
    "a folder, a safetensors file, or a name such as 'openai-community/gpt2'",
    lambda value: isinstance(value, str | os.PathLike) and bool(os.fspath(value)),
    TypeError,
)


class Pretrained(NamedTuple):
    """A published model: its configuration, network, parameters, and state.

    Args:
        model: Configuration, such as a `GPT`.
        net: The network, `model.network(outputs)`.
        params: Its parameters.
        state: Its state, such as the running statistics of batch norms; {} if it has none.
    """

    model: Any
    net: Layer
    params: Any
    state: State


class Published:
    """Base of the models that have published weights.

    A subclass sets `families`, and overrides the methods `example`, `outputs_of`, and `explicit`.
    """

    families: ClassVar[tuple[Family, ...]] = ()
    same: ClassVar[dict[str, str]] = {}
    """For a field that is None, the field whose value it takes."""
    patch_positions: ClassVar[tuple[str, ...]] = ()
    """Path of the layer that adds position encodings to a class token and patches, if any."""

    @classmethod
    def from_pretrained(cls, path_or_name: str | os.PathLike[str], **changes: Any) -> Pretrained:
        """Load a published model: its configuration, network, parameters, and state.

        The configuration is read from config.json, and the weights from model.safetensors or the
        files in model.safetensors.index.json. Values of config.json that the model does not support
        are rejected. No code from a checkpoint is run, so pickled weights such as pytorch_model.bin
        are rejected, too. Parameters are converted to the type that the network declares, float32.

        Args:
            path_or_name: A folder, a safetensors file next to its config.json, or the name of a
                repository on the Hugging Face Hub, such as "openai-community/gpt2", which is
                downloaded with `huggingface_hub` (the extra `hub`).
            **changes: Fields of the model that replace those of config.json, such as
                `dropout=0.0`, which is required if the file has several dropout rates. If `image`
                is replaced, the position encodings of patches are interpolated bicubically, as by
                transformers.

        Returns:
            `(model, net, params, state)`, a `Pretrained`.

        Raises:
            TypeError: A keyword is not a field of the model.
            ValueError: config.json has an unsupported model type or value, the arrays do not match
                it, or the model does not accept `changes`. The message names the keys, the arrays,
                or the changes.
            FileNotFoundError: A file is missing, or cannot be downloaded.
            ImportError: A name is given, and huggingface_hub is not installed.

        >>> import tempfile, jax, jax.numpy as jnp
        >>> from jaxnn.models import GPT
        >>> model, tokens = GPT(layers=1, width=8, num_heads=2), jnp.zeros((1, 5), int)
        >>> params = model.network(11).init(jax.random.key(0), tokens)
        >>> folder = Path(tempfile.mkdtemp(), "gpt")
        >>> model.save_pretrained(folder, params)
        >>> model, net, params, _ = GPT.from_pretrained(folder)
        >>> net.apply(params, tokens).shape
        (1, 5, 11)
        """
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        what = f"a field of {cls.__name__} ({', '.join(names)})"
        for name in changes:
            close = "".join(f"write {one}=" for one in difflib.get_close_matches(name, names, 1))
            a_field = one_of(*names).such(what=what, error=TypeError)
            a_field(name, f"a keyword of {cls.__name__}.from_pretrained", close)
        find, single = find_files(path_or_name)
        config_file = found_file(find, "config.json", path_or_name)
        config = read_json(config_file)
        family = cls._family(config, config_file)
        fields = family.fields(config, config_file, changes)
        outputs = [fields.pop("outputs")] if "outputs" in fields else []
        published = {"image": fields["image"]} if cls.patch_positions else {}

        def built(changes: dict[str, Any]) -> tuple[Any, Any, Layer]:
            model: Any = cls(**fields | changes)
            before: Any = cls(**fields | changes | published)
            return model, before, before.network(*outputs)

        @contextlib.contextmanager
        def explained(file: Any) -> Iterator[None]:
            try:
                yield
            except (TypeError, ValueError) as error:
                if _shapes(built, {}) in (None, _shapes(built, changes)):
                    raise FileError(f"{file}: {error}") from error
                keywords = ", ".join(f"{name}={value!r:.80}" for name, value in changes.items())
                call = f"{cls.__name__}.from_pretrained('{path_or_name}', {keywords})"
                raise ValueError(f"{call}: {error}") from error

        with explained(config_file):
            model, before, net = built(changes)
        files = [single] if single else _weight_files(find, path_or_name)
        arrays = {_full(name, family): array for name, array in _arrays(files).items()}
        if family.bare_architecture and not any(_is_head(name, family) for name in arrays):
            outputs = [None]
            net = before.network(None)
        with explained(path_or_name):
            loaded = from_torch(
                net, arrays, *before.example(), names=family.names, ignore=family.skipped
            )
        if model == before:
            return Pretrained(model, net, loaded.params, loaded.state)
        params = _for_images(loaded.params, model, before)
        return Pretrained(model, model.network(*outputs), params, loaded.state)

    @classmethod
    def _family(cls, config: Any, file: Path) -> Family:
        kind = config.get("model_type") if isinstance(config, dict) else None
        matching = [family for family in cls.families if family.model_type == kind]
        if matching:
            # The first of the fixed keys differs if there are several families of a type.
            key, (default, *_) = next(iter(matching[0].fixed.items()))
            value = config.get(key, default) if len(matching) > 1 else default
            for family in matching:
                if value in family.fixed[key]:
                    return family
            accepted = (one for family in matching for one in family.fixed[key])
            raise unsupported(file, key, value, " or ".join(map(repr, accepted)))
        known = ", ".join(dict.fromkeys(family.model_type for family in cls.families))
        raise FileError(f"{file}: model_type is {kind!r}; {cls.__name__} loads {known}")

    def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shapes and types of the inputs."""
        return (jax.ShapeDtypeStruct((1, 1), "int32"),)

    def outputs_of(self, params: Any) -> tuple[int | None, ...]:
        """Return the argument of `network`, if it has one, from the shapes of parameters.

        Args:
            params: Parameters of the network.
        """
        return ()

    def explicit(self) -> dict[str, Any]:
        """Return all fields, with sizes in place of None; `hidden` is then 4 * `width`."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        fields = {name: getattr(self, name) for name in names}
        widths = {name: name.replace("hidden", "width") for name in names if "hidden" in name}
        found = {name: 4 * fields[width] for name, width in widths.items()}
        found |= {name: fields[other] for name, other in self.same.items()}
        return fields | {name: value for name, value in found.items() if fields[name] is None}

    def save_pretrained(
        self, folder: str | os.PathLike[str], params: Any, state: State | None = None
    ) -> None:
        """Write config.json and model.safetensors, which transformers and `from_pretrained` load.

        The folder is written completely or not at all. The model type in config.json is the first
        one that can represent all fields of this model.

        Args:
            folder: The new folder.
            params: Parameters of `self.network(outputs)`, or of `self.network()` for `BERT` and
                `CLIP`.
            state: State of the network, if it keeps any, as `ResNet` does. Default: None.

        Raises:
            ValueError: No model type of transformers can represent all fields of this model, or the
                parameters do not belong to it.
            FileExistsError: The folder exists.
            ImportError: safetensors is not installed.
        """
        safetensors = required(
            "safetensors.numpy", "weights are saved by", "safetensors", "experiments"
        )
        outputs = self.outputs_of(params)
        family, config = self._writable(outputs)
        config["dtype"] = str(jax.tree.leaves(params)[0].dtype)
        net: Layer = self.network(*outputs)  # type: ignore[attr-defined]
        example, state = self.example(), {} if state is None else state
        wanted = {"parameters": net.spec(*example), "state": net.init_state(*example)}
        for (what, tree), given in zip(wanted.items(), (params, state), strict=True):
            shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), one) for one in (tree, given)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"the {what} are not those of {self!r:.400}: expected shapes {shapes[0]}, got "
                    f"{shapes[1]}; write model.save_pretrained(folder, params, state)"
                )
        arrays = state_dict(net, params, family.names, state)
        with fresh(Path(folder)) as hidden:
            hidden.mkdir()
            text = json.dumps(config, indent=2, sort_keys=True)
            hidden.joinpath("config.json").write_text(text + "\n", encoding="utf-8")
            safetensors.save_file(arrays, hidden / SINGLE, metadata={"format": "pt"})

    def _writable(self, outputs: tuple[int | None, ...]) -> tuple[Family, dict[str, Any]]:
        """Return the first family that has all fields of this model, and its config.json."""
        fields = self.explicit() | {"outputs": outputs[0] if outputs else None}
        lines = []
        for family in self.families:
            config = family.config(fields)
            found = family.fields(config, "config.json")
            found.pop("outputs", None)
            names = ("implementation", "pooling") if fields["outputs"] is None else UNSAVED
            unsaved = {name: fields[name] for name in names if name in fields}
            other = type(self)(**found | unsaved).explicit()
            lost = [
                f"{name}={fields[name]!r}" for name, value in other.items() if fields[name] != value
            ]
            if not lost:
                return family, config
            lines.append(f"{family.model_type} does not have {', '.join(lost)}")
        raise ValueError(f"no model type of transformers is {self!r}: " + "; ".join(lines))


def _shapes(built: Callable[[Any], tuple[Any, Any, Layer]], changes: dict[str, Any]) -> Any:
    """Return the shapes of all arrays of a network; None if it cannot be built."""
    try:
        _, model, net = built(changes)
        declared = net.spec(*model.example()), net.init_state(*model.example())
    except (TypeError, ValueError):
        return None
    return jax.tree.map(lambda a: tuple(a.shape), declared)


def _full(name: str, family: Family) -> str:
    """Return the name of an array in the family's table: with its base if the table has a head."""
    if "head" not in family.names:
        return name.removeprefix(family.base)
    full = name.startswith(family.base) or _is_head(name, family)
    return name if full else family.base + name


def _is_head(name: str, family: Family) -> bool:
    return name.startswith(f"{family.names['head']}.")


def _for_images(params: Any, model: Any, before: Any) -> Any:
    """Return the parameters with position encodings for the images of `model`, not of `before`."""
    old, new = (one.image // one.patch for one in (before, model))
    # transformers antialiases only in models with registers.
    smoothed = getattr(model, "registers", 0) > 0

    def fitted(path: paths.Path, w: jax.Array) -> jax.Array:
        if path[:-1] != model.patch_positions:
            return w
        grid = w[1:].reshape(old, old, -1)
        if smoothed:
            grid = jax.image.resize(grid, (new, new, grid.shape[-1]), "cubic")
        else:
            grid = upsample(grid, (new, new), "bicubic")
        return jnp.concatenate([w[:1], grid.reshape(new * new, -1)])

    return paths.map_with_path(fitted, params)


class ImageClassifier(Published):
    """Base of published models from images to logits, or to features without their head."""

    def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shape and type of a batch of one image."""
        side = getattr(self, "image", 224)
        return (jax.ShapeDtypeStruct((1, side, side, 3), "float32"),)

    def outputs_of(self, params: Any) -> tuple[int | None, ...]:
        """Return the number of classes; None without a head."""
        return (len(params["head"]["b"]) if params.get("head") else None,)


Find = Callable[[str], Path | None]


def find_files(path_or_name: str | os.PathLike[str]) -> tuple[Find, Path | None]:
    """Return a function that finds files of a checkpoint, and the weights file if it was passed.

    Args:
        path_or_name: A folder, a safetensors file, or the name of a repository.
    """
    path_like(path_or_name, "path_or_name")
    path = Path(path_or_name)
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise FileError(f"{path}: {_PICKLED}")
    if path.is_file():
        return _in_folder(path.parent), path
    if path.is_dir():
        return _in_folder(path), None
    if path.suffix == ".safetensors" or not _NAME.fullmatch(os.fspath(path_or_name)):
        raise FileNotFoundError(f"{path}: there is no such folder or safetensors file")
    return _on_hub(os.fspath(path_or_name)), None


def _in_folder(folder: Path) -> Find:
    return lambda name: file if (file := folder / name).is_file() else None


def _on_hub(name: str) -> Find:
    """Return a function that downloads a file of a repository, or returns None if it is absent."""
    purpose = f"there is no folder {name!r}, and a model of that name is downloaded by"
    hub = required("huggingface_hub", purpose, "huggingface_hub", "hub")
    errors = required("huggingface_hub.errors", purpose, "huggingface_hub", "hub")

    def find(file: str) -> Path | None:
        try:
            return Path(hub.hf_hub_download(name, file))
        except Exception as error:
            absent = isinstance(error, errors.EntryNotFoundError)
            if absent and not isinstance(error, errors.LocalEntryNotFoundError):
                return None
            raise FileNotFoundError(
                f"there is no folder {name!r}, and {file} of the hub's repository of that name "
                f"cannot be downloaded ({type(error).__name__}: {str(error)[:200]}); download "
                f"config.json and the *.safetensors files of {name} into a folder, for example "
                "on another machine, and pass the path of that folder"
            ) from error

    return find


_PICKLED = (
    "a pickle runs code when it is read, so it is not opened; load the model by transformers and "
    "write model.save_pretrained(folder), which writes safetensors"
)


def found_file(find: Find, name: str, where: Any) -> Path:
    """Return a file of a checkpoint, or raise FileNotFoundError.

    Args:
        find: Function that finds the files.
        name: The name of the file.
        where: The checkpoint, for the error.
    """
    file = find(name)
    if file is None:
        raise FileNotFoundError(f"{where}: there is no {name}, which is required")
    return file


def _weight_files(find: Find, where: Any) -> list[Path]:
    """Return the safetensors files of a checkpoint."""
    if (single := find(SINGLE)) is not None:
        return [single]
    if (index := find(INDEX)) is not None:
        plain = read_json(index, LONGEST_HEADER)
        shards = plain.get("weight_map") if isinstance(plain, dict) else None
        if not isinstance(shards, dict) or not all(map(_is_file_name, shards.values())):
            raise FileError(f"{index}: expected a weight_map from names of arrays to file names")
        return [found_file(find, name, where) for name in sorted(set(shards.values()))]
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if find(name) is not None:
            raise FileError(f"{where}: has {name} and no {SINGLE}; {_PICKLED}")
    raise FileNotFoundError(f"{where}: has neither {SINGLE} nor {INDEX}")


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and os.path.basename(name) == name


def _arrays(files: list[Path]) -> Mapping[str, np.ndarray[Any, Any]]:
    """Return the arrays of safetensors files by name, which are read when they are used."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for file in files:
        with open_arrays(file) as opened:
            for name, entry in opened.entries.items():
                if name in found:
                    raise FileError(f"{file}: has {name}, which another file has, too")
                empty = 0 in entry.shape
                found[name] = (
                    opened.read(name)
                    if empty
                    else np.memmap(file, entry.dtype, "r", entry.begin, entry.shape or (1,))
                )
                if not entry.shape:
                    found[name] = found[name].reshape(())
    return found
