"""The few lines of transformers that make a model ready for an export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pausedata.exporters.base import Format


def how_to_use(format: Format, pause: dict[str, Any], path: str, split: str) -> str:
    """Python that loads ``split`` of an export and adds the token to ``tokenizer`` and ``model``.

    ``path`` is what the format's layout tells a trainer to read.
    ``pause`` has ``token``, ``id`` and ``id_is_new``, as in the manifest. The code expects
    ``tokenizer`` and ``model`` to be the ones that the export's ids belong to.
    """
    token = quoted(pause["token"])
    lines = [
        "# tokenizer, model: the ones that this dataset was tokenised with",
        *format.layout.usage(path, split),
    ]
    if pause["id_is_new"]:
        lines.append(f"tokenizer.add_tokens([{token}], special_tokens=True)")
    lines.append(f"pause_id = tokenizer.convert_tokens_to_ids({token})")
    lines.append(f"assert pause_id == {pause['id']}  # as in the export")
    if pause["id_is_new"]:
        lines += [
            "if model.get_input_embeddings().num_embeddings < len(tokenizer):",
            "    model.resize_token_embeddings(len(tokenizer))  # the new row: the others' mean",
            "else:  # the matrix is padded: resizing would shrink it, and its row is untrained",
            "    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):",
            "        layer.weight.data[pause_id] = layer.weight.data[:pause_id].mean(dim=0)",
        ]
    return "\n".join(lines)


def quoted(text: str) -> str:
    """A Python string; JSON's escapes are Python's too."""
    return json.dumps(text, ensure_ascii=False)
