"""Show a captioner on a web page: captions as they are written, and what its frozen decoder draws.

Drop an image: its caption, and pictures drawn from its embeddings and from the caption. Or compose two images from
parts of their embeddings. Without a folder it shows the small world, which is shipped.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.captioner import load_captioner
from vlv.cli.entry import BAD_CALL, FAILED_RUN, Call, parse, require_packages, stop
from vlv.cli.ports import require_free
from vlv.config import DemoConfig
from vlv.resources import assets_folder

if TYPE_CHECKING:
    from vlv.demo.model import DemoModel

_SMALL_WORLD = assets_folder() / "tiny" / "trained" / "captioner"
_EXAMPLES = 6  # two rows below the image


def main(arguments: list[str]) -> None:
    """Read the call, load the models, and serve the page until stopped."""
    config = parse(DemoConfig, Call("vlv demo", __doc__ or "", ("ckpt_dir",)), arguments)
    require_packages("vlv demo", "demo", "gradio")
    require_free(config.host, config.port)
    folder = Path(config.ckpt_dir) if config.ckpt_dir else _SMALL_WORLD
    with tempfile.TemporaryDirectory(prefix="vlv-demo-") as files:
        # Uploads and drawn pictures go with the process. Before the import of Gradio, which reads these.
        os.environ.update(GRADIO_TEMP_DIR=files, GRADIO_ANALYTICS_ENABLED="False")
        examples = _examples(config, folder, Path(files) / "examples")
        model = _load(config, folder)
        from vlv.demo.model import Sampling
        from vlv.demo.page import PageSettings, serve_page

        settings = PageSettings(
            name="of the small world" if folder == _SMALL_WORLD else folder.resolve().name,
            examples=examples,
            sampling=Sampling(config.seed, config.guidance_scale, config.num_inference_steps, config.scheduler),
            max_image_mb=config.max_image_mb,
            max_image_mib=config.max_image_mib,
        )
        # From here on: while the models load, Ctrl-C ends it at once.
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        with serve_page(model, settings, config.host, config.port):
            print(f"showing the captioner {settings.name} on http://{config.host}:{config.port}", flush=True)
            if model.no_pictures:
                print(f"no pictures: {model.no_pictures}", flush=True)
            stopped.wait()


def _examples(config: DemoConfig, folder: Path, place: Path) -> list[Path]:
    """The given examples; else scenes of the small world for its captioner, drawn into `place`, or sample images."""
    from vlv.demo.examples import find_examples, shape_examples

    if config.examples is None and folder == _SMALL_WORLD:
        return shape_examples(place, _EXAMPLES)
    try:
        return find_examples(config.examples or str(assets_folder()), _EXAMPLES)
    except ValueError as error:
        stop(f"examples: {error}", BAD_CALL)


def _load(config: DemoConfig, folder: Path) -> DemoModel:
    captioner = load_captioner(str(folder), config.precision, **config.bases())
    from vlv.demo.loading import load_demo_model

    try:
        decoder, florence2 = config.stable_diffusion_model_path, config.florence2_model_path
        return load_demo_model(captioner, folder, decoder, config.stage1_path, florence2)
    except ValueError as error:
        stop(str(error), FAILED_RUN)
