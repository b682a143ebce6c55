"""The page itself: Gradio's components, and which event calls which method of `Handlers`."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from vlv.demo.handlers import Handlers, Keep, OneImage, TwoImages
from vlv.demo.model import JOINS, DemoModel, Sampling

_STYLE = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
/* The small world's 96 pixels fill a panel too, and no label lies over a picture. */
.picture img { width: 100%; height: 100%; object-fit: contain; box-sizing: border-box; padding: 30px 4px 4px; }
.message { border-left: 4px solid var(--color-accent); padding: 8px 12px; background: var(--panel-background-fill); }
"""
_HEIGHT = 300  # pixels of a picture's panel
_MOST_GUIDANCE, _MOST_STEPS = 10.0, 100  # where the sliders end
_JOIN_LABELS = {"in place": "each row stays in its place", "first rows": "the first rows of both"}
Handler = Callable[..., Any]


@dataclass(frozen=True)
class PageSettings:
    """What the page is called, and what its controls start from.

    max_image_mb, max_image_mib: limits of an uploaded file, in MB, and of the image in it once decoded, in MiB.
    """

    name: str
    examples: list[Path]
    sampling: Sampling
    max_image_mb: int = 20
    max_image_mib: int = 512


@contextmanager
def serve_page(model: DemoModel, settings: PageSettings, host: str, port: int) -> Iterator[None]:
    """Serve the page while the block runs, and close it after."""
    page = build_page(model, settings)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,  # the command waits itself, for a signal
        quiet=True,
        share=False,
        ssr_mode=False,  # it needs Node.js
        show_error=True,  # of a defect: else the page says "Error" alone
        enable_monitoring=False,
        footer_links=[],  # they lead to other hosts
        max_file_size=f"{settings.max_image_mb}mb",
        theme=gr.themes.Default(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_STYLE,
    )
    try:
        yield
    finally:
        page.close(verbose=False)


def build_page(model: DemoModel, settings: PageSettings) -> gr.Blocks:
    """Lay out the page and connect it."""
    handlers = Handlers(model, settings.sampling.scheduler, settings.max_image_mib)
    with gr.Blocks(title="VLV", analytics_enabled=False) as page:
        gr.Markdown(
            f"# VLV: an image as a caption, and back\nThe captioner **{settings.name}** turns an image into "
            f"{model.rows} rows of embeddings. A language model reads them as a caption"
            + (", and a frozen text-to-image model draws pictures from them." if model.draws else ".")
        )
        if not model.draws:
            gr.HTML(_message(f"No pictures: {model.no_pictures}."))
        with gr.Tab("One image"):
            _one_image(model, handlers, settings)
        if model.draws:
            with gr.Tab("Two images"):
                _two_images(model, handlers, settings)
    return page


def _one_image(model: DemoModel, handlers: Handlers, settings: PageSettings) -> None:
    note = _note()
    with gr.Row(equal_height=False):
        with gr.Column(scale=1):
            image = _upload("Image", "image")
            gr.Examples([[str(path)] for path in settings.examples], image, label="Examples")
        with gr.Column(scale=2):
            caption = gr.Textbox(label="Caption", lines=3, max_lines=12, interactive=True, elem_id="caption")
            again = gr.Button("Draw this text", size="sm", visible=model.reads_texts, elem_id="draw-text")
            with gr.Row(visible=model.draws):
                drawn = _picture("Drawn from the embeddings", "drawn")
                from_text = _picture("Drawn from the caption", "from-text", visible=model.reads_texts)
    with gr.Row():
        rows = gr.Slider(1, model.rows, model.rows, step=1, label="Rows kept", elem_id="rows")
        sampling = _sampling(settings.sampling) if model.draws else []
    outputs = [note, image, caption, drawn, from_text]
    show, draw, draw_text = (_streamed(method) for method in (handlers.show, handlers.draw, handlers.draw_text))
    _on([image.change, rows.change], show, [image, rows, *sampling], outputs)
    if sampling:
        _on([control.change for control in sampling], draw, [image, caption, rows, *sampling], outputs)
        _on([again.click], draw_text, [caption, *sampling], outputs)


def _two_images(model: DemoModel, handlers: Handlers, settings: PageSettings) -> None:
    note = _note()
    with gr.Row():
        first, second = _upload("First image", "first"), _upload("Second image", "second")
        composed = _picture("Drawn from both", "composed")
    with gr.Row():
        share = gr.Slider(
            0,
            model.rows,
            model.rows // 2,
            step=1,
            label="Rows of the first image, the rest of the second",
            elem_id="share",
        )
        join = gr.Radio(
            [(_JOIN_LABELS[kind], kind) for kind in JOINS], value=model.default_join, label="How rows are joined"
        )
    with gr.Row():
        sampling = _sampling(settings.sampling)
    # Each of the first half with one of the second: neighbours of a folder are often alike.
    middle = len(settings.examples) // 2
    pairs = [
        [str(path) for path in pair]
        for pair in zip(settings.examples[:middle], settings.examples[middle:], strict=False)
    ]
    names = [f"Pair {number}" for number in range(1, len(pairs) + 1)]
    if pairs:
        gr.Examples(pairs, [first, second], label="Examples", example_labels=names)
    controls = [first, second, share, join, *sampling]
    changes = [control.change for control in controls]
    _on(changes, lambda *values: _updates(handlers.compose(*values)), controls, [note, first, second, composed])


def _note() -> gr.HTML:
    return gr.HTML(visible=False)


def _message(text: str) -> str:
    return f'<div class="message">{html.escape(text)}</div>'


def _upload(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, sources=["upload", "clipboard"], height=_HEIGHT, elem_id=name, elem_classes="picture", buttons=[]
    )


def _picture(label: str, name: str, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, format="png", height=_HEIGHT, visible=visible, elem_id=name,
        elem_classes="picture", buttons=["download"],
    )  # fmt: skip


def _sampling(start: Sampling) -> list[Any]:
    return [
        gr.Slider(0, _MOST_GUIDANCE, start.guidance_scale, step=0.5, label="Guidance"),
        gr.Slider(1, _MOST_STEPS, start.num_inference_steps, step=1, label="Steps"),
        gr.Number(start.seed, label="Seed", precision=0, minimum=0),
    ]


def _on(triggers: list[Any], handler: Handler, inputs: list[Any], outputs: list[Any]) -> None:
    """Connect events to a handler: one runs at a time on the whole page, and of several that wait the last one does.

    Files come as they were uploaded (`preprocess=False`), not decoded by Gradio, so that one that cannot be read gets a
    note in the page's own words. Their paths are checked to be uploads all the same.
    """
    gr.on(
        triggers, handler, inputs, outputs,
        preprocess=False, concurrency_id="model", concurrency_limit=1, trigger_mode="always_last",
        show_progress="minimal", api_visibility="private",
    )  # fmt: skip


def _streamed(method: Callable[..., Iterator[OneImage]]) -> Handler:
    def handler(*values: Any) -> Iterator[tuple[Any, ...]]:
        for found in method(*values):
            yield _updates(found)

    return handler


def _updates(found: OneImage | TwoImages) -> tuple[Any, ...]:
    """As Gradio's updates; the note, which comes first, is shown where there is one."""
    values = [gr.skip() if isinstance(value, Keep) else value for value in found]
    if isinstance(found.note, str):
        values[0] = gr.update(value=_message(found.note), visible=bool(found.note))
    return tuple(values)
