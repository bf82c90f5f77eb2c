"""
Generate the classes of ``kie_async.catalogue``, their index and their pages of the documentation, from ``models.json``.

``python tools/catalogue.py`` writes all files; ``tests/catalogue`` checks that they are written. ``--fetch`` first
brings ``models.json`` up to date with the service.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kie_async.catalogue import _rules  # noqa: E402 (the path comes first)
from kie_async.catalogue._data import models  # noqa: E402
from kie_async.requests import _model  # noqa: E402
from kie_async.requests.wan import Wan22TurboImageToVideo  # noqa: E402
from tools import fetch_models, model_pages  # noqa: E402

CATALOGUE = ROOT / "kie_async" / "catalogue"
PAGES = ROOT / "docs" / "models"
WIDTH = 120

#: The kinds of models that have a class, with what a model of the kind does.
KINDS = {
    "image-to-video": "turns an image into a video",
    "text-to-video": "makes a video of a text",
    "text-or-image-to-video": "makes a video of a text or of images",
    "image+audio-to-video": "makes a video of an image and a sound",
    "image+video-to-video": "makes a video of an image and a video",
    "reference-to-video": "makes a video of references",
    "video-to-video": "changes a video",
    "video-extend": "continues a video",
    "video-upscale": "enlarges a video",
    "text-to-image": "makes an image of a text",
    "image-to-image": "changes an image",
    "text-or-image-to-image": "makes an image of a text or of images",
}

#: The modules of vendors whose models have several vendors in the data, or whose names are not identifiers.
MODULES = {
    "4o": "gpt",
    "flux1": "flux",
    "gemini": "google",
    "nano": "google",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "z": "z_image",
}

#: Class names that do not follow the rule of ``class_name``.
CLASS_NAMES = {
    "4o-image-api": "GPT4oImage",
    "bytedance/v1-lite-image-to-video": "Seedance1LiteImageToVideo",
    "bytedance/v1-lite-text-to-video": "Seedance1LiteTextToVideo",
    "bytedance/v1-pro-fast-image-to-video": "Seedance1ProFastImageToVideo",
    "bytedance/v1-pro-image-to-video": "Seedance1ProImageToVideo",
    "bytedance/v1-pro-text-to-video": "Seedance1ProTextToVideo",
    "veo/get-1080p-video": "VeoUpscaleTo1080p",
    "veo/get-4k-video": "VeoUpscaleTo4K",
    "volcengine/video-to-video-lip-sync": "VolcengineLipSync",
    "wan/2-2-a14b-image-to-video-turbo": "Wan22TurboImageToVideo",
    "wan/2-2-a14b-speech-to-video-turbo": "Wan22TurboSpeechToVideo",
    "wan/2-2-a14b-text-to-video-turbo": "Wan22TurboTextToVideo",
    "wan/2-7-r2v": "Wan27ReferenceToVideo",
    "wan/2-7-videoedit": "Wan27VideoEdit",
}
#: The spelling of words in class names; all others begin with a capital.
WORDS = {
    "ai": "AI",
    "gpt": "GPT",
    "happyhorse": "HappyHorse",
    "infinitalk": "InfiniTalk",
    "minimax": "MiniMax",
    "omnihuman": "OmniHuman",
    "pixverse": "PixVerse",
}
#: The folders of model names that are not part of class names.
FOLDERS = frozenset({"bytedance", "google"})
#: Classes that are written by hand.
HAND_WRITTEN = {Wan22TurboImageToVideo.MODEL: "kie_async.requests.wan"}

#: The names in Python of fields that have another name in the service.
VOCABULARY = {
    "audio": "generate_audio",
    "audio_url": "audio",
    "driving_audio_url": "audio",
    "end_image_url": "last_image",
    "enhance_prompt": "enable_prompt_expansion",
    "expand_prompt": "enable_prompt_expansion",
    "file_url": "image",
    "files_url": "images",
    "first_clip_url": "video",
    "first_frame": "image",
    "first_frame_image_url": "image",
    "first_frame_url": "image",
    "fixed_lens": "camera_fixed",
    "generate_audio_switch": "generate_audio",
    "generate_multi_clip_switch": "generate_multi_clip",
    "image_input": "images",
    "image_resolution": "resolution",
    "image_url": "image",
    "image_urls": "images",
    "input_urls": "images",
    "kling_elements": "elements",
    "last_frame_image_url": "last_image",
    "last_frame_url": "last_image",
    "mask_indexs": "mask_indexes",
    "mask_url": "mask",
    "model": "tier",
    "n": "num_images",
    "output_resolution": "resolution",
    "prompt_extend": "enable_prompt_expansion",
    "prompt_optimizer": "enable_prompt_expansion",
    "prompt_upsampling": "enable_prompt_expansion",
    "ratio": "aspect_ratio",
    "reference_audio_urls": "reference_audios",
    "reference_file_urls": "reference_files",
    "reference_image_urls": "reference_images",
    "reference_link_urls": "reference_links",
    "reference_mask_urls": "reference_mask",
    "reference_video": "reference_videos",
    "reference_video_urls": "reference_videos",
    "seeds": "seed",
    "sound": "generate_audio",
    "tail_image_url": "last_image",
    "taskId": "task_id",
    "video_list": "videos",
    "video_url": "video",
    "video_urls": "videos",
}
#: The names of lists of which the service takes one value only, and of single values that have the name of a list.
SINGULAR = {
    "images": "image",
    "reference_files": "reference_file",
    "reference_images": "reference_image",
    "reference_links": "reference_link",
    "reference_videos": "reference_video",
    "videos": "video",
}
PLURAL = {"mask": "masks", "reference_image": "reference_images"}

#: What each field is, by its name in Python.
MEANINGS = {
    "acceleration": "The speed, at some cost of quality",
    "align_audio": "True to fit the length of the video to the sound",
    "align_audio_reverse": "True to play the video backwards where the sound is longer",
    "aspect_ratio": "The ratio of width to height",
    "audio": "The sound",
    "audio_ids": "The ids of voices",
    "audio_setting": "The sound of the result: the model's choice, or that of the source",
    "background": "The background of the image",
    "background_source": "The source of the background",
    "bbox_list": "The boxes of the image in which something is changed",
    "camera_fixed": "True for a camera that does not move",
    "cfg_scale": "The weight of the prompt",
    "character_ids": "The ids of characters",
    "character_orientation": "The source of the character's orientation",
    "color_palette": "The colors, each with its share",
    "customize_multi_shots": "True for the shots of ``multi_prompt``",
    "duration": "The length of the video in seconds",
    "elements": "Persons and things that the prompt names",
    "enable_fallback": "True to let another model answer",
    "enable_pro": "True for the better version of the model",
    "enable_prompt_expansion": "True to let a language model add details to the prompt",
    "enable_safety_checker": "True to let the service check for unsafe content",
    "enable_sequential": "True for a series of images",
    "enable_translation": "True to translate the prompt into English",
    "extend_at": "The second of the video at which the continuation begins",
    "extend_times": "The length of the continuation in seconds",
    "frames_per_second": "The number of frames in a second",
    "generate_audio": "True for a video with sound",
    "generate_multi_clip": "True for a video of several shots",
    "generation_type": "The use of the images",
    "guidance_scale": "The weight of the prompt",
    "image": "The image",
    "image_references": "The images, each with its use and the name that the prompt calls it",
    "image_size": "The size or shape of the image",
    "images": "The images",
    "index": "The number of the earlier task's result",
    "last_image": "The last frame",
    "mask": "The mask: the part of the image that is changed",
    "mask_indexes": "The numbers of the parts of the image that are changed",
    "masks": "The masks: the parts of the image that are used",
    "max_images": "The greatest number of images",
    "mode": "The mode of the model",
    "multi_prompt": "The shots, each with its prompt and its seconds",
    "multi_shots": "True for a video of several shots",
    "negative_prompt": "A description of what is not wanted",
    "nsfw_checker": "True to let the service filter unsafe content",
    "num_frames": "The number of frames",
    "num_images": "The number of images",
    "num_inference_steps": "The number of steps: more take longer, for better results",
    "open_scenedet": "True to detect scenes",
    "output_format": "The type of the result",
    "pe_fast_mode": "True for a faster expansion of the prompt",
    "prefer_multi_shots": "True to let the model divide the prompt into shots",
    "prompt": "A description of the result",
    "quality": "The quality of the result",
    "reference_audios": "The sounds that the prompt refers to",
    "reference_file": "The address of a document that the prompt refers to",
    "reference_image": "The image that the result follows",
    "reference_images": "The images that the prompt refers to",
    "reference_link": "The address of a page that the prompt refers to",
    "reference_mask": "The mask of the reference image",
    "reference_videos": "The videos that the prompt refers to",
    "reference_voice": "The voice of the character",
    "remove_watermark": "True for a result without a watermark",
    "rendering_speed": "The speed, at some cost of quality",
    "resolution": "The resolution of the result",
    "return_last_frame": "True to return the last frame as an image, too",
    "safety_tolerance": "The tolerance for unsafe content",
    "seed": "A number for reproducible results",
    "separate_vocal": "True to separate the voice from the sound",
    "shift": "The shift of the noise schedule",
    "shots": "The shots",
    "size": "The size of the result",
    "strength": "The strength of the change",
    "style": "The style of the result",
    "sync_mode": "True to wait for the result",
    "task_id": "The id of an earlier task of this account",
    "template_id": "The id of an effect, which also sets the length",
    "templ_start_seconds": "The second of the video at which the result begins",
    "thinking_mode": "True to let the model think before it draws",
    "tier": "The tier of the model",
    "upscale_factor": "The factor of the enlargement",
    "video": "The video",
    "videos": "The videos",
    "watermark": "The text of a watermark",
    "web_search": "True to let the model search the web",
}
#: The meaning of an image of which a video is made.
FIRST_FRAME = "The first frame"
#: The meaning of the images of models that take both frames in a list.
FRAMES = "The first frame, or the first and the last frame"
TAKE_FRAMES = frozenset(
    {"bytedance/seedance-1.5-pro", "kling-3.0-omni/image-to-video", "kling-3.0/video", "veo-3-1"},
)


@attrs.frozen
class Field:
    """
    A field of a class.

    Attributes:
        name: Its name in Python.

        wire: Its name in the service.

        facts: The facts about it.

        rule: The rule for its values.

        needed: True if the caller must give it.

        default: The default in Python; None if it is not written.
    """

    name: str
    wire: str
    facts: Mapping[str, Any]
    rule: _model.FieldRule
    needed: bool
    default: object


def class_name(model: str) -> str:
    """
    Return the name of a model's class: the words of its name, the folder first, without the "v" of versions.

    >>> class_name("kling/v2-5-turbo-image-to-video-pro"), class_name("flux-2/pro-text-to-image")
    ('Kling25TurboImageToVideoPro', 'Flux2ProTextToImage')
    """
    if model in CLASS_NAMES:
        return CLASS_NAMES[model]
    words = [word for word in re.split(r"[/._-]", model) if word]
    if words[0] in FOLDERS:
        del words[0]
    if len(words) > 1 and words[1] == words[0]:
        del words[1]
    return "".join(WORDS.get(word) or _capital(word) for word in words)


def _capital(word: str) -> str:
    word = re.sub(r"\Av(?=\d)", "", word)
    return word[:1].upper() + word[1:]


def module_name(vendor: str) -> str:
    """Return the name of a vendor's module."""
    return MODULES.get(vendor, vendor)


