"""Tokenizers: padding, truncation, pairs, decoding, and chat templates; also of transformers."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

tokenizers = pytest.importorskip("tokenizers")

from jaxnn.models import Tokenizer  # noqa: E402

TEXTS = [
    "the cat sat on the mat",
    "a cat!",
    "What's this, then? It isn't <b>bold</b>.",
    "the mat " * 9,
    "",
    "Zürich 12,345",
]
CHAT = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {%- if message.role not in ('user', 'assistant') %}"
    "{{ raise_exception('no ' + message.role) }}{% endif %}\n"
    "<{{ message.role }}>{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{% endgeneration %}{% else %}{{ message.content | trim }}{% endif %}{{ eos_token }}\n"
    "{% if loop.index > 8 %}{% break %}{% endif %}\n"
    "{% endfor %}\n"
    "{% if tools %}{{ tools | tojson }}{% endif %}\n"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MESSAGES = [
    {"role": "user", "content": " What is 2 < 3? "},
    {"role": "assistant", "content": "Ünderstood: true."},
]


def wordpiece() -> Any:
    """A tokenizer as that of BERT, trained on the texts."""
    found = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    found.normalizer = tokenizers.normalizers.BertNormalizer()
    found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    found.decoder = tokenizers.decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=60, special_tokens=special, show_progress=False
    )
    found.train_from_iterator(TEXTS, trainer)
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # Files may ask for padding and truncation, which the arguments of a call replace.
    found.enable_padding(length=64)
    found.enable_truncation(5)
    return found


def bytewise() -> Any:
    """A tokenizer as that of GPT-2 or LLaMA 3, trained on the texts."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(TEXTS, trainer)
    return found


