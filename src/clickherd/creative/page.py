"""report.html of a creative run: contact sheets and scores in one file, offline, without scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from clickherd import report
from clickherd.checkpoint import write_text
from clickherd.creative.pictures import Pictures
from clickherd.creative.scores import nearest
from clickherd.creative.studio import Studio
from clickherd.report.page import templates

if TYPE_CHECKING:
    from clickherd.creative.evaluation import Evaluation

PROMPTS, EACH = 8, 6  # of the sheets
COPIES = 8  # pictures shown beside the nearest training image


@dataclass(frozen=True)
class Sheet:
    """One contact sheet of the page, also written as `name`.png."""

    name: str
    title: str
    text: str
    pictures: Pictures

    @property
    def source(self) -> Markup:
        """The sheet as a data URL."""
        png = base64.b64encode(self.pictures._repr_png_()).decode()
        return Markup(f"data:image/png;base64,{png}")


def write_page(studio: Studio, evaluation: Evaluation, result: Mapping[str, Any]) -> None:
    """Write FOLDER/report.html, and the sheets to FOLDER/pictures."""
    evaluation.announce("contact sheets")
    drawn = list(sheets(studio, evaluation))
    for sheet in drawn:
        sheet.pictures.save_sheet(studio.folder / "pictures" / f"{sheet.name}.png")
    write_text(studio.folder / "report.html", render(result, drawn))


def sheets(studio: Studio, evaluation: Evaluation) -> Iterator[Sheet]:
    """All sheets, in the page's order."""
    seed = evaluation.seed
    prompts = list(dict.fromkeys(evaluation.captions(evaluation.real)))[:PROMPTS]
    best = evaluation.priors[0]
    yield Sheet(
        "generate",
        "Generated",
        "Captions of images that were not trained on.",
        studio.generate(prompts, EACH, seed=seed, prior=best),
    )
    if len(evaluation.held_out):
        unseen = list(dict.fromkeys(evaluation.captions(evaluation.held_out)))[:PROMPTS]
        yield Sheet(
            "held-out",
            "Combinations never seen",
            "No training image shows these objects in these colours.",
            studio.generate(unseen, EACH, seed=seed, prior=best),
        )
    compared = [studio.generate(prompts[:EACH], 1, seed=seed, prior=prior) for prior in evaluation.priors]
    yield Sheet(
        "priors",
        "One caption, each prior",
        "The same noise for the decoder. Without a prior the text's embedding stands in for an image's.",
        Pictures(np.stack([made.images[:, 0] for made in compared]), list(evaluation.priors), prompts[:EACH]),
    )
    real = evaluation.pixels(evaluation.real)
    yield Sheet(
        "vary",
        "Variations",
        "η = 0 gives the picture back; more noise in each step leaves only what CLIP sees.",
        studio.vary(real[0], EACH, seed=seed),
    )
    yield Sheet(
        "blend",
        "Blends",
        "From one image to another; with x_T slerped too, the ends are the images themselves.",
        studio.blend(real[0], real[1], seed=seed),
    )
    edited = evaluation.examples()
    if edited:
        made = [studio.edit(real[place], before, after) for place, before, after in edited]
        yield Sheet(
            "edit",
            "Text diffs",
            "Real images turned from one description towards another.",
            Pictures(np.concatenate([m.images for m in made]), [m.rows[0] for m in made], made[0].columns),
        )
    yield Sheet(
        "probe",
        "Probes",
        "One image, from the first principal components of its embedding alone: what CLIP holds to be coarse comes "
        "first.",
        studio.probe(real[0], seed=seed),
    )
    samples = evaluation.samples[best][:COPIES]
    whose = "CLIP" if evaluation.judge is None else "the judge"
    train = evaluation.workshop.train_rows
    places, distances = nearest(evaluation.features(samples), evaluation.train_features)
    both = np.stack([samples, evaluation.pixels(train[places])])
    columns = [f"{distance:.2f}" for distance in distances]
    yield Sheet(
        "nearest",
        "Nearest training images",
        f"Pictures, and below each the training image that is nearest by the features of {whose}, with the distance.",
        Pictures(both, ["made", "nearest"], columns),
    )


def render(result: Mapping[str, Any], drawn: list[Sheet]) -> str:
    """The page as HTML text."""
    style = (Path(report.__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        templates(Path(__file__).parent)
        .get_template("page.html.j2")
        .render(result=result, sheets=drawn, style=Markup(style))
    )


def told(result: Mapping[str, Any]) -> list[list[str]]:
    """The main scores, as rows of a table: what, of samples, of real images."""
    best = next(iter(result["priors"]))
    of = result["priors"][best]["caption"]
    names = {"seen": "all labels right", "held_out": "… of combinations never seen"}
    rows = [[names[k], f"{of[k]['all']:.3f}", f"{real['all']:.3f}"] for k, real in result["real"].items()]
    whose = "" if result["features"] == "judge" else f", by {result['features']}"
    rows += [
        [f"FID by embedding alone{whose}, prior: {name}", f"{of['fid']:.2f}", ""]
        for name, of in result["priors"].items()
    ]
    kid = f"{result['priors'][best]['kid']:.4f} ± {result['priors'][best]['kid_std']:.4f}"
    rows.append([f"KID likewise{whose}, prior: {best}", kid, ""])
    rows.append(["inversion, dB", f"{result['inversion_psnr']['inverted']:.1f}", ""])
    for label, by_theta in result["edits"].items():
        theta = max(by_theta, key=float)
        changed, kept = by_theta[theta]["changed"], min(by_theta[theta]["kept"].values())
        rows.append([f"text diff {theta}: {label} asked / others kept", f"{changed:.3f} / {kept:.3f}", ""])
    rows.append([f"diversity{whose}", f"{result['diversity']['made']:.3f}", _or_dash(result["diversity"].get("real"))])
    rows.append(
        [
            f"copies of training images{whose}",
            f"{result['memorised']['share']:.3f}",
            f"{result['memorised']['expected_share']:.3f}",
        ]
    )
    return rows


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