def has_class(facts: Mapping[str, Any]) -> bool:
    """Return True for a live, documented model that makes images or videos."""
    return facts["status"] == "live" and facts["confidence"] == "documented" and facts["kind"] in KINDS


def python_name(wire: str, facts: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """
    Return the name of a field in Python.

    Args:
        wire: Its name in the service.

        facts: The facts about it.

        fields: All fields of its model.
    """
    values = [str(value) for value in facts.get("enum", ())]
    if wire in ("size", "image_size", "quality") and values:
        if "16:9" in values or "1:1" in values:
            return "aspect_ratio" if "aspect_ratio" not in fields else wire
        if any(re.fullmatch(r"\d+p|[\d.]+K", value) for value in values):
            return "resolution"
    name = VOCABULARY.get(wire, wire)
    if wire == "audio" and facts["type"] != "boolean":
        name = wire
    is_list = facts["type"] == "array" and not _rules.is_single(facts)
    return PLURAL.get(name, name) if is_list else SINGULAR.get(name, name)


def fields_of(facts: Mapping[str, Any]) -> list[Field]:
    """Return the fields of a model's class: those that the caller must give come first."""
    excluded = {name for variant in facts.get("variants", ()) for name in variant.get("excludes", ())}
    found = []
    for wire, about in facts["fields"].items():
        rule = _rules.make_rule(wire, about)
        known = "default" in about or "send" in about
        needed = bool(about.get("required")) and not known and wire not in excluded
        default = None
        if about.get("required") and "default" in about and wire not in excluded:
            default = about["default"]
            if isinstance(rule, (_rules.Whole, _rules.WholeChoice)):
                default = int(default)
        found.append(Field(python_name(wire, about, facts["fields"]), wire, about, rule, needed, default))
    names = [field.name for field in found]
    reserved = {name for name in dir(_model.ModelRequest) if not name.startswith("__")} | {"extra"}
    wrong = [name for name in names if names.count(name) > 1 or name in reserved or keyword.iskeyword(name)]
    if wrong:
        msg = f"{facts['model']}: the names {wrong} are used twice or reserved"
        raise ValueError(msg)
    return sorted(found, key=lambda field: not field.needed)


def _literal(values: Sequence[object]) -> str:
    return f"Literal[{', '.join(_quoted(value) for value in values)}]"


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def annotation(rule: _model.FieldRule) -> str:  # noqa: C901 (one branch for each rule)
    """Return the type of a field's values."""
    match rule:
        case _model.Flag():
            return "bool"
        case _model.Choice(open=True):
            return "str"
        case _model.Choice(values) | _rules.WholeChoice(values):
            return _literal(values)
        case _rules.Whole():
            return "int"
        case _rules.Real():
            return "float"
        case _model.MediaFile() | _rules.Single(_model.MediaFile()):
            return "str | MediaSource"
        case _rules.ListOf(_model.MediaFile()):
            return "tuple[str | MediaSource, ...]"
        case _rules.ListOf(_rules.Object()):
            return "tuple[Mapping[str, object], ...]"
        case _rules.ListOf(_rules.Whole()):
            return "tuple[int, ...]"
        case _rules.ListOf(_rules.Lists()):
            return "tuple[Sequence[JSON], ...]"
        case _rules.ListOf(_model.Text()):
            return "tuple[str, ...]"
        case _:
            return "str"


#: The converters of fields, by their type: of a needed field and of an optional one.
CONVERTERS = {
    "str | MediaSource": ("as_media", "as_optional_media"),
    "tuple[str | MediaSource, ...]": ("as_media_list", "as_optional_media_list"),
    "tuple[Mapping[str, object], ...]": ("as_items", "as_optional_items"),
    "tuple[int, ...]": ("", "as_optional_integers"),
    "tuple[Sequence[JSON], ...]": ("", "as_optional_lists"),
    "tuple[str, ...]": ("", "as_optional_texts"),
}
IMPORTED_FROM = {
    "Literal": "typing",
    "Mapping": "collections.abc",
    "Sequence": "collections.abc",
    "JSON": "kie_async.records",
    "MediaSource": "kie_async.requests.media",
    **{name: "kie_async.requests.media" for names in list(CONVERTERS.values())[:2] for name in names},
    **{name: "kie_async.catalogue._request" for names in list(CONVERTERS.values())[2:] for name in names if name},
}


def attribute(field: Field) -> str:
    """Return the line of a class that declares a field."""
    kind = annotation(field.rule)
    options = []
    if not field.needed and field.default is None:
        options.append("default=None")
    if kind in CONVERTERS:
        options.append(f"converter={CONVERTERS[kind][not field.needed]}")
    if "Mapping" in kind or "Sequence" in kind:
        options.append("hash=False")
    hint = kind if field.needed or field.default is not None else f"{kind} | None"
    if kind in CONVERTERS:
        value = f" = attrs.field({', '.join(options)})"
    elif field.needed:
        value = ""
    else:
        value = f" = {_quoted(field.default)}" if field.default is not None else " = None"
    line = f"    {field.name}: {hint}{value}"
    if len(line) <= WIDTH:
        return line
    if value.startswith(" = attrs"):
        return "\n".join([f"    {field.name}: {hint} = attrs.field(", f"        {', '.join(options)}", "    )"])
    start, _, rest = line.partition("Literal[")
    values, _, end = rest.rpartition("]")
    return "\n".join([f"{start}Literal[", *_filled(values, 8, 8), f"    ]{end}"])


def _filled(text: str, first: int, others: int) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def meaning(field: Field, facts: Mapping[str, Any]) -> str:
    """Return the description of a field: what it is, its allowed values, its default."""
    text = _subject(field, facts)
    if not isinstance(field.rule, _model.Flag):
        text += f": {field.rule.expected}"
    text += "."
    about = field.facts
    if "default" in about and about["default"] not in ("", [], None):
        text += f" The default is {about['default']}"
        text += ", which is sent." if about.get("required") else " at the service."
    if "send" in about:
        text += " An empty list is sent if it is not given."
    if about.get("open"):
        text += " Other values pass with a warning."
    if about.get("older"):
        text += f" Older documentation has {_model.listed(about['older'])}, which passes with a warning."
    if about.get("deprecated"):
        text += " Deprecated by the service."
    return text


def _subject(field: Field, facts: Mapping[str, Any]) -> str:
    """Return what a field is."""
    if field.name not in MEANINGS:
        msg = f"{facts['model']}: describe the field {field.name} in MEANINGS, or give it a name of VOCABULARY"
        raise ValueError(msg)
    if field.name == "image" and "video" in facts["kind"] and "+" not in facts["kind"]:
        return FIRST_FRAME
    if field.name == "images" and facts["model"] in TAKE_FRAMES:
        return FRAMES
    if field.name == "watermark" and isinstance(field.rule, _model.Flag):
        return "True for a watermark"
    if field.name == "index" and isinstance(field.rule, _model.Text):
        return "The number of the earlier task's result, as a string"
    return MEANINGS[field.name]


def render_class(facts: Mapping[str, Any]) -> str:
    """Return the source of a model's class."""
    fields = fields_of(facts)
    name = class_name(facts["model"])
    dates = sorted({facts["fields_seen"], facts["required_seen"]})
    lines = [
        "@attrs.frozen(kw_only=True, repr=False)",
        f"class {name}(CatalogueRequest):",
        '    """',
        f"    A request for ``{facts['model']}``, which {KINDS[facts['kind']]}.",
        "",
    ]
    if rules := relations(facts, {field.wire: field.name for field in fields}):
        lines += [*_filled(" ".join(rules), 4, 4), ""]
    lines.append("    Args:")
    for field in fields:
        lines += [*_filled(f"{field.name}: {meaning(field, facts)}", 8, 12), ""]
    lines += [
        "        extra: Fields that the service has added since, in its own names; they are sent unchecked.",
        "",
        *_filled(f"Source: {facts['page'].removeprefix('https://')}, as of {' and '.join(dates)}.", 4, 4),
        '    """',
        "",
        f'    MODEL: ClassVar[str] = "{facts["model"]}"',
        f'    AS_OF: ClassVar[str] = "{facts["fields_seen"]}"',
    ]
    wires = {field.name: field.wire for field in fields if field.name != field.wire}
    pairs = ", ".join(f"{_quoted(name)}: {_quoted(wire)}" for name, wire in wires.items())
    text = f"    WIRE: ClassVar[Mapping[str, str]] = {{{pairs}}}"
    if len(text) > WIDTH:
        start, _, rest = text.partition("{")
        text = "\n".join([f"{start}{{", *_filled(rest.removesuffix("}"), 8, 8), "    }"])
    lines += [text, "", *(attribute(field) for field in fields)]
    return "\n".join(lines)


def alternatives(facts: Mapping[str, Any], names: Mapping[str, str]) -> Collection[str]:
    """Return the fields of which a request needs one group; a variant that requires none needs one that is its own."""
    excluded = dict.fromkeys(name for variant in facts.get("variants", ()) for name in variant.get("excludes", ()))
    ways: dict[str, None] = {}
    for variant in facts.get("variants", ()):
        if variant.get("required") or variant.get("fields"):
            ways[" and ".join(f"``{names[name]}``" for name in variant["required"])] = None
        elif own := [name for name in excluded if name not in variant.get("excludes", ())]:
            ways[" or ".join(f"``{names[name]}``" for name in own)] = None
    return ways


def relations(facts: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return sentences about the rules between the fields of a model."""
    sentences = []
    ways = alternatives(facts, names)
    if len(ways) > 1:
        sentences.append(f"It needs one of these: {'; '.join(ways)}.")
    for variant in facts.get("variants", ()):
        if variant.get("excludes") and variant.get("required"):
            key = [name for name in variant["required"] if name != "prompt"]
            if key:
                others = _model.listed([f"``{names[name]}``" for name in variant["excludes"]])
                sentences.append(f"``{names[key[0]]}`` excludes {others}.")
    if "callBackUrl" in facts.get("also_required_in_body", ()):
        sentences.append("Its page requires a callback URL: pass ``callback_url`` to the client.")
    for name, other in facts.get("needs", {}).items():
        sentences.append(f"``{names[name]}`` needs ``{names[other]}``.")
    for combination in facts.get("never", ()):
        parts = [
            f"``{names[name]}``" + (f" {_model.listed([str(value) for value in values])}" if values else "")
            for name, values in combination.items()
        ]
        sentences.append(f"The service refuses {' together with '.join(parts)}.")
    return sentences


def render_module(vendor: str, listed: Sequence[Mapping[str, Any]]) -> str:
    """
    Return the source of a vendor's module.

    Args:
        vendor: The name of the module.

        listed: The facts about its models.
    """
    classes = [render_class(facts) for facts in listed]
    body = "\n\n\n".join(classes)
    used: defaultdict[str, set[str]] = defaultdict(set)
    used["typing"].add("ClassVar")
    used["collections.abc"].add("Mapping")
    used["kie_async.catalogue._request"].add("CatalogueRequest")
    for name, module in IMPORTED_FROM.items():
        if re.search(rf"(?<![\w`]){name}(?!\w)", "\n".join(_code_lines(body))):
            used[module].add(name)
    names = ", ".join(
        f'"{name}"' for name in sorted((class_name(facts["model"]) for facts in listed), key=_export_order)
    )
    exports = f"__all__ = [{names}]"
    if len(exports) > WIDTH:
        exports = "\n".join(["__all__ = [", *(f"    {name}," for name in names.split(", ")), "]"])
    return "\n".join(
        [
            '"""',
            f"The models of {vendor} in Kie.ai's market, one class for each.",
            "",
            "Generated by ``tools/catalogue.py`` from ``models.json``: change those, not this file.",
            '"""',
            "",
            "# fmt: off",
            "from __future__ import annotations",
            "",
            *(_import(module, used[module]) for module in ("collections.abc", "typing")),
            "",
            "import attrs",
            "",
            *(_import(module, used[module]) for module in sorted(used) if module.startswith("kie_async")),
            "",
            exports,
            "",
            "",
            body,
            "",
        ]
    )