FOLDERS = {
    "wordpiece": (
        wordpiece,
        {"pad_token": "[PAD]", "cls_token": "[CLS]", "clean_up_tokenization_spaces": True},
    ),
    "bytewise": (
        bytewise,
        {
            "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
            "eos_token": "</s>",
            "pad_token": "</s>",
            "padding_side": "left",
            "chat_template": CHAT,
            "clean_up_tokenization_spaces": True,
        },
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each tokenizer, as transformers writes them."""
    where = tmp_path_factory.mktemp("tokenizers")
    for name, (make, config) in FOLDERS.items():
        (where / name).mkdir()
        make().save(str(where / name / "tokenizer.json"))
        text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config)
        (where / name / "tokenizer_config.json").write_text(text)
    return where


def test_rows_are_padded_and_truncated(folder: Path):
    tokenizer = Tokenizer.from_pretrained(folder / "wordpiece")
    found = tokenizer(TEXTS)
    assert found.tokens.dtype == np.int32 and found.tokens.shape == found.segment_ids.shape
    for row, mask in zip(found.tokens, found.segment_ids, strict=True):
        n = int(mask.sum())
        assert mask.tolist() == [1] * n + [0] * (len(mask) - n)
        assert row[0] == 2 and row[n - 1] == 3 and not row[n:].any()
    assert found.segment_ids[4].sum() == 2  # [CLS] [SEP]
    short = tokenizer(TEXTS, length=6, pad_to=8)
    assert short.tokens.shape == (6, 8) and short.segment_ids.sum(1).max() == 6
    assert short.tokens[3, 5] == 3  # the last special token is kept
    with pytest.raises(ValueError, match=r"pad_to must be at least \d+, .* got 4; write length=4"):
        tokenizer(TEXTS, pad_to=4)
    with pytest.raises(TypeError, match=r"texts must be a text of type str, or a list .* got 5"):
        tokenizer(5)  # type: ignore[arg-type]
    one = tokenizer(TEXTS[1])
    np.testing.assert_array_equal(one.tokens, found.tokens[1, : len(one.tokens)])


def test_pairs_have_token_types(folder: Path):
    tokenizer = Tokenizer.from_pretrained(folder / "wordpiece")
    found = tokenizer("a cat", "the mat")
    first = found.tokens.tolist().index(3) + 1
    assert found.token_types.tolist() == [0] * first + [1] * (len(found.tokens) - first)
    assert tokenizer.decode(found.tokens) == "a cat the mat"
    text = r"the number of pairs must be 2, one for each text, got 1; write tokenizer\(\['a', 'b'\]"
    with pytest.raises(ValueError, match=text):
        tokenizer(["a", "b"], ["c"])


def test_texts_are_decoded(folder: Path):
    tokenizer = Tokenizer.from_pretrained(folder / "bytewise")
    found = tokenizer(TEXTS)
    assert found.segment_ids[1, 0] == 0 and found.segment_ids[1, -1] == 1  # on the left
    assert tokenizer.decode(jnp.asarray(found.tokens)) == TEXTS
    assert tokenizer.decode(found.tokens[1].tolist()) == TEXTS[1]
    ragged = [row[mask == 1] for row, mask in zip(found.tokens, found.segment_ids, strict=True)]
    assert tokenizer.decode(ragged[:2]) == TEXTS[:2]
    assert tokenizer.decode([0, 1], skip_special_tokens=False) == "<s></s>"
    assert len(tokenizer) == 280 and tokenizer.end == 1 and tokenizer.padding == 1


def test_chat_template(folder: Path):
    tokenizer = Tokenizer.from_pretrained(folder / "bytewise")
    text = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert text == "<s><user>What is 2 < 3?</s>\n<assistant>Ünderstood: true.</s>\n<assistant>"
    with pytest.raises(ValueError, match=r"rejects the messages: .*concatenate str"):
        tokenizer.apply_chat_template(MESSAGES, template="{{ messages[0].content + none }}")
    tools = tokenizer.apply_chat_template(MESSAGES[:1], tools=[{"name": "ü<"}])
    assert tools.endswith('[{"name": "ü<"}]')
    with pytest.raises(ValueError, match="the chat template rejects the messages: no system"):
        tokenizer.apply_chat_template([{"role": "system", "content": ""}])
    with pytest.raises(
        ValueError, match=r"has no chat template 'tools', only \['default'\]; write"
    ):
        tokenizer.apply_chat_template(MESSAGES, template="tools")
    plain = Tokenizer.from_pretrained(folder / "wordpiece")
    with pytest.raises(ValueError, match=r"has no chat template; write template='\{% for message"):
        plain.apply_chat_template(MESSAGES)
    plain.config["chat_template"] = [{"name": "default"}]
    text = r"chat_template of the tokenizer's config must be a text, or a list of dicts with the "
    with pytest.raises(ValueError, match=text + r"texts 'name' and 'template', got \[\{'name'"):
        plain.apply_chat_template(MESSAGES)
    number: Any = 5
    with pytest.raises(TypeError, match="template must be None or the name or the text of a temp"):
        plain.apply_chat_template(MESSAGES, template=number)


@pytest.mark.parametrize("tokens", [[-100, 1], [[1, 2], [1.5, 2]], ["a", "b"], "ab", 5, [[[1]], 2]])
def test_only_tokens_are_decoded(tokens: Any):
    text = r"tokens must be integers >= 0, \(T,\) or rows of them, got .*; write tokenizer.decode"
    with pytest.raises(ValueError, match=text):
        Tokenizer(wordpiece()).decode(tokens)


INSIDE: Any = {"role": "user"}
INSIDE["content"] = INSIDE


@pytest.mark.parametrize(
    "messages, variables, text",
    [
        (
            [*MESSAGES, {"role": "user", "content": np.ones(2)}],
            {},
            rf"messages\[{len(MESSAGES)}\] must be a dict of plain JSON, got .*float64\[2\].*; "
            r"write \{'role': 'user', 'content': 'Hello'\}",
        ),
        ([INSIDE], {}, r"messages\[0\] must be a dict of plain JSON, got "),
        ([MESSAGES], {}, r"messages\[0\] must be a dict of plain JSON, got \[\{"),
        (
            "Hello",
            {},
            r"messages must be a list of messages, got 'Hello'; write \[\{'role': 'user'",
        ),
        (
            MESSAGES,
            {"tools": [len]},
            r"tools must be plain JSON: dicts with text keys, lists, .* or None, got .*; convert "
            r"arrays by .tolist\(\), and functions and other tools to their JSON schemas",
        ),
    ],
)
def test_arguments_of_a_template_are_plain_json(messages: Any, variables: Any, text: str):
    with pytest.raises(TypeError, match=text):
        Tokenizer(wordpiece()).apply_chat_template(messages, template="{{ messages }}", **variables)


def test_several_templates_and_a_file(folder: Path, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "bytewise" / "tokenizer.json").read_bytes())
    several = [
        {"name": "default", "template": "a"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": several}))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template([]) == "a"
    assert tokenizer.apply_chat_template([], tools=[1]) == "[1]"
    assert tokenizer.apply_chat_template([], template="{{ messages | length }}") == "0"
    (tmp_path / "chat_template.jinja").write_text("from a file")
    assert Tokenizer.from_pretrained(tmp_path).apply_chat_template([]) == "from a file"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ dict.__base__.__subclasses__() }}",
        "{{ strftime_now.__code__.co_code }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n.__init__ = 1 %}",
        "{% set x = cycler.__init__.__globals__.os.popen('id') %}",
    ],
)
def test_templates_cannot_leave_the_sandbox(folder: Path, attack: str):
    tokenizer = Tokenizer.from_pretrained(folder / "bytewise")
    with pytest.raises(ValueError, match="the chat template rejects the messages: "):
        tokenizer.apply_chat_template(MESSAGES, template=attack)


def test_files_that_are_missing_or_broken(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: "):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_are_those_of_transformers(folder: Path, name: str):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder / name)
    ours = Tokenizer.from_pretrained(folder / name)
    for options in ({}, {"max_length": 7, "truncation": True}):
        wanted = theirs(TEXTS, padding=True, return_tensors="np", **options)
        found = ours(TEXTS, length=options.get("max_length"))
        np.testing.assert_array_equal(found.tokens, wanted["input_ids"])
        np.testing.assert_array_equal(found.segment_ids, wanted["attention_mask"])
    pairs = theirs(
        TEXTS, TEXTS[::-1], padding=True, return_tensors="np", max_length=9, truncation=True
    )
    found = ours(TEXTS, TEXTS[::-1], length=9)
    np.testing.assert_array_equal(found.tokens, pairs["input_ids"])
    if "token_type_ids" in pairs:
        np.testing.assert_array_equal(found.token_types, pairs["token_type_ids"])
    for special in (False, True):
        wanted = theirs.batch_decode(pairs["input_ids"], skip_special_tokens=special)
        assert ours.decode(found.tokens, skip_special_tokens=special) == wanted
    if theirs.chat_template:
        several: list[dict[str, Any]] = [{}, {"add_generation_prompt": True}]
        several.append({"tools": [{"name": "ü<"}]})
        for options in several:
            wanted = theirs.apply_chat_template(MESSAGES, tokenize=False, **options)
            assert ours.apply_chat_template(MESSAGES, **options) == wanted
