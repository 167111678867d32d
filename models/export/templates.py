"""Records how transformers renders and tokenises chat templates, for the daemon's tests.

    target/export-env/bin/python models/export/templates.py [GOLDEN_DIR]

Writes GOLDEN_DIR/templates.json (tests/golden by default). The templates below were written for this
purpose, each in the manner of a family's published one or to use what such templates use; the texts
and token ids are those of LlavaProcessor.apply_chat_template, with the small tokenizers of the
golden set, to which the tokens are added that a LLaVA's tokenizer has.

A case is a package: `files` (text or JSON; without a template, the family's is meant) and one of
`tokenizers`. Each of its prompts is the last `question` after `past`, with the instruction where
`instructed`. `text` and `ids` are exact, but for today's date, which is `strftime.now`; -200 stands
for the picture's tokens.
"""

import argparse
import copy
import datetime
import json
import sys
from pathlib import Path
from unittest import mock

import jinja2
import tokenizers
import transformers
from PIL import Image
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

MARKER = -200
NOW = datetime.datetime(2026, 3, 5, 7, 8, 9)
INSTRUCTION = "Answer in one short sentence."
# The questions, in order. Some templates trim them, and JSON must escape them.
QUESTIONS = ["What happens at the gate?", '  Is "anyone" there?\n猫 <b>🐱</b> ']
ANSWER = "A red car stops."

# The parts of each tokenizer: a folder of tokenizers/, added tokens, replaced parts.
TOKENIZERS = {
    "llama": {"base": "llama_bos", "add": ["<image>"], "set": {}},
    # `<image>` is not a token of these, so the text is split there.
    "llama_without_image": {"base": "llama_bos", "add": [], "set": {}},
    # The space before a text, but not before what follows a token.
    "llama_first": {
        "base": "llama_bos",
        "add": ["<image>"],
        "set": {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        },
    },
    "llama_vision": {"base": "llama_bos", "add": ["<|vision|>"], "set": {}},
    "llama_3": {
        "base": "llama_bos",
        "add": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"],
        "set": {},
    },
    "chatml": {"base": "chatml_nobos_legacy", "add": ["<image>"], "set": {}},
}
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}, "pad_token": None}
CHATML_TOKENS = {"bos_token": None, "eos_token": "<|im_end|>"}

VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
)

# The images of a message, then its text, as in the processors' templates.
LLAVA_15 = """\
{% for message in messages %}
{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}
{# pictures first #}
{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}
{% if message['role'] != 'assistant' %}
  {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}
{{ part['text'] + ' ' }}{% endfor %}
{% else %}
  {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}
    {% generation %}
{{ part['text'] + ' ' }}{% endgeneration %}{% endfor %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

NEXT_VICUNA = """\
{%- if messages[0]['role'] == 'system' -%}
    {{- messages[0]['content'][0]['text'] + ' ' -}}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {{- "@SYSTEM@" -}}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {{- message.role | upper ~ ': ' -}}
    {%- for part in message.content if part.type == 'image' -%}{{- '<image>\n' -}}{%- endfor -%}
    {%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
    {{- eos_token if message.role == 'assistant' else ' ' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
""".replace("@SYSTEM@", VICUNA_SYSTEM)

NEXT_MISTRAL = """\
{% for message in messages %}{% if message['role'] not in ['user', 'assistant'] %}\
{{ raise_exception('Only user and assistant speak here, not ' ~ message['role']) }}\
{% elif message['role'] == 'user' %}{{ '[INST] ' }}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ ' [/INST]' }}\
{% else %}{{ ' ' + message['content'][0]['text'] + eos_token }}{% endif %}{% endfor %}"""

YI = """\
{% if not messages or messages[0].role != 'system' %}{{ '<|im_start|>system\\nAnswer the questions.<|im_end|>' }}\
{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN_2 = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- '<image>\\n' }}
            {%- elif 'text' in part %}
                {%- if message.role == 'assistant' %}
                    {%- generation -%}{{ part.text }}{%- endgeneration -%}
                {%- else %}
                    {{- part.text }}
                {%- endif %}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

