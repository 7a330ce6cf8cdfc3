"""The command line: ``repro --help``.

Commands import what they need when they run, so that help is instant and a broken part breaks its command
alone. Errors have one place, :class:`Command`: a person sees one sentence, never a traceback, unless
``--debug`` or ``REPRO_DEBUG=1`` asks for it.
"""

import ast
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from repro.errors import ReproError, unknown_name


class Command(TyperCommand):
    """A command whose failures become one sentence on stderr and an exit code: 1, or 130 for Ctrl-C."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # ends that are no failures: typer knows what to do
        except KeyboardInterrupt:
            _complain("Interrupted.")
            raise typer.Exit(130) from None
        except Exception as error:
            if _wants_tracebacks(context):
                raise
            if isinstance(error, ReproError):
                _complain(str(error))
            elif isinstance(error, OSError) and error.filename:  # a folder that may not be read, a name too long
                _complain(f"{error.filename}: {error.strerror}.")
            else:
                command = " ".join(context.command_path.split()[1:])  # without the program's own name
                how = f"`repro --debug {command} ...` shows where"
                _complain(f"Unexpected {type(error).__name__}: {error} ({how}).")
            raise typer.Exit(1) from None


def _wants_tracebacks(context) -> bool:
    asked = os.environ.get("REPRO_DEBUG", "").lower() not in ("", "0", "false", "no")
    return bool(context.find_root().params.get("debug") or asked)


def _complain(sentence: str) -> None:
    typer.echo(f"Error: {' '.join(sentence.split())}", err=True)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
bench_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
submit_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", help="The data sets: what they are, where they are, get them, check them.")
app.add_typer(submit_app, name="submit", help="Denoise a benchmark and write the files that its home scores.")
app.add_typer(bench_app, name="bench", help="Measure the speed of this machine.")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"repro {version('repro')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Four image denoisers, put to the test: denoise photographs, train, evaluate, redo the study."""


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="repro")


# ---- denoise


Model = Annotated[
    str,
    typer.Option(help="Published weights by name, a weights file, or a filter: bm3d, cbm3d, bm3d-estimated, median..."),
]
Network = Annotated[
    str | None,
    typer.Option(help="What the weights must be for, e.g. sadnet; needed for authors' checkpoints."),
]


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number.")
    return value


def _path(text: str) -> Path:
    if not text:  # a variable that is not set, and no word for the current folder
        raise typer.BadParameter("it is empty.")
    return Path(text)


def _whole_path(text: str) -> Path:
    return Path(os.path.realpath(_path(text)))


def _filled(text: str) -> str:
    _path(text)
    return text  # a path would lose a slash at the end, which says that it is a folder