def _code_lines(body: str) -> Iterator[str]:
    inside = False
    for line in body.splitlines():
        if line.strip() == '"""':
            inside = not inside
        elif not inside:
            yield line


def _import(module: str, names: set[str]) -> str:
    # Constants come first and functions last, as the linter sorts them.
    ordered = sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in ordered), ")"])


def render_index(by_module: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the source of the package's index."""
    classes = {
        class_name(facts["model"]): HAND_WRITTEN.get(facts["model"], f"kie_async.catalogue.{module}")
        for module, listed in by_module.items()
        for facts in listed
    }
    listed_models = {facts["model"]: class_name(facts["model"]) for listed in by_module.values() for facts in listed}
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for name, module in classes.items():
        modules[module].append(name)
    lines = [
        '"""',
        "One class for each documented model of Kie.ai's market; a class is loaded when it is named.",
        "",
        "Generated by ``tools/catalogue.py`` from ``models.json``: change those, not this file.",
        '"""',
        "",
        "# fmt: off",
        "from __future__ import annotations",
        "",
        "from importlib import import_module",
        "from typing import TYPE_CHECKING, cast",
        "",
        "if TYPE_CHECKING:",
    ]
    imports = {module: [f"{name} as {name}" for name in names] for module, names in modules.items()}
    imports["kie_async.requests._model"] = ["ModelRequest"]
    lines += [
        f"    from {module} import {name}"
        for module in sorted(imports)
        for name in sorted(imports[module], key=lambda name: _export_order(name.partition(" ")[0]))
    ]
    lines += ["", "__all__ = ["]
    lines += [f'    "{name}",' for name in sorted([*classes, "MODELS", "request_class"], key=_export_order)]
    lines += ["]", "", "#: The class of each model.", "MODELS = {"]
    lines += [f'    "{model}": "{name}",' for model, name in sorted(listed_models.items())]
    lines += ["}", "#: The classes of each module.", "_NAMES = {"]
    for module in sorted(modules):
        names = _filled(" ".join(sorted(modules[module])), 8, 8)
        lines += [f'    "{module}": """', *names, '    """,']
    lines += [
        "}",
        "_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}",
        "",
        "",
        "def request_class(model: str) -> type[ModelRequest] | None:",
        '    """',
        "    Return the class of a model, or None.",
        "",
        "    Args:",
        "        model: The model's name in the service.",
        "",
        '    >>> request_class("kling/v2-1-pro").__name__',
        "    'Kling21Pro'",
        '    """',
        "    name = MODELS.get(model)",
        '    return None if name is None else cast("type[ModelRequest]", getattr(import_module(_MODULES[name]), name))',
        "",
        "",
        "def __getattr__(name: str) -> object:",
        "    if name not in _MODULES:",
        '        msg = f"module {__name__!r} has no attribute {name!r}"',
        "        raise AttributeError(msg)",
        "    value = globals()[name] = getattr(import_module(_MODULES[name]), name)",
        "    return value",
        "",
        "",
        "def __dir__() -> list[str]:",
        "    return __all__",
        "",
    ]
    return "\n".join(lines)


def _export_order(name: str) -> tuple[bool, bool, list[tuple[int, object]]]:
    """Sort as the linter does: constants, classes, functions, and numbers by their value."""
    parts = [(0, int(part)) if part.isdecimal() else (1, part) for part in re.findall(r"\d+|\D+", name)]
    return not name.isupper(), name[0].islower(), cast("list[tuple[int, object]]", parts)


def entry_of(facts: Mapping[str, Any]) -> model_pages.Entry:
    """Return what the documentation says of a model."""
    fields = fields_of(facts)
    rows = [model_pages.Row(field.name, field.wire, field.needed, meaning(field, facts)) for field in fields]
    between = relations(facts, {field.wire: field.name for field in fields})
    return model_pages.Entry(facts, class_name(facts["model"]), KINDS[facts["kind"]], between, rows)


def render_all() -> dict[Path, str]:
    """Return the content of every generated file."""
    by_module: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for facts in models().values():
        if has_class(facts):
            by_module[module_name(str(facts["vendor"]))].append(facts)
    files = {CATALOGUE / "__init__.py": render_index(by_module)}
    entries = {module: [entry_of(facts) for facts in listed] for module, listed in by_module.items()}
    files[PAGES / "index.md"] = model_pages.render_index(entries)
    for module, listed in by_module.items():
        generated = [facts for facts in listed if facts["model"] not in HAND_WRITTEN]
        files[CATALOGUE / f"{module}.py"] = render_module(module, generated)
        files[PAGES / f"{module}.md"] = model_pages.render_page(module, entries[module])
    return files


def main() -> int:
    """Write all generated files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="first bring models.json up to date; other options are those of fetch_models.py",
    )
    options, rest = parser.parse_known_args()
    if rest and not options.fetch:
        parser.error(f"unknown options without --fetch: {' '.join(rest)}")
    if options.fetch:
        code = fetch_models.main(rest)
        if code != 0:
            return code
    for path, text in render_all().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
