"""Chat templates for checkpoints that carry none: the official prompt formats, written as Jinja.

Meta's folders have no template; what they expect is said in the reference code of each release
(https://github.com/meta-llama/llama, codellama, llama3). Every line trims its own whitespace, so
that a template renders the same whatever trim settings the reader uses.
"""

from pathlib import Path

from edgellama.errors import CheckpointRefused, InvalidRequest

MAX_BYTES = 64 << 10

# Each turn is [INST] user [/INST] answer in its own <s>...</s>; the system text opens the first.
_LLAMA2 = r"""
{%- set system = '' -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('user and assistant must take turns, beginning with user') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{%- set content = (system if loop.first else '') + message['content'] -%}
{{- bos_token + '[INST] ' + (content | trim) + ' [/INST]' -}}
{%- else -%}
{{- ' ' + (message['content'] | trim) + ' ' + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

# Every message names its source and ends with <step>; there is always a system message.
_CODELLAMA_70B = r"""
{{- bos_token -}}
{%- if messages[0]['role'] != 'system' -%}
{{- ' Source: system<step>' -}}
{%- endif -%}
{%- for message in messages -%}
{{- ' Source: ' + message['role'] -}}
{%- if message['content'] -%}
{{- '\n\n ' + (message['content'] | trim) -}}
{%- endif -%}
{{- '<step>' -}}
{%- endfor -%}
{{- ' Source: assistant\nDestination: user\n\n ' -}}
"""

_LLAMA3 = r"""
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
{{- (message['content'] | trim) + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""

# As Hugging Face publishes 3.1 and later, but for tools: a system message with dates goes first.
_LLAMA3_DATED = r"""
{%- if date_string is not defined -%}
{%- set date_string = DATE -%}
{%- endif -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] | trim -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' -}}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' -}}
{{- system + '<|eot_id|>' -}}
{%- for message in turns -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
{{- (message['content'] | trim) + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
"""
_FIXED_DATE = "'26 Jul 2024'"  # the default of 3.1
_TODAY = f"strftime_now('%d %b %Y') if strftime_now is defined else {_FIXED_DATE}"

_ALPACA = r"""
{{- bos_token -}}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] -}}
{%- set turns = messages[1:] -%}
{%- else -%}
{{- 'Below is an instruction that describes a task. ' -}}
{{- 'Write a response that appropriately completes the request.' -}}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{{- '\n\n### Instruction:\n' + message['content'] + '\n\n### Response:' -}}
{%- else -%}
{{- message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

_VICUNA = r"""
{{- bos_token -}}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] + ' ' -}}
{%- set turns = messages[1:] -%}
{%- else -%}
{{- 'A chat between a curious user and an artificial intelligence assistant. ' -}}
{{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " -}}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{{- 'USER: ' + message['content'] + ' ASSISTANT:' -}}
{%- else -%}
{{- ' ' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""

TEMPLATES = {
    "llama2": _LLAMA2.strip(),
    "codellama": _LLAMA2.strip(),
    "codellama-70b": _CODELLAMA_70B.strip(),
    "llama3": _LLAMA3.strip(),
    "llama3.1": _LLAMA3_DATED.replace("DATE", _FIXED_DATE).strip(),
    "llama3.2": _LLAMA3_DATED.replace("DATE", _TODAY).strip(),
    "llama3.3": _LLAMA3_DATED.replace("DATE", _FIXED_DATE).strip(),
    "alpaca": _ALPACA.strip(),
    "vicuna": _VICUNA.strip(),
}
NO_TEMPLATE = "none"


def load_template(choice: str) -> str | None:
    """The template of this name or in this file; None for "none"; InvalidRequest for neither."""
    if choice == NO_TEMPLATE:
        return None
    if choice in TEMPLATES:
        return TEMPLATES[choice]
    if not Path(choice).is_file():
        raise InvalidRequest(
            f"chat template {choice!r} is neither a file nor one of {', '.join(TEMPLATES)},"
            f" {NO_TEMPLATE}"
        )
    return read_template(Path(choice))


def read_template(path: Path) -> str:
    """The text of a template file; CheckpointRefused if it is too long or not UTF-8."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise CheckpointRefused(f"{path}: {len(data):,} bytes, a template has {MAX_BYTES:,}")
        return data.decode()
    except OSError as error:
        raise CheckpointRefused(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointRefused(f"{path}: not UTF-8: {error}") from error