Sigma = Annotated[
    float | None,
    typer.Option(min=0, max=255, callback=_finite, help="Standard deviation of the noise, on the 0 to 255 scale."),
]
Events = Annotated[
    float | None,
    typer.Option(min=0, callback=_finite, help="Instead, Poisson noise of so many counts per white pixel."),
]
Alpha = Annotated[
    float | None,
    typer.Option(min=0, max=1, callback=_finite, help="Instead, impulse noise that replaces this share of pixels."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: cuda where there is one.")]


@app.command(cls=Command)
def denoise(
    source: Annotated[Path, typer.Argument(metavar="IN", parser=_path, help="An image, or a folder of images.")],
    out: Annotated[str, typer.Argument(metavar="OUT", callback=_filled, help="The image to write, or a folder.")],
    model: Model,
    sigma: Sigma = None,
    events: Events = None,
    alpha: Alpha = None,
    network: Network = None,
    tile: Annotated[
        int | None,
        typer.Option(min=0, help="Side of the tiles, 0 for none; by default 896 pixels with their surroundings."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Denoise a photograph, or every photograph in a folder.

    The output has the size, bit depth, transparency and colour profile of the input. In a folder, files that
    cannot be denoised are listed at the end, and the others are done all the same.
    """
    if not source.exists():
        raise ReproError(f"There is no file {source}.")

    from tqdm import tqdm

    from repro import files, weights
    from repro.data.images import SUFFIXES, is_image
    from repro.evaluate import check_level, takes_no_level

    net = weights.load(model, network).to(_device(device))
    level = {"sigma": None if sigma is None else sigma / 255, "events": events, "alpha": alpha}
    check_level(net, **level)  # once for all images
    given = level | {"tile": tile}
    if sigma is not None and takes_no_level(net):
        typer.echo(f"Note: {model} is not told the level of the noise; --sigma changes nothing.", err=True)
    target = Path(out)
    if not source.is_dir():
        into_folder = target.is_dir() or out.endswith(("/", os.sep)) or not target.suffix
        target = target / source.name if into_folder else target
        seconds = _denoise_file(net, source, target, **given)
        typer.echo(f"{target}: {model}, {seconds:.1f} s")
        return
    if target.exists() and not target.is_dir():
        raise ReproError(f"{target} is a file; a folder of images needs a folder to go to.")
    if not target.exists() and target.suffix.lower() in SUFFIXES:
        raise ReproError(f"{source} is a folder, and {target} the name of an image; name a folder.")
    if target.exists() and target.samefile(source):
        raise ReproError(f"{target} is the input itself; name another output.")
    inside = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    found = [path for path in inside if is_image(path, source)]
    if not found:
        raise ReproError(f"There is no image in {source} ({', '.join(sorted(SUFFIXES))}).")
    if len(inside) > len(found):
        others = [path.name for path in inside if path not in found]
        listed = f"{', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
        typer.echo(f"Note: not taken for images: {listed}.", err=True)
    files.require_writable(target / found[0].name)
    failures, start = [], time.monotonic()
    for path in tqdm(found, unit="image", disable=None):
        try:
            seconds = _denoise_file(net, path, target / path.name, **given)
            tqdm.write(f"{target / path.name}: {seconds:.1f} s")
        except ReproError as error:
            failures.append(path.name)
            tqdm.write(f"Error: {error}", file=sys.stderr)
    done = len(found) - len(failures)
    typer.echo(f"{target}: {done} of {len(found)} images, {model}, {time.monotonic() - start:.1f} s")
    if failures:
        raise ReproError(f"Not denoised: {', '.join(failures)}.")


def _denoise_file(net, source: Path, target: Path, **given) -> float:
    """Denoise one file, ``given`` what :func:`repro.denoise` takes; returns the seconds the network took."""
    import repro
    from repro import files
    from repro.data.images import check_format, read_picture, write_image

    if target.exists() and target.samefile(source):
        raise ReproError(f"{target} is the input itself; name another output.")
    picture = read_picture(source)
    side = max(picture.pixels.shape[-2:])
    check_format(target, bits=picture.bits, alpha=picture.alpha is not None, side=side)
    files.require_writable(target)
    start = time.monotonic()
    clean = repro.denoise(picture.pixels, model=net, **given)
    seconds = time.monotonic() - start
    write_image(target, clean, picture.bits, alpha=picture.alpha, icc_profile=picture.icc_profile)
    return seconds


def _device(name: str) -> str:
    from repro import devices

    return devices.choose(name)


# ---- train, evaluate


@app.command(cls=Command)
def train(
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Folder of the run; one that holds a run is resumed."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="A row of results/experiments.toml.")] = None,
    model: Annotated[str | None, typer.Option(help="Which network, e.g. sadnet.")] = None,
    data: Annotated[str | None, typer.Option(help="Training set, see `repro data list`.")] = None,
    colour: Annotated[str | None, typer.Option(help="rgb or gray.")] = None,
    sigma: Annotated[str | None, typer.Option(help="Noise level of 255, or a range: 50 or 0,70.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Budget in minutes of wall-clock time.")] = None,
    patch: Annotated[int | None, typer.Option(help="Side of the training patches.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="32 or bf16.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    size: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A size of the network.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any field of TrainConfig.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a network, or resume: stop it as you like, the same command goes on where it stopped.

    What is not given has the study's recipe for small budgets, or in a folder that holds a run, that run's own
    settings: `repro train --out FOLDER` alone resumes what is there.
    """
    import json
    from dataclasses import fields, replace

    from repro import files
    from repro.train import Interrupted
    from repro.train import train as run
    from repro.train_config import TrainConfig

    given = {"model": model, "data": data, "colour": colour, "steps": steps, "patch": patch, "batch": batch}
    given |= {"lr": lr, "precision": precision, "seed": seed}
    given |= {"seconds": None if minutes is None else 60 * minutes}
    given |= {"sigma_255": None if sigma is None else _levels(sigma), "sizes": _assignments(size) or None}
    given = {name: value for name, value in given.items() if value is not None} | _assignments(setting)
    known = [field.name for field in fields(TrainConfig)]
    if unknown := [name for name in given if name not in known]:
        raise unknown_name("setting", unknown[0], known)
    try:
        if experiment is not None:
            from repro.study import experiments

            entry = experiments.get(experiment)
            own = entry.train_config(entry.seeds[0])
            if "sizes" in given:
                given["sizes"] = own.sizes | given["sizes"]
            config = replace(own, **given)
            if out is None and set(given) - {"seed"}:
                raise ReproError("With settings of its own a run needs a folder of its own: name it with --out.")
            out = out or files.runs() / experiment / f"seed{config.seed}"
        elif out is None:
            raise ReproError("Name a folder for the run with --out, or an experiment with --experiment.")
        else:
            # A run that was begun keeps what is not given; before its first checkpoint it can still be another one.
            begun = (out / "config.json").exists() and (not given or any(out.glob("[!.]*.safetensors")))
            stored = json.loads((out / "config.json").read_text()) if begun else {}
            if "sizes" in given:
                given["sizes"] = stored.get("sizes", {}) | given["sizes"]
            config = TrainConfig(**stored | given)
    except (TypeError, ValueError, OSError) as error:
        raise ReproError(f"These settings do not make a run: {error}.") from None
    try:
        weights = run(config, out, device=_device(device))
    except Interrupted as error:
        _complain(str(error))
        raise typer.Exit(130) from None
    typer.echo(f"Trained: {weights}")


@app.command(cls=Command)
def evaluate(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            parser=_filled,
            help="Test set, see `repro data list`, or a folder of clean images, or of `clean` and `noisy`.",
        ),
    ],
    sigma: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=255,
            callback=_finite,
            help="Gaussian noise to add, standard deviation on the 0 to 255 scale; left out, the set's own noise.",
        ),
    ] = None,
    events: Annotated[
        float | None,
        typer.Option(min=0, callback=_finite, help="Instead, Poisson noise to add, of so many counts per white pixel."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=0, max=1, callback=_finite, help="Instead, impulse noise to add, on this share of pixels."),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(help="Instead, a level for every value from this range, as GradNet's slides: 8.16,63.75."),
    ] = None,
    network: Network = None,
    weights_of: Annotated[
        str | None,
        typer.Option("--weights", help="With a network as --model: a file, or `published`, its authors' own."),
    ] = None,
    colour: Annotated[
        str | None, typer.Option(help="With --weights published, which of them: RGB, the default, or L (gray).")
    ] = None,
    clip: Annotated[bool, typer.Option("--clip", help="Clip the noisy images to [0, 1].")] = False,
    round_8bit: Annotated[bool, typer.Option("--round-8bit", help="Round them to 8 bits, which clips too.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Draws of the noise per image; rows are means over them.")] = 1,
    pad: Annotated[
        str | None,
        typer.Option(help="Reflect to multiples of 32: the `clean` image, before noise is added, or the `noisy` one."),
    ] = None,
    patch: Annotated[int | None, typer.Option(min=8, help="Denoise in patches of this side, one by one.")] = None,
    crop_multiple: Annotated[
        int | None, typer.Option(min=1, help="Crop to multiples of this at the top left; 8: SADNet's authors.")
    ] = None,
    crop_side: Annotated[
        int | None, typer.Option(min=1, help="Measure all square crops of this side, too; 256: GradNet's slides.")
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Mean over eight turned and mirrored versions of each image.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", parser=_path, help="CSV file with a row per image.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Score a network on a test set: PSNR in three conventions, SSIM in two, per image and mean."""
    import tempfile

    import pandas as pd

    from repro import files, weights
    from repro.data import catalog
    from repro.evaluate import evaluate as score

    if colour is not None and weights_of != "published":
        raise ReproError("--colour chooses among published weights: give --weights published, too.")
    if network is not None and weights_of is not None:
        raise ReproError("--network says what network a file given as --model holds; with --weights, --model says it.")
    if out and out.suffix.lower() not in (".csv", ""):
        raise ReproError(f"{out}: the table is written as CSV; name a .csv file.")
    if weights_of == "published":
        from repro import published

        network, model = model, published.choose(model, colour or "RGB", sigma)
        typer.echo(f"Weights: {model}")
    elif weights_of is not None:
        network, model = model, weights_of
    span = None if levels is None else _levels(levels)
    if isinstance(span, float):
        raise ReproError(f"--levels is a range, such as 8.16,63.75; for one level, {levels}, give --sigma.")
    if out:
        files.require_writable(out)
    net, device = weights.load(model, network), _device(device)
    if any(level is not None for level in (sigma, events, alpha, span)) and any(
        noisy is not None for *_, noisy in catalog.paths(data)[:1]
    ):
        typer.echo(f"Note: noise is added to the clean images of {data}; its own noisy ones are not used.", err=True)

    def store(table: pd.DataFrame) -> None:
        with files.write_atomically(out) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")

    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "rows"
        try:
            table = score(
                net, data, sigma, events=events, alpha=alpha, levels_255=span, seed=seed, repeats=repeats, clip=clip,
                round_8bit=round_8bit, pad=pad, crop_multiple=crop_multiple, patch=patch, crop_side=crop_side,
                ensemble=ensemble, limit=limit, device=device, journal=journal,
            )  # fmt: skip
        except (ReproError, KeyboardInterrupt):
            if out and journal.exists() and journal.stat().st_size:
                rows = pd.read_json(journal, lines=True, dtype={"image": str})
                store(rows)
                typer.echo(f"Note: what was measured until then, {len(rows)} images, is in {out}.", err=True)
            raise
    measured = table.loc[:, "psnr_noisy_db":]
    shown = pd.concat([measured, measured.mean().to_frame().T])
    shown.insert(0, "image", [*table["image"], "mean"])
    typer.echo(shown.to_string(index=False, float_format="{:.4f}".format))
    if out:
        store(table)
        typer.echo(f"Written: {out}")


# ---- submit


Folder = Annotated[
    Path, typer.Argument(metavar="OUT", parser=_path, help="Folder of the submission; one that was begun goes on.")
]
Ensemble = Annotated[
    bool, typer.Option("--ensemble", help="Mean over eight turned and mirrored versions of each image.")
]
Method = Annotated[
    str | None, typer.Option("--method", help="What the upload calls the method; the model's name, left out.")
]


@submit_app.command("sidd", cls=Command)
def submit_sidd(
    folder: Folder,
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            parser=_filled,
            help="BenchmarkNoisyBlocksSrgb.mat, its folder, or sidd-benchmark in REPRO_DATA.",
        ),
    ] = "sidd-benchmark",
    sigma: Sigma = None,
    network: Network = None,
    ensemble: Ensemble = False,
    method: Method = None,
    device: Device = "auto",
) -> None:
    """Denoise the SIDD benchmark (sRGB): SubmitSrgb.mat and SubmitSrgb.csv.

    Its clean blocks are not handed out. SubmitSrgb.mat is what the benchmark's own kit writes, SubmitSrgb.csv what its
    contest at kaggle.com/competitions/sidd-benchmark-srgb-psnr takes. Upload the one that is asked for. The command may
    be killed; the same one goes on behind the last finished image.
    """
    from repro.submission import submit_sidd as submit

    for path in _submit(submit, folder, model, data, sigma, network, ensemble, method, device):
        typer.echo(f"Written: {path}")


@submit_app.command("dnd", cls=Command)
def submit_dnd(
    folder: Folder,
    model: Model,
    data: Annotated[str, typer.Option(help="The folder of info.mat and images_srgb, or dnd in REPRO_DATA.")] = "dnd",
    sigma: Sigma = None,
    network: Network = None,
    ensemble: Ensemble = False,
    method: Method = None,
    device: Device = "auto",
) -> None:
    """Denoise DND (sRGB): the folder OUT/bundled with 0001.mat to 0050.mat.

    Its clean images are not handed out. Register at noise.visinf.tu-darmstadt.de and upload all files of OUT/bundled
    for the sRGB track, unchanged and not packed; where single ones fail, as users report, upload these again. Each file
    takes about 63 MB. A network that must be told the noise level is told the one that info.mat states for each box,
    unless --sigma is given. The command may be killed; the same one goes on behind the last finished image.
    """
    from repro.submission import submit_dnd as submit

    written = _submit(submit, folder, model, data, sigma, network, ensemble, method, device)
    typer.echo(f"Written: {written[0]} to {written[-1].name}, {len(written)} files")


def _submit(submit, folder, model, data, sigma, network, ensemble, method, device) -> list[Path]:
    from repro import weights
    from repro.evaluate import takes_no_level

    net = weights.load(model, network).to(_device(device))
    if sigma is not None and takes_no_level(net):
        typer.echo(f"Note: {model} is not told the level of the noise; --sigma changes nothing.", err=True)
        sigma = None
    return submit(net, data, folder, method=method or Path(model).stem, sigma_255=sigma, ensemble=ensemble)


# ---- notebooks and the book


@app.command(cls=Command)
def run(
    notebook: Annotated[str, typer.Argument(help="Name of a notebook in notebooks/.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Executed copy; _build/notebooks/NAME.ipynb by default."),
    ] = None,
) -> None:
    """Run a notebook of the study with parameters of one's own (papermill)."""
    from repro import files

    folder = files.root() / "notebooks"
    name = Path(notebook).stem
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        raise unknown_name("notebook", notebook, sorted(found.stem for found in folder.glob("*.ipynb")))
    out = (out or files.root() / "_build" / "notebooks" / path.name).resolve()
    if out == path.resolve():
        raise ReproError(f"{out} is the notebook itself; name another output.")

    import papermill

    defaults = {key: found["default"] for key, found in papermill.inspect_notebook(str(path)).items()}
    values = _parameters(name, defaults, parameter or [])

    from repro.publish import execute

    typer.echo(f"Written: {execute(name, out, **values)}")


def _parameters(notebook: str, defaults: dict[str, str], given: list[str]) -> dict:
    """The assignments in ``given``, checked against a notebook's parameters: names and kinds of values."""
    values = {}
    for name, value in _assignments(given).items():
        if name not in defaults:
            listed = ", ".join(defaults) or "none"
            raise ReproError(f"The notebook {notebook} has no parameter {name!r}; it has {listed}.")
        default = _value(defaults[name])
        if isinstance(default, str) and not isinstance(value, str):
            value = next(text.partition("=")[2] for text in given if text.startswith(f"{name}="))
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ReproError(f"The parameter {name} of {notebook} is True or False, not {value!r}.")
        if type(default) in (int, float) and type(value) not in (int, float, type(None)):
            raise ReproError(f"The parameter {name} of {notebook} is a number, not {value!r}.")
        values[name] = value
    return values


@app.command(cls=Command)
def book(
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Build the book from the executed notebooks (`make book` runs those first)."""
    from repro import publish

    page = publish.build()
    typer.echo(f"Built: {page}")
    if open_it:
        typer.launch(page.as_uri())


# ---- data


@data_app.command("list", cls=Command)
def list_data(
    names: Annotated[list[str] | None, typer.Argument(help="Sets of which to tell all: terms, home, citation.")] = None,
) -> None:
    """Every set: images, role, whether it is here, and what it is."""
    from repro.data import catalog

    for entry in [catalog.find(name) for name in names or []]:
        about = {"what": entry.title, "images": entry.images or "", "role": entry.role, "terms": entry.licence}
        about |= {"home": entry.home, "cite": entry.citation, "note": entry.note, "to obtain": entry.obtain}
        about |= {"sizes": ", ".join(f"{count} of {size}" for size, count in entry.sizes.items())}
        about |= {"here": catalog.locate(entry.name) or "no", "checksum": entry.sha256 if entry.files else ""}
        typer.echo(f"{entry.name}\n" + "\n".join(f"  {key:<9} {value}" for key, value in about.items() if value))
    if names:
        return
    for name, entry in catalog.DATASETS.items():
        here = "here" if catalog.locate(name) else "on request" if not entry.at_home() else "to fetch"
        typer.echo(f"{name:<16} {entry.images or '':>4} {entry.role:<21} {here:<11} {entry.title}")


Name = Annotated[str, typer.Argument(help="See `repro data list`.")]


@data_app.command(cls=Command)
def path(name: Name) -> None:
    """Print the folder of a set, verified; download it first if need be."""
    from repro.data import catalog

    typer.echo(catalog.folder(name))


@data_app.command(cls=Command)
def fetch(names: Annotated[list[str], typer.Argument(help="See `repro data list`.")]) -> None:
    """Download sets from their homes into the cache."""
    from repro.data import catalog

    for name in names:
        typer.echo(f"{name}: {catalog.fetch(name, progress=sys.stderr.isatty())}")


@data_app.command(cls=Command)
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="All that are here, by default.")] = None,
) -> None:
    """Compute the checksums of all files anew."""
    from repro.data import catalog, official

    failures = []
    for name in names or [name for name in catalog.DATASETS if catalog.locate(name)]:
        try:
            where, entry = catalog.verify(name), catalog.DATASETS[name]
            if entry.layout:
                typer.echo(f"{name}: {official.count(entry.layout, where)} images, laid out as they should be")
            elif entry.files:
                typer.echo(f"{name}: {len(entry.files)} files as they should be")
            else:
                typer.echo(f"{name}: {len(catalog.paths(name))} images, of which no checksums are known")
        except ReproError as error:
            failures.append(name)
            _complain(str(error))
    if failures:
        raise ReproError(f"Not as they should be: {', '.join(failures)}.")


@data_app.command("noise", cls=Command)
def measure_noise(
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="File of the table; results/camera_noise.csv by default."),
    ] = None,
) -> None:
    """Measure the noise of the cameras whose photographs the sets of pairs hold: strength, grain, what an estimate
    makes of it."""
    from repro import camera_noise

    table = camera_noise.measure_sets()
    means = table.drop(columns=table.filter(like="control").columns).groupby("dataset").mean(numeric_only=True)
    typer.echo(means.to_string(float_format="{:.2f}".format))
    typer.echo(f"Stored: {camera_noise.save(table, out)}")


# ---- the study


Results = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", parser=_whole_path, help="Folder of records and weights; the repository's results by default."
    ),
]
Listed = Annotated[
    Path | None,
    typer.Option("--experiments", metavar="PATH", parser=_path, help="Another list than results/experiments.toml."),
]


@app.command(cls=Command)
def campaign(
    hours: Annotated[float | None, typer.Option(min=0, help="Stop after so many hours.")] = None,
    budget: Annotated[str | None, typer.Option(help="smoke, cpu, gpu or paper; by default what fits here.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="An experiment, or a pattern such as 'sadnet-gray-*', of what fits here; repeat for more."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say what is done and what is missing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The status for programs to read.")] = False,
    results: Results = None,
    listed: Listed = None,
) -> None:
    """Run what is missing of the study. Kill it at any moment; the same command goes on."""
    from repro.study import campaign as study
    from repro.study import experiments

    everything, names = experiments.load(listed), tuple(only or ())
    if status or as_json:
        chosen = study.choose(everything, budget, names) if budget or names else everything
        if results and not results.is_dir():  # a new folder may be meant, or another one that was mistyped
            typer.echo(f"There is no folder {results} yet.", err=True)
        frame = study.status(results, chosen)
        typer.echo(frame.to_json(orient="records", indent=1) if as_json else study.format_status(frame))
        return
    start = time.monotonic()
    try:
        study.run(hours, budget, names, results=results, experiments=everything, say=_say)
    except study.Stopped as error:
        if hours is None or time.monotonic() - start < hours * 3600 - 1:
            _complain(str(error))
            raise typer.Exit(130) from None
        typer.echo(f"The {hours:g} hours are over; the same command goes on.")  # as was asked


@app.command(cls=Command)
def accelerator(
    minutes: Annotated[float, typer.Option(min=0, callback=_finite, help="What the whole takes, at most.")] = 25,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            parser=_whole_path,
            help="Folder of all that is written, unfinished runs included; the repository's results by default.",
        ),
    ] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="With `smoke` experiments, and without a GPU.")] = False,
    listed: Listed = None,
) -> None:
    """Use a GPU for some minutes: check the operator, time it, train the next `gpu` experiments that wait.

    Kill it at any moment; the same command goes on. Verdicts are left to `repro claims --write`.
    """
    began = time.monotonic()  # loading torch takes some of the time

    from repro import accelerator as sitting
    from repro.study import campaign as study
    from repro.study import experiments

    try:
        sitting.run(minutes, out, rehearse=rehearse, began=began, experiments=experiments.load(listed), say=_say)
    except study.Stopped as error:
        _complain(str(error))
        raise typer.Exit(130) from None


@app.command(cls=Command)
def experiment(
    name: Annotated[str, typer.Argument(help="See `repro campaign --status`.")],
    seed: Annotated[int, typer.Option(min=0, help="One of those that the list names.")] = 0,
    results: Results = None,
    listed: Listed = None,
) -> None:
    """Carry out one seed of one experiment: what the Snakefile starts as a job.

    Under torchrun the processes share each training batch. Verdicts are left to `repro claims --write`.
    """
    from repro.study import campaign as study
    from repro.study import experiments

    try:
        home = study.run_one(name, seed, results=results, experiments=experiments.load(listed), say=_say)
    except study.Stopped as error:
        _complain(str(error))
        raise typer.Exit(130) from None
    typer.echo(f"Record: {home}")


def _say(line: str) -> None:
    typer.echo(f"[{time.strftime('%H:%M:%S')}] {line}")


@app.command(cls=Command)
def claims(
    pattern: Annotated[str, typer.Argument(help="Ids, as a shell pattern: '001-t3-*'.")] = "*",
    check: Annotated[
        bool, typer.Option("--check", help="Check the file's rules, and that verdicts and README.md follow.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Settle all claims anew: writes results/verdicts.csv and README.md.")
    ] = False,
) -> None:
    """List what the papers claim, one published number a line."""
    from repro import readme
    from repro.study import claims as ledger
    from repro.study import verdicts

    frame = ledger.load()
    if write:
        typer.echo(f"Written: {verdicts.save(verdicts.settle_all(verdicts.Study.load()))}")
        typer.echo(f"Written: {readme.save()}")
    if check:
        settled = verdicts.check()
        readme.check()
        typer.echo(f"{len(frame)} claims and {settled} verdicts, all in order.")
    if check or write:
        return
    chosen = ledger.match(frame, [pattern])
    if not len(chosen):
        raise ReproError(f"No claim has an id like {pattern!r}.")
    for row in chosen.itertuples():
        where = f"{row.table}, {row.dataset} {row.colour}".rstrip(" ,")
        level = "" if math.isnan(row.sigma_255) else f" sigma {row.sigma_255:g}"
        typer.echo(f"{row.id:<48} {row.metric} {row.value} {row.unit}  ({row.method} {row.variant}: {where}{level})")


@bench_app.callback()
def bench() -> None:
    """Measure the speed of this machine."""
    from repro.allocator import keep_freed_memory

    keep_freed_memory()  # as in training and in a campaign


@bench_app.command("op", cls=Command)
def bench_op(
    device: Device = "auto",
    rounds: Annotated[int | None, typer.Option(min=1, help="Measurements per row.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Folder of the tables; results/benchmarks by default."),
    ] = None,
) -> None:
    """Time the deformable convolution against torchvision's and an ordinary one."""
    from repro.benchmark import bench_op as measure

    measure(_device(device), rounds=rounds, folder=out, echo=typer.echo)


@bench_app.command("cost", cls=Command)
def bench_cost(
    device: Device = "auto",
    network: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated. All, by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Measurements per network.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Folder of the tables; results/benchmarks by default."),
    ] = None,
) -> None:
    """Parameters, operations, seconds and memory of every network for a 480x320 colour image."""
    from repro.benchmark_cost import bench_cost as measure

    measure(_device(device), networks=tuple(network or ()) or None, rounds=rounds, folder=out, echo=typer.echo)


@bench_app.command("blindspot", cls=Command)
def bench_blindspot(
    device: Device = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Patches of a step.")] = 4,
    patch: Annotated[int, typer.Option(min=2, help="Their side in pixels.")] = 64,
    rounds: Annotated[int | None, typer.Option(min=1, help="Measurements per row.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Folder of the tables; results/benchmarks by default."),
    ] = None,
) -> None:
    """Time SSDN's training step, and its baselines', against plain convolutions of the same shapes."""
    from repro.benchmark_blindspot import bench_blindspot as measure

    measure(_device(device), batch=batch, patch=patch, rounds=rounds, folder=out, echo=typer.echo)


@bench_app.command("step", cls=Command)
def bench_step(
    model: Annotated[str, typer.Argument(help="A network, such as scaoednet.")],
    device: Device = "auto",
    size: Annotated[list[str] | None, typer.Option(help="name=value, such as stages=3; may be repeated.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Patches of a step.")] = 16,
    patch: Annotated[int, typer.Option(min=1, help="Their side in pixels.")] = 64,
    rounds: Annotated[int | None, typer.Option(min=1, help="Measurements per setting.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Folder of the tables; results/benchmarks by default."),
    ] = None,
) -> None:
    """Seconds and memory of a training step, and where they go: layout, precision, recomputation."""
    from repro.benchmark_step import bench_step as measure

    shape = {"sizes": _assignments(size), "batch": batch, "patch": patch}
    measure(model, _device(device), **shape, rounds=rounds, folder=out, echo=typer.echo)


@bench_app.command("naive", cls=Command)
def bench_naive(
    batch: Annotated[int, typer.Option(min=1, help="Patches of a step.")] = 8,
    patch: Annotated[int, typer.Option(min=16, help="Their side in pixels.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements per row.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=_path, help="Folder of the tables; results/benchmarks by default."),
    ] = None,
) -> None:
    """What BM3D as naive denoiser adds to a training step of GradNet, beside a DnCNN. About a minute."""
    from repro.benchmark_naive import bench_naive as measure

    measure(batch=batch, patch=patch, rounds=rounds, folder=out, echo=typer.echo)


@app.command(cls=Command)
def doctor() -> None:
    """What this machine has: versions, devices, which deformable convolution runs and why, data, disk."""
    from repro.doctor import examine

    for subject, finding in examine():
        first, *more = finding.splitlines()
        typer.echo(f"{subject + ':':<15}{first}")
        for line in more:
            typer.echo(f"{'':<15}{line}")


# ---- text to values


def _assignments(texts: list[str] | None) -> dict:
    """``["a=1", "b=x"]`` as ``{"a": 1, "b": "x"}``."""
    values = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ReproError(f"{text!r} is not of the form name=value.")
        values[name] = _value(value)
    return values


def _value(text: str):
    """A Python literal where it is one (12, 1e-4, True, None, [1, 2]), else the text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    return text


def _levels(text: str) -> float | tuple[float, float]:
    """Noise level "50", or a range "0,70"."""
    try:
        low, *high = (float(part) for part in text.split(","))
    except ValueError:
        raise ReproError(f"The noise level {text!r} is no number and no range such as 0,70.") from None
    if len(high) > 1 or not 0 <= low <= (high or [low])[0] < math.inf:
        raise ReproError(f"The noise level {text!r} is no number from 0 up and no range such as 0,70.")
    return (low, *high) if high else low


if __name__ == "__main__":
    main()
