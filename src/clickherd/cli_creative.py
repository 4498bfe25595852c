"""`clickherd creative …`: pictures from words, in CLIP's latent space.

Heavy imports happen inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from clickherd.cli_shared import AsJson, StopSignal, announce, err, nested
from clickherd.errors import ConfigError

if TYPE_CHECKING:
    from clickherd.creative.pictures import Pictures
    from clickherd.creative.studio import Studio

app = typer.Typer(no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(help="A run folder of clickherd creative train.")]
ImageFile = Annotated[Path, typer.Argument(help="An image: PNG, JPEG, WebP, …")]
Out = Annotated[Path | None, typer.Option(help="Folder for the PNGs; RUN/pictures/VERB-TIME when not given.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all noise: the same seed gives the same pictures.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="How to sample, such as sample.decoder_steps=100."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; that of the run when not given.")]


@app.command()
def train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A Parquet file or a folder of images with captions; without it, products drawn on the spot.",
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Sizes and steps: cpu, gpu or paper; cpu when not given.")] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="clip, prior, ar_prior, decoder or upsampler; repeatable. All when not given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder, not there yet; runs/creative-TIME when not given.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of the images; 'image' when not given.")] = None,
    caption: Annotated[
        str | None, typer.Option(help="Column of the captions, or a template: 'a photo of a {class_name}'.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Column of classes for the judge of `evaluate`; repeatable.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    valid: Annotated[str | None, typer.Option(help="Validation images, as DATA.")] = None,
    clip: Annotated[Path | None, typer.Option(help="A trained CLIP in the format of transformers.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as decoder.steps=5000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: the same weights.")] = None,
    threads: Threads = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train CLIP, both priors and a decoder on images with captions."""
    flags = nested(
        {
            "data.source": source,
            "data.image": image,
            "data.caption": caption,
            "data.labels": tuple(label) if label else None,
            "data.size": size,
            "data.valid": valid,
            "clip.path": None if clip is None else str(clip),
        }
    )
    if seed is not None:
        flags["seed"] = seed
    if resume is not None and (flags or set_ or out or preset):
        raise ConfigError(
            "--resume takes its data and settings from the run folder",
            mend="Leave all but --stage, --threads and --device out.",
        )
    need_creative()
    from clickherd.config import merge, parse_assignments
    from clickherd.creative.config import creative_config
    from clickherd.creative.train import load_config, resume_creative, train_creative, untrained
    from clickherd.creative.watch import Watch

    stop = StopSignal()

    def training(under_way: bool) -> None:
        stop.training = under_way

    shared: dict[str, Any] = {"announce": announce, "observer": Watch(err, training), "should_stop": stop}
    stages = stage or []
    if resume is not None:
        folder = resume
        if not stages and not untrained(folder, load_config(folder)):
            announce(f"every stage is trained already; scores and pictures: clickherd creative evaluate {folder}")
        result = resume_creative(folder, stages, device=device, threads=threads, **shared)
    else:
        flags |= {name: value for name, value in (("threads", threads), ("device", device)) if value is not None}
        config = creative_config(merge(flags, parse_assignments(set_ or [])), preset or "cpu")
        folder = out or Path("runs") / f"creative-{time.strftime('%Y%m%d-%H%M%S')}"
        result = train_creative(config, folder, stages, **shared)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(f"run in {folder}")