ONEVISION = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}\
{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}\
{% if message['role'] != 'assistant' %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ '\\n' + part['text'] }}{% endfor %}{% else %}{% for part in message['content'] | rejectattr('type', 'eq', 'image') %}\
{% generation %}{{ '\\n' + part['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{ '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# The system message goes into the first question; BOS is written before every question.
LLAMA_2 = """\
{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set turns = messages %}{% set system = false %}{% endif %}\
{% for message in turns %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate: user, assistant, user') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}\
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{#- The first message may be the system's. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'][0]['text'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- else %}
        {%- for content in message['content'] %}
            {%- if content['type'] == 'image' %}{{- '<image>' }}
            {%- elif content['type'] == 'text' %}{{- content['text'] | trim }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Without a system message of its own, or with that of the training.
LLAMA_3_LLAVA = """\
{% for message in messages %}{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}\
{% for part in message.content %}{{ '<image>\\n' if part.type == 'image' else part.text }}{% endfor %}\
{{ '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
LLAMA_3_NEXT = (
    """\
{% if messages[0].role != 'system' %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\
You are a helpful language and vision assistant. You are able to understand the visual content that the \
user provides, and assist the user with a variety of tasks using natural language.<|eot_id|>{% endif %}\
"""
    + LLAMA_3_LLAVA
)

# Everything that a template may use and the ones above do not.
MANNERS = """\
{%- set state = namespace(system=none, turns=0, last='') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{%- set state.system = message -%}{%- continue -%}{%- endif -%}
  {%- set state.turns = state.turns + 1 -%}
{%- endfor -%}
{%- for message in messages[::-1] -%}
  {%- if message.role == 'user' -%}{%- set state.last = message.content -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{%- macro speak(role, words='') -%}
  [{{ role | capitalize }}] {{ words if words else '(nothing)' }}
{%- endmacro -%}
{%- if state.system is not none -%}
  {{- state.system | tojson }} {{ state.system | tojson(indent=2) }}
{{ {'b': [1, 2.5, true, none], 'a': {}} | tojson(sort_keys=true, separators=(',', ':')) }}
{% endif -%}
{{ 'turns: %d' | format(state.turns) if state.turns is number }}, {{ "{}".format(state.turns) }}, {{ [none, true, state.turns] }}
{% for message in messages if message.role != 'system' %}
    {% set words = message.content.split('\\n') %}
    {%+ set head = words[0] %}
{{ loop.index }}/{{ loop.length }} {{ speak(message.role, message['content'].rstrip()) }}
  {%- if loop.last %} ({{ head | length }} letters, {{ words | length }} lines{{ ', anyone' if 'anyone' in head }}){% endif %}

{% endfor %}
{% for key, value in {'one': 1, 'two': 2}.items() %}{{ key.upper() }}={{ value }}{{ ';' if not loop.last }}{% endfor %}
{% filter upper %}{{ state.last[:4].lstrip() }}{% endfilter %} {{ ['a', 'b'] | join('+') }} {{ state.last.startswith('  ') }}
{%- set tail %}
 {{ missing | default('nobody') }}: {{ missing }}{{ missing is defined }} {{ 'a-b'.replace('-', ' ').title() }}
{% endset %}
{{ tail | trim }}{{ 7 // 2 }}{{ 2 ** 3 }}{{ 1 / 2 }} {{ (1, 'x') | last }}{{ [3, 1, 2] | sort | first }} {{ range(3) | list }}
{% if add_generation_prompt %}>{% endif %}
"""

# The system message is text, the questions are lists of parts.
MIXED = """\
{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content + '\\n' }}{% else %}\
{{ '### ' + message.role + '\\n' }}{% for part in message.content %}{% if part.type == 'image' %}{{ '<|vision|>' }}\
{% else %}{{ part.text }}{% endif %}{% endfor %}{{ '\\n' }}{% endif %}{% endfor %}{{ '### assistant\\n' }}"""

LLAVA = {"model_type": "llava", "text_config": {"model_type": "llama"}}
NEXT = {"model_type": "llava_next", "text_config": {"model_type": "llama"}}
MISTRAL = {"model_type": "llava_next", "text_config": {"model_type": "mistral"}}
QWEN = {"model_type": "llava_onevision", "text_config": {"model_type": "qwen2"}}


def case(name, template, tokenizer, model=LLAVA, file="chat_template.jinja", content="parts", system="parts", **more):
    """Records one case. `content` and `system` say how messages are written.

    With system "question" the system message stands before the first question.
    """
    return {
        "id": name,
        "template": template,
        "file": file,
        "tokenizer": tokenizer,
        "tokens": CHATML_TOKENS if tokenizer == "chatml" else LLAMA_TOKENS,
        "model": model,
        "content": content,
        "system": system,
        "history": True,
        **more,
    }


CASES = [
    case("llava-1.5", LLAVA_15, "llama", file="chat_template.json"),
    case("llava-1.5, no image token", LLAVA_15, "llama_without_image", file="chat_template.json"),
    case("llava-1.5, metaspace", LLAVA_15, "llama_first"),
    case("next-vicuna", NEXT_VICUNA, "llama", NEXT, file="processor_config.json"),
    case("next-mistral", NEXT_MISTRAL, "llama", MISTRAL, system="question"),
    case("next-mistral, metaspace", NEXT_MISTRAL, "llama_first", MISTRAL, system="question"),
    case("yi", YI, "chatml", NEXT, file="tokenizer_config.json", content="text", system="text"),
    case("qwen-2", QWEN_2, "chatml", QWEN),
    case("onevision", ONEVISION, "chatml", QWEN, file="chat_template.json"),
    case("llama-2", LLAMA_2, "llama", file="tokenizer_config.json", content="text", system="text"),
    case("llama-2, no bos", LLAMA_2, "chatml", file="tokenizer_config.json", content="text", system="text",
         tokens={"bos_token": "<s>", "eos_token": "</s>"}),
    case("llama-3", LLAMA_3, "llama_3"),
    case("manners", MANNERS, "llama", content="text", system="text"),
    case("mixed, another image token", MIXED, "llama_vision", system="text"),
    case("list", QWEN_2, "llama", file="tokenizer_config.json, a list"),
    # The package has none, so the family's template must render the same.
    case("llava-1.5, family", LLAVA_15, "llama", file=None, history=False),
    case("bakllava, family", LLAVA_15, "llama", {"model_type": "llava", "text_config": {"model_type": "mistral"}},
         file=None, history=False),
    case("next-vicuna, family", NEXT_VICUNA, "llama", NEXT, file=None),
    case("next-mistral, family", NEXT_MISTRAL, "llama", MISTRAL, file=None, system="question"),
    case("yi, family", YI, "chatml", NEXT, file=None, content="text", system="text"),
    case("qwen-2, family", QWEN_2, "chatml", QWEN, file=None),
    case("llama-3, family", LLAMA_3_LLAVA, "llama_3", file=None),
    case("next-llama-3, family", LLAMA_3_NEXT, "llama_3", NEXT, file=None),
    case("interleave, family", QWEN_2, "chatml", {"model_type": "llava", "text_config": {"model_type": "qwen2"}}, file=None),
]  # fmt: skip


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("golden", type=Path, nargs="?", default=Path("tests/golden"))
    golden = parser.parse_args().golden
    with mock.patch.object(chat_template_utils, "datetime", FixedDatetime):
        cases = [record(golden, case) for case in CASES]
    formats = ["%d %b %Y", "%A, %B %-d", "%Y-%m-%d %H:%M:%S", "%I:%M %p", "%a %j %y %%", "%e"]
    whole = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "instruction": INSTRUCTION,
        "tokenizers": TOKENIZERS,
        "strftime": {"now": NOW.isoformat(), "formats": {f: NOW.strftime(f) for f in formats}},
        "cases": cases,
    }
    text = json.dumps(whole, ensure_ascii=False, indent=1)
    (golden / "templates.json").write_text(text + "\n", encoding="utf-8")
    print(f"{golden / 'templates.json'}: {len(cases)} cases, {sum(len(c['prompts']) for c in cases)} prompts")
    return 0


def record(golden: Path, case: dict) -> dict:
    processor, image = processor_of(golden, case)
    config = {**case["model"], "image_token_id": processor.image_token_id}
    prompts = []
    for past in [0, 1] if case["history"] else [0]:
        for instruction in ["", INSTRUCTION]:
            text, ids = rendered(processor, case, messages(case, image, past, instruction))
            exchanges = [{"question": question, "answer": ANSWER} for question in QUESTIONS[:past]]
            prompts.append(
                {
                    "past": exchanges,
                    "question": QUESTIONS[past],
                    "instructed": bool(instruction),
                    "text": text,
                    "ids": ids,
                }
            )
    return {
        "id": case["id"],
        "tokenizer": case["tokenizer"],
        "files": {"config.json": config, **template_files(case)},
        "prompts": prompts,
    }


def template_files(case: dict) -> dict:
    """Returns the template files of the package: text, or JSON."""
    tokenizer_config = {**case["tokens"], "tokenizer_class": "PreTrainedTokenizerFast"}
    template, files = case["template"], {"tokenizer_config.json": tokenizer_config}
    match case["file"]:
        case None:
            pass
        case "chat_template.jinja":
            files["chat_template.jinja"] = template
            # The one in its own file counts.
            tokenizer_config["chat_template"] = "another"
        case "tokenizer_config.json":
            tokenizer_config["chat_template"] = template
        case "tokenizer_config.json, a list":
            named = [("tool_use", "{{ raise_exception('another') }}"), ("default", template)]
            tokenizer_config["chat_template"] = [{"name": name, "template": text} for name, text in named]
        case name:
            files[name] = {"chat_template": template}
    return files


def messages(case: dict, image: str, past: int, instruction: str) -> list[dict]:
    def content(words: str, style: str, picture: bool = False):
        if style == "text":
            return f"{image}\n{words}" if picture else words
        pictures = [{"type": "image", "image": Image.new("RGB", (28, 28))}] if picture else []
        return [*pictures, {"type": "text", "text": words}]

    chat, questions = [], QUESTIONS[: past + 1]
    if instruction and case["system"] == "question":
        questions = [f"{instruction}\n\n{questions[0]}", *questions[1:]]
    elif instruction:
        chat.append({"role": "system", "content": content(instruction, case["system"])})
    for at, question in enumerate(questions):
        chat.append({"role": "user", "content": content(question, case["content"], picture=at == 0)})
        if at < past:
            chat.append({"role": "assistant", "content": content(ANSWER, case["content"])})
    return chat


def rendered(processor: LlavaProcessor, case: dict, chat: list[dict]) -> tuple[str, list[int]]:
    options = {"chat_template": case["template"], "add_generation_prompt": True}
    text = processor.apply_chat_template(copy.deepcopy(chat), **options)
    pictures = {"images": [Image.new("RGB", (28, 28))]} if case["content"] == "text" else {}
    ids = processor.apply_chat_template(
        copy.deepcopy(chat), tokenize=True, return_dict=True, processor_kwargs=pictures, **options
    )["input_ids"]
    ids = ids[0] if isinstance(ids[0], list) else ids
    marked = []
    for token in ids:
        if token != processor.image_token_id:
            marked.append(token)
        elif marked[-1:] != [MARKER]:
            marked.append(MARKER)
    assert ids.count(processor.image_token_id) == 4 and marked.count(MARKER) == 1, (case["id"], ids)
    return text, marked


def processor_of(golden: Path, case: dict) -> tuple[LlavaProcessor, str]:
    recipe = TOKENIZERS[case["tokenizer"]]
    raw = json.loads((golden / "tokenizers" / recipe["base"] / "tokenizer.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**raw, **recipe["set"]}))
    # A processor needs a token for the picture, whether the daemon's tokenizer.json has it or not.
    added = recipe["add"] or ["<image>"]
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in added])
    named = {key: token["content"] if isinstance(token, dict) else token for key, token in case["tokens"].items()}
    named = {key: token for key, token in named.items() if token}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    sample = "a b"
    assert fast(sample)["input_ids"] == tokenizer.encode(sample).ids, "transformers changes the tokenizer"
    picture = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return LlavaProcessor(picture, fast, patch_size=14, num_additional_image_tokens=1,
                          vision_feature_select_strategy="default", image_token=added[-1]), added[-1]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
