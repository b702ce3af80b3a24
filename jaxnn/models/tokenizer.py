"""Tokenizers of published models, by the library `tokenizers`, and chat templates, by `jinja2`."""

import datetime
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files.reading import FileError, read_bytes, read_json
from ..installation import required
from ..train.weights import LONGEST_HEADER
from ..validation import Accepts, instance, positive, require
from .pretrained import find_files, found_file

_PURPOSE = "the tokenizers of published models are read by"
_texts = Accepts(
    "a text of type str, or a list of texts",
    lambda v: (
        isinstance(v, str)
        or (isinstance(v, list | tuple) and all(isinstance(text, str) for text in v))
    ),
    TypeError,
)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # another type, or a value inside of itself
        return False
    return True


def _is_named(one: Any) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("name", "template"))


def _are_tokens(value: Any) -> bool:
    tokens = np.asarray(value)
    return tokens.ndim == 1 and (
        tokens.size == 0 or bool(np.issubdtype(tokens.dtype, np.integer) and tokens.min() >= 0)
    )


_tokens = Accepts(
    "integers >= 0, (T,) or rows of them",
    _are_tokens,
    hint="write tokenizer.decode(found.tokens), and np.where(labels < 0, 0, labels) for labels",
)
_templates = Accepts(
    "a text, or a list of dicts with the texts 'name' and 'template'",
    lambda v: isinstance(v, str) or (isinstance(v, list) and all(map(_is_named, v))),
)
_template = None | instance(str, "the name or the text of a template")
_plain_json = Accepts(
    "plain JSON: dicts with text keys, lists, texts, numbers, True, False, or None",
    _is_json,
    TypeError,
    "convert arrays by .tolist(), and functions and other tools to their JSON schemas",
)
_message = Accepts(
    "a dict of plain JSON",
    lambda v: isinstance(v, dict) and _is_json(v),
    TypeError,
    "write {{'role': 'user', 'content': 'Hello'}}",
)
_list = instance(
    (list, tuple), "a list of messages", "write [{{'role': 'user', 'content': 'Hello'}}]"
)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
_SPECIAL += ("mask_token",)


class Tokens(NamedTuple):
    """Tokens of texts as int32 arrays (rows, T), or (T,) for a single text.

    Args:
        tokens: The tokens, filled with the padding token, or with 0 if the tokenizer has none.
        segment_ids: 1 at tokens and 0 at padding, the named input of the layers.
        token_types: 0, and 1 for the second text of a pair, if the tokenizer distinguishes them.
    """

    tokens: np.ndarray[Any, Any]
    segment_ids: np.ndarray[Any, Any]
    token_types: np.ndarray[Any, Any]