@app.command()
def generate(
    run: RunFolder,
    prompts: Annotated[list[str], typer.Argument(help="What the pictures are to show; one row of pictures each.")],
    number: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 4,
    prior: Annotated[str, typer.Option(help="diffusion, ar, or none (the text's own embedding).")] = "diffusion",
    seed: Seed = 0,
    out: Out = None,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Pictures from words."""
    studio = _studio(run, set_, threads, device)
    _tell_unseen(studio, prompts)
    _saved(studio.generate(prompts, number, seed=seed, prior=prior), run, "generate", out)  # type: ignore[arg-type]


@app.command()
def vary(
    run: RunFolder,
    image: ImageFile,
    number: Annotated[int, typer.Option(min=1, help="Variations for each η.")] = 4,
    eta: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="Noise in each step; repeatable. 0 to 1 by quarters.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Variations of an image that keep what CLIP sees."""
    studio = _studio(run, set_, threads, device)
    given: dict[str, Any] = {"etas": eta} if eta else {}
    _saved(studio.vary(image, number, seed=seed, **given), run, "vary", out)


@app.command()
def blend(
    run: RunFolder,
    first: ImageFile,
    second: ImageFile,
    number: Annotated[int, typer.Option(min=2, help="Pictures on the way, both ends included.")] = 7,
    seed: Seed = 0,
    out: Out = None,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """From one image to another along the sphere of embeddings."""
    _saved(_studio(run, set_, threads, device).blend(first, second, number, seed=seed), run, "blend", out)


@app.command()
def edit(
    run: RunFolder,
    image: ImageFile,
    from_: Annotated[str, typer.Option("--from", help="What the image shows.")],
    to: Annotated[str, typer.Option("--to", help="What it is to show.")],
    theta: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="How far to turn; repeatable. 0 to 0.5 by eighths.")
    ] = None,
    out: Out = None,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """An image turned by words (text diffs)."""
    studio = _studio(run, set_, threads, device)
    _tell_unseen(studio, [from_, to])
    given: dict[str, Any] = {"thetas": theta} if theta else {}
    _saved(studio.edit(image, from_, to, **given), run, "edit", out)


@app.command()
def probe(
    run: RunFolder,
    image: ImageFile,
    dims: Annotated[
        list[int] | None, typer.Option(min=1, help="Principal components to keep; repeatable. Doublings by default.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """What CLIP holds of an image, coarse before fine."""
    _saved(_studio(run, set_, threads, device).probe(image, dims, seed=seed), run, "probe", out)


@app.command()
def invert(
    run: RunFolder,
    image: ImageFile,
    out: Out = None,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """The noise x_T that the decoder makes an image from, in x_T.npy, and the image made from it."""
    import numpy as np

    pictures, x_T, decibels = _studio(run, set_, threads, device).invert(image)
    folder = _saved(pictures, run, "invert", out)
    with (folder / "x_T.npy.part").open("wb") as file:
        np.save(file, x_T.numpy())
    (folder / "x_T.npy.part").replace(folder / "x_T.npy")
    typer.echo(f"PSNR {decibels:.1f} dB")


@app.command()
def evaluate(
    run: RunFolder,
    number: Annotated[int, typer.Option(min=2, help="Pictures for each score.")] = 256,
    seed: Seed = 0,
    set_: Assignments = None,
    threads: Threads = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score the pictures of a run, and write its report.html."""
    need_creative()
    from clickherd.creative.evaluation import evaluate as measure
    from clickherd.creative.page import told

    result = measure(
        run, number=number, seed=seed, sample=_sample(set_), threads=threads, device=device, announce=announce
    )
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("", "pictures", "real images", box=SIMPLE_HEAD)
    for row in told(result):
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"pictures and scores in {run / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def need_creative() -> None:
    """See that the extra is installed.

    Raises:
        ConfigError: it is not.
    """
    from importlib.util import find_spec

    missing = [name for name in ("diffusers", "transformers", "PIL") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"creatives need {', '.join(missing)}, which is not installed", mend="pip install 'clickherd[creative]'"
        )


def _studio(run: Path, assignments: list[str] | None, threads: int | None, device: str | None) -> Studio:
    need_creative()
    from clickherd.creative.studio import load

    return load(run, sample=_sample(assignments), threads=threads, device=device)


def _tell_unseen(studio: Studio, prompts: list[str]) -> None:
    unseen = studio.unseen_words(prompts)
    if unseen:
        announce(f"no training caption has these words, which the run cannot know: {', '.join(unseen)}")


def _sample(assignments: list[str] | None) -> dict[str, Any]:
    """`--set sample.…` of the verbs that draw pictures."""
    from clickherd.config import parse_assignments

    settings = parse_assignments(assignments or [])
    sample = settings.pop("sample", {})
    if not isinstance(sample, dict):
        raise ConfigError(f"sample = {sample!r}: it is a group of settings", mend="Write sample.decoder_steps=100.")
    if settings:
        raise ConfigError(
            f"a trained run does not take {next(iter(settings))}",
            mend="Only sample.… can be set, e.g. sample.prior_steps.",
        )
    return dict(sample)


def _saved(pictures: Pictures, run: Path, verb: str, out: Path | None) -> Path:
    folder = out or run / "pictures" / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}"
    typer.echo(pictures.save(folder)[0])
    return folder