class Tokenizer:
    """Conversion of texts to tokens and back, as by the tokenizer of a published model.

    A call with texts returns `Tokens`, a named tuple of arrays. `apply_chat_template` converts a
    conversation to text in the format on which the model was trained.

    Args:
        backend: A `tokenizers.Tokenizer`; its padding and truncation are turned off.
        config: The contents of tokenizer_config.json, of which the special tokens, the sides of
            padding and truncation, and the chat template are used. Default: {}.

    Attributes:
        special_tokens: The special tokens as texts, such as "pad_token", by name.
        padding: The padding token, an integer; 0 if the vocabulary has none.
        end: The end token, an integer; None if the vocabulary has none.

    >>> import tokenizers
    >>> from tokenizers.models import WordLevel
    >>> words = tokenizers.Tokenizer(WordLevel({"[PAD]": 0, "a": 1, "b": 2}))
    >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    >>> _ = words.add_special_tokens(["[PAD]"])
    >>> tokenizer = Tokenizer(words, {"pad_token": "[PAD]"})
    >>> found = tokenizer(["a b a", "b"])
    >>> found.tokens.tolist(), found.segment_ids.tolist()
    ([[1, 2, 1], [2, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    >>> tokenizer.decode(found.tokens)
    ['a b a', 'b']
    """

    def __init__(self, backend: Any, config: Mapping[str, Any] | None = None) -> None:
        self.backend = backend
        self.config: dict[str, Any] = dict(config or {})
        backend.no_padding()
        backend.no_truncation()
        self.special_tokens: dict[str, str] = {}
        for name in _SPECIAL:
            token = self.config.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                self.special_tokens[name] = token
        self.padding: int = self._number("pad_token") or 0
        self.end: int | None = self._number("eos_token")

    def _number(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)

    @classmethod
    def from_pretrained(cls, path_or_name: str | os.PathLike[str]) -> "Tokenizer":
        """Load tokenizer.json, and the settings and chat template next to it, if there are any.

        Args:
            path_or_name: A folder, or the name of a repository on the Hugging Face Hub, as for the
                models.

        Raises:
            FileNotFoundError: There is no tokenizer.json, or it cannot be downloaded.
            ValueError: A file is not valid.
            ImportError: If `tokenizers` is not installed.
        """
        tokenizers = required("tokenizers", _PURPOSE, "tokenizers", "hub")
        find, _ = find_files(path_or_name)
        file = found_file(find, "tokenizer.json", path_or_name)
        backend = _parsed(file, tokenizers.Tokenizer.from_str)
        settings = find("tokenizer_config.json")
        config = {} if settings is None else read_json(settings)
        wanted = "a dict of settings"
        require(isinstance(config, dict), str(settings), wanted, config, error=FileError)
        if (template := find("chat_template.jinja")) is not None:
            config["chat_template"] = _parsed(template, str)
        return cls(backend, config)

    def __len__(self) -> int:
        """Return the number of tokens of the vocabulary, special tokens included."""
        return self.backend.get_vocab_size()

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        length: int | None = None,
        pad_to: int | None = None,
        add_special_tokens: bool = True,
    ) -> Tokens:
        """Return the tokens of texts, in rows that are padded to one length.

        Args:
            texts: A text, or a list of texts.
            pairs: A second text for each one. Default: None.
            length: Largest number of tokens in a row; longer texts are truncated. Default: None,
                for no limit.
            pad_to: Number of tokens in all rows; a compiled network is compiled again for each new
                number. Default: None, that of the longest row.
            add_special_tokens: Whether to add the tokens that the model expects at the start and
                end. Default: True. False for the result of `apply_chat_template`.

        Raises:
            TypeError: If texts are not of type str.
            ValueError: If `pairs` and `texts` differ in number, or if a row exceeds `pad_to`.
        """
        single = isinstance(_texts(texts, "texts"), str)
        inputs: list[Any] = [texts] if single else list(texts)
        if pairs is not None:
            seconds = [pairs] if isinstance(_texts(pairs, "pairs"), str) else list(pairs)
            wanted = f"{len(inputs)}, one for each text"
            hint = "write tokenizer(['a', 'b'], ['pair of a', 'pair of b'])"
            fits = len(seconds) == len(inputs)
            require(fits, "the number of pairs", wanted, len(seconds), hint)
            inputs = list(zip(inputs, seconds, strict=True))
        if length is not None:
            positive(length, "length", hint="write tokenizer(texts, length=128)")
            side = self.config.get("truncation_side", "right")
            self.backend.enable_truncation(length, direction=side)
        try:
            rows = self.backend.encode_batch(inputs, add_special_tokens=add_special_tokens)
        finally:
            self.backend.no_truncation()
        longest = max((len(row.ids) for row in rows), default=0)
        fits = pad_to is None or longest <= positive(pad_to, "pad_to")
        wanted, hint = f"at least {longest}, the tokens of a row", f"write length={pad_to}, too"
        require(fits, "pad_to", wanted, pad_to, hint)
        arrays = np.zeros((3, len(rows), pad_to or longest), np.int32)
        arrays[0] = self.padding
        left = self.config.get("padding_side") == "left"
        for i, row in enumerate(rows):
            n = len(row.ids)
            place = slice(arrays.shape[-1] - n, None) if left else slice(n)
            arrays[:, i, place] = row.ids, row.attention_mask, row.type_ids
        return Tokens(*arrays[:, 0]) if single else Tokens(*arrays)

    def decode(self, tokens: Any, *, skip_special_tokens: bool = True) -> Any:
        """Return the text of tokens (T,), or a list of the texts of (rows, T).

        Args:
            tokens: Integers, an array or a list, or a list of rows of different lengths.
            skip_special_tokens: Whether to leave out tokens such as padding. Default: True.

        Raises:
            ValueError: If tokens are not integers, or negative, as labels to ignore are.
        """
        if np.iterable(tokens) and any(map(np.iterable, tokens)) and not isinstance(tokens, str):
            return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in tokens]
        ids = np.asarray(_tokens(tokens, "tokens")).tolist()
        text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        bytewise = type(self.backend.model).__name__ == "BPE"
        if self.config.get("clean_up_tokenization_spaces") and not bytewise:
            for mark in (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're"):
                text = text.replace(mark, mark[1:])
        return text

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """Return a conversation as text, formatted by the chat template of the model.

        A template is a program of the model's author. It runs in jinja2's sandbox, and sees only
        the arguments, converted to plain JSON, and the special tokens.

        Args:
            messages: The conversation, such as `[{"role": "user", "content": "Hello"}]`.
            add_generation_prompt: Whether the text ends with the start of an answer. Default:
                False.
            template: The name of one of several templates, or the text of a template. Default:
                None, the model's template "tool_use" if `tools` are passed and it has one,
                otherwise its default template.
            **variables: Further variables of the template, such as `tools=[...]`, JSON schemas.

        Raises:
            ValueError: If there is no template, or if it rejects the messages.
            TypeError: If the messages are not a list of dicts, or an argument is not plain JSON.
            ImportError: If jinja2 is not installed.

        >>> import tokenizers
        >>> backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}))
        >>> chat = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        >>> tokenizer = Tokenizer(backend, {"chat_template": chat})
        >>> tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}])
        '<user>Hello'
        """
        _list(messages, "messages")
        for i, message in enumerate(messages):
            _message(message, f"messages[{i}]")
        for name, variable in variables.items():
            _plain_json(variable, name)
        _template(template, "template")
        templates = self.config.get("chat_template") or []
        _templates(templates, "chat_template of the tokenizer's config")
        if isinstance(templates, list):
            templates = {one["name"]: one["template"] for one in templates}
        if isinstance(templates, str):
            templates = {"default": templates}
        if template is None:
            template = "tool_use" if "tools" in variables and "tool_use" in templates else "default"
        source = templates.get(template, template if "{" in template else None)
        if source is None:
            known = f" {template!r}, only {sorted(templates)}" if templates else ""
            raise ValueError(
                f"the tokenizer has no chat template{known}; write "
                "template='{% for message in messages %}...'"
            )
        required("jinja2", "chat templates are rendered by", "jinja2", "hub")
        given = {"messages": list(messages), **variables}
        given["add_generation_prompt"] = add_generation_prompt
        plain = json.loads(json.dumps(given))  # without subclasses, which may have methods
        defaults = {"tools": None, "documents": None, **self.special_tokens}
        try:
            return _environment().from_string(source).render(defaults | plain)
        except Exception as error:  # of the template, which is a program
            raise ValueError(f"the chat template rejects the messages: {error}") from error


@functools.cache
def _environment() -> Any:
    """Return the sandbox of chat templates, with the functions that transformers provides."""
    import jinja2.exceptions
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """The tag `{% generation %}`, which marks answers and does not change the text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Namespace(jinja2.utils.Namespace):
        """The namespace of jinja2 without names that begin with `_`, such as `__class__`."""

        def __init__(*items: Any, **named: Any) -> None:
            self, *rest = items
            checked(dict(*rest, **named))
            jinja2.utils.Namespace.__init__(self, *rest, **named)

        def __setitem__(self, name: str, value: Any) -> None:
            checked([name])
            super().__setitem__(name, value)

    def checked(names: Any) -> None:
        if any(str(name).startswith("_") for name in names):
            raise jinja2.exceptions.SecurityError("names in a namespace must not begin with _")

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    # Functions, because types would also expose their attributes to templates.
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "dict": lambda *items, **named: dict(*items, **named),
        "namespace": Namespace,
    }
    return environment


def _parsed(file: Path, parse: Callable[[str], Any]) -> Any:
    """Return `parse(text)` for the text of a file; FileError if it fails."""
    content = read_bytes(file, LONGEST_HEADER)
    try:
        return parse(content.decode())
    except Exception as error:  # tokenizers raises the class Exception
        raise FileError(f"{file}: {error}") from error
