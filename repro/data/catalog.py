"""The data sets of the study: what they are, where they come from, and how to have them here, verified.

``catalog.json`` lists for each set its role, licence, home, citation, and the SHA-256 of every file. A set is
looked for in this order:

1. the mirror, a folder that the environment variable ``REPRO_DATA`` names, with one folder per set;
2. the cache of earlier downloads (:func:`repro.files.cache`);
3. its home, from which :func:`fetch` downloads it into the cache (pooch; every file is checked on arrival).

``embedded-train`` and ``embedded-test`` are photographs that scikit-image ships; they need none of this. SIDD, DND,
RENOIR and Nam's whole images have no checksums here: they are read from the mirror as their homes hand them out
(:mod:`repro.data.official`). Nor are there any of DIV2K, of which the files' names are known.

A set is checked against its checksums before it is used. The result is remembered with the size and time of
change of every file, so the next start only asks for those.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from repro import files as places
from repro.data import official
from repro.data.images import crop_centre, is_image, luma, read_image
from repro.errors import ReproError, unknown_name

SIDES = ("clean", "noisy")


@dataclass(frozen=True)
class Sample:
    """One image of a set: float32 [C, H, W] in [0, 1]; ``noisy`` where the set has real noise, else None."""

    name: str
    clean: Tensor
    noisy: Tensor | None = None


@dataclass(frozen=True)
class DataSet:
    """An entry of the catalogue."""

    name: str
    title: str
    role: str  # "train" or "test", and whether its noise is real
    colour: str
    home: str
    licence: str
    citation: str
    note: str
    files: dict[str, str] = field(repr=False)  # path inside the set -> SHA-256
    sizes: dict[str, int] = field(default_factory=dict, repr=False)  # "width x height" -> images
    bytes: int = 0
    download: dict | None = field(default=None, repr=False)  # repository, commit, rename: [pattern, path]
    originals: dict = field(default_factory=dict, repr=False)  # path -> [name, SHA-256] at home, if other
    obtain: str = ""  # why there is no download
    folder: str = ""  # folder in a mirror, where it is not the name
    crop: int | None = None  # side of the centred square that is used, None for whole images
    layout: str = ""  # name in repro.data.official.LAYOUTS, of a set that lies as its home hands it out
    members: dict = field(
        default_factory=dict
    )  # of a set without checksums: its files are name.format(first) to (last)

    @property
    def pairs(self) -> bool:
        """Whether each clean image has a noisy photograph of the same scene."""
        if self.layout:
            return official.LAYOUTS[self.layout].pairs is not None
        return any(path.startswith("noisy/") for path in self.files)

    @property
    def images(self) -> int:
        if self.members:
            return self.members["last"] - self.members["first"] + 1
        return len(self.files) // 2 if self.pairs else len(self.files)

    @cached_property
    def sha256(self) -> str:
        """One checksum for the whole set: of its list of checksums, and of the crop."""
        return _summarise(self.files, self.crop)

    def at_home(self) -> dict[str, tuple[str, str]]:
        """Name in the cache -> (address, SHA-256) of every file that the home of the set offers."""
        source = self.download or {"rename": []}
        offered = {}
        for path, sha256 in self.files.items():
            name, sha256 = self.originals.get(path, (path, sha256))
            for pattern, target in source["rename"]:
                if match := re.fullmatch(pattern, name):
                    address = f"{source['repository']}/{source['commit']}/{match.expand(target)}"
                    offered[name] = f"https://raw.githubusercontent.com/{address}", sha256
        return offered


def _read_catalog() -> dict[str, DataSet]:
    listing = json.loads(Path(__file__).with_name("catalog.json").read_text(encoding="utf-8"))
    sets = {name: DataSet(**{"name": name, "folder": name} | entry) for name, entry in listing.items()}
    sets["kodak24-crop500"] = replace(
        sets["kodak24"],
        name="kodak24-crop500",
        title="The 500x500 centres of kodak24",
        sizes={"500x500": 24},
        crop=500,
        note="As some repositories carry them. Published averages for Kodak24 do not belong to them.",
    )
    return sets


DATASETS: dict[str, DataSet] = _read_catalog()


def find(name: str) -> DataSet:
    """The entry called ``name``. Raises :class:`ReproError` that lists the names."""
    try:
        return DATASETS[name]
    except KeyError:
        raise unknown_name("data set", name, DATASETS) from None


def folder(name: str) -> Path:
    """The folder with the verified files of the set ``name``, downloaded first if need be.

    Raises :class:`ReproError` naming set and file for a missing or altered file, for a download that fails,
    and for a set that its home alone hands out.
    """
    entry = find(name)
    where = locate(name)
    if where is None:
        return fetch(name)
    _verify(entry, where)
    return where


def locate(name: str) -> Path | None:
    """Where the set lies on this machine, unverified, or None: a mirror, the cache, scikit-image."""
    entry = find(name)
    if name.startswith("embedded-"):
        package = find_spec("skimage")
        if package is None:
            raise ReproError(f"{name} is part of scikit-image, which is not installed.")
        return Path(package.submodule_search_locations[0]) / "data"
    mirror = os.environ.get("REPRO_DATA")
    if mirror and not Path(mirror).is_dir():
        raise ReproError(f"REPRO_DATA names {mirror}, which is not a folder.")
    here = Path(mirror) / entry.folder if mirror else None
    if entry.layout:
        return here if here and official.LAYOUTS[entry.layout].find(here) else None
    if here and here.is_dir():
        return here
    cached = _cache(entry)
    complete = entry.files and all((cached / path).exists() for path, _ in _stored(entry, cached).values())
    return cached if complete else None


def fetch(name: str, progress: bool = False) -> Path:
    """Download the set from its home into the cache, unless it is here, and return its verified folder.

    An interrupted download goes on where it stopped, file by file.
    """
    entry = find(name)
    where = locate(name)
    if where is not None:
        _verify(entry, where)
        return where
    offered = entry.at_home()
    if not offered:
        what = official.LAYOUTS[entry.layout].contents if entry.layout else "it"
        raise ReproError(
            f"{name} cannot be downloaded from here: {entry.obtain}. Get it at {entry.home}, put {what} in a "
            f"folder named {entry.folder}, and set REPRO_DATA to the folder that holds this one."
        )
    import pooch
    from requests import RequestException
    from tqdm import tqdm

    pooch.get_logger().setLevel("WARNING")
    cached = _cache(entry)
    try:
        store = pooch.create(
            path=cached,
            base_url="",
            registry={path: f"sha256:{sha256}" for path, (_, sha256) in offered.items()},
            urls={path: address for path, (address, _) in offered.items()},
        )
        for path in tqdm(offered, desc=name, unit="file", disable=None if progress else True):
            store.fetch(path, downloader=pooch.HTTPDownloader(timeout=60))
    except (OSError, RequestException) as error:
        reason = "no connection" if isinstance(error, RequestException) and error.response is None else error
        raise ReproError(
            f"Cannot download {path} of {name} from {offered[path][0]} ({reason}); "
            f"with a copy at hand, set REPRO_DATA to the folder that holds the folder {entry.folder}."
        ) from None
    except ValueError as error:  # pooch: the checksum differs
        raise ReproError(f"{path} of {name} arrived damaged from {offered[path][0]}: {error}.") from None
    _verify(entry, cached)
    return cached


def verify(name: str) -> Path:
    """Check every file of the set anew, whatever is remembered, and return its folder."""
    entry = find(name)
    where = locate(name)
    if where is None:
        how = f"`repro data fetch {name}` downloads it" if entry.at_home() else entry.obtain.rstrip(".")
        raise ReproError(f"{name} is not on this machine; {how}.")
    _verify(entry, where, anew=True)
    return where


def paths(name: str) -> list[tuple[str, Path, Path | None]]:
    """(image name, clean file, noisy file or None) of every image of the set, in the order of the names.

    ``name`` may also be a folder of one's own: of clean images, or with the folders ``clean`` and ``noisy``
    that hold files of the same names, or in one of the layouts of :mod:`repro.data.official`. There one file may hold
    many images, and the file named is the first of those that a clean image is the mean of.
    """
    own = Path(name)
    if (pairs := _official(name)) is not None:
        return [(pair.name, pair.clean, pair.noisy) for pair in pairs]
    if name not in DATASETS and own.is_dir():
        where, listed = own, {}
    else:
        where = folder(name)
        listed = {path: stored for path, (stored, _) in _stored(find(name), where).items()}
    if not listed:  # a folder of one's own, or a set of which the catalogue knows no checksums
        listed = {path: path for path in _images_in(where)}
        if name in DATASETS and DATASETS[name].members:
            listed = _keep_members(DATASETS[name], where, listed)
    if not listed:
        raise ReproError(f"There is no image in {where}.")
    noisy = {_plain(path): where / stored for path, stored in listed.items() if path.startswith("noisy/")}
    clean = sorted((_plain(path), where / stored) for path, stored in listed.items() if not path.startswith("noisy/"))
    names = [image for image, _ in clean]
    if twice := [image for image, after in pairwise(names) if image == after]:
        raise ReproError(f"Two images in {where} are called {twice[0]}; the noise of an image depends on its name.")
    if noisy and sorted(noisy) != names:
        raise ReproError(f"The files in {where / 'noisy'} and {where / 'clean'} do not have the same names.")
    return [(image, path, noisy.get(image)) for image, path in clean]


def identify(name: str) -> str:
    """SHA-256 that tells which images the set ``name`` was, for records: the catalogue's, or one of what is here.

    Of a set that the catalogue has no checksums of, the files that :func:`paths` names are read for it, which for a
    clean image that is the mean of several files is the first of them. In which folder they lie does not matter.
    """
    entry = find(name)
    if entry.files:
        return entry.sha256
    named = {f"{side}/{image}": path for image, *pair in paths(name) for side, path in zip(SIDES, pair, strict=True)}
    found = {path: places.sha256(path) for path in {*named.values()} - {None}}  # one file may hold many images
    return _summarise({image: found[path] for image, path in named.items() if path is not None}, entry.crop)


def samples(name: str, colour: str | None = "RGB", limit: int | None = None) -> Iterator[Sample]:
    """The images of the set one by one, as :func:`load` gives them, with one in memory at a time."""
    pairs = _official(name)
    if pairs is not None:
        for pair in pairs[:limit]:
            clean, noisy = pair.read()
            yield Sample(pair.name, _in_colour(clean, colour), _in_colour(noisy, colour))
        return
    crop = DATASETS[name].crop if name in DATASETS else None
    for image, clean, noisy in paths(name)[:limit]:
        pair = [read_image(path, colour) if path else None for path in (clean, noisy)]
        if crop is not None:
            pair = [crop_centre(image, crop) if image is not None else None for image in pair]
        if noisy and pair[0].shape != pair[1].shape:
            seen, true = (f"{side.shape[2]} x {side.shape[1]}" for side in reversed(pair))
            raise ReproError(f"{image} of {name} is {seen} pixels where it is noisy and {true} where it is clean.")
        yield Sample(image, *pair)


def load(name: str, colour: str | None = "RGB", limit: int | None = None) -> list[Sample]:
    """The images of the set ``name`` (or of a folder of one's own, see :func:`paths`), the first ``limit`` of
    them.

    ``colour`` "RGB" gives three channels (gray repeated), "L" one (BT.601 luma rounded to 8 bits, as gray
    test sets are made), None what each file holds. Names are those of the files without suffix.
    """
    return list(samples(name, colour, limit))


def sample(name: str, image: str, colour: str | None = "RGB") -> Sample:
    """The image called ``image`` of the set ``name``. Raises :class:`ReproError` that lists those there are."""
    seen = []
    for one in samples(name, colour):
        if one.name == str(image):
            return one
        seen.append(one.name)
    raise unknown_name("photograph", str(image), seen)


def find_layout(name: str, layout: str) -> Path:
    """Where the set ``name``, or a folder or file of one's own, begins to be laid out as ``layout`` says.

    Raises :class:`ReproError` if it is not there, or not laid out like that.
    """
    return official.locate(layout, folder(name) if name in DATASETS or not Path(name).exists() else Path(name))


def _official(name: str) -> list[official.Pair] | None:
    """The pairs of a set, folder or file in one of the layouts of :mod:`repro.data.official`; None for others."""
    if name in DATASETS:
        layout = DATASETS[name].layout
        return official.list_pairs(layout, folder(name)) if layout else None
    own = Path(name)
    if not own.is_dir() and own.suffix.lower() != ".mat":
        return None
    layout = official.recognise(own)
    if layout is None and own.is_file():
        raise ReproError(
            f"{own} is no file of pairs that is known here, which SIDD's validation blocks and Nam's images are; it "
            f"holds {', '.join(official.names_in(own)) or 'nothing'}."
        )
    return official.list_pairs(layout, own) if layout else None


def _in_colour(image: Tensor, colour: str | None) -> Tensor:
    """[C, H, W] as :func:`repro.data.images.read_image` gives it."""
    if colour == "RGB":
        return image.expand(3, -1, -1).contiguous()
    return luma(image) if colour == "L" and len(image) == 3 else image


def _plain(path: str) -> str:
    # PolyU tells the two files of a pair apart by the ends of their names.
    return re.sub(r"_(real|mean)$", "", Path(path).stem)


def _images_in(where: Path) -> list[str]:
    return sorted(path.relative_to(where).as_posix() for path in where.rglob("*") if is_image(path, where))


def _keep_members(entry: DataSet, where: Path, found: dict[str, str]) -> dict[str, str]:
    """Those of ``found`` that belong to the set: its home's other archives may lie beside them.

    Raises :class:`ReproError` where one of them is not there, as after an archive that was unpacked in part.
    """
    numbers = range(entry.members["first"], entry.members["last"] + 1)
    wanted = dict.fromkeys(entry.members["name"].format(number) for number in numbers)
    kept = {path: stored for path, stored in found.items() if Path(path).name.lower() in wanted}
    if missing := list(wanted.keys() - {Path(path).name.lower() for path in kept}):
        raise ReproError(
            f"{where} does not hold all {len(wanted)} images of {entry.name}: {min(missing)} is missing"
            f"{f', and {len(missing) - 1} more' if len(missing) > 1 else ''}."
        )
    return kept


def _summarise(files: dict[str, str], crop: int | None) -> str:
    """One checksum of many, {path: SHA-256}, and of how the images are cropped."""
    listing = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256(f"{listing}crop {crop}\n".encode()).hexdigest()


def _cache(entry: DataSet) -> Path:
    return places.cache() / "data" / entry.folder


def _stored(entry: DataSet, where: Path) -> dict[str, tuple[str, str]]:
    """Listed path -> (path, SHA-256) of the files as ``where`` has them: the copies listed, or the
    originals."""
    if entry.originals and not any((where / path).exists() for path in entry.files):
        return {path: (name, sha256) for path, (name, sha256) in entry.originals.items()}
    return {path: (path, sha256) for path, sha256 in entry.files.items()}


def _verify(entry: DataSet, where: Path, anew: bool = False) -> None:
    if not entry.files:
        return
    stored = dict(_stored(entry, where).values())
    try:
        stats = [(where / path).stat() for path in stored]
    except OSError as error:
        message = f"{error.filename} of the data set {entry.name} cannot be read: {error.strerror}."
        raise ReproError(message) from None
    state = [stored, [(stat.st_size, stat.st_mtime_ns) for stat in stats]]
    state_sha256 = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    place = hashlib.sha256(str(where.resolve()).encode()).hexdigest()[:12]
    stamp = places.cache() / "verified" / f"{entry.name}-{place}"
    with suppress(OSError):  # not there yet
        if not anew and stamp.read_text() == state_sha256:
            return
    for path, sha256 in stored.items():
        if places.sha256(where / path) != sha256:
            raise ReproError(
                f"{where / path} is not the file of the data set {entry.name} (its SHA-256 differs from the "
                f"catalogue's): delete it and get it again."
            )
    with suppress(ReproError), places.write_atomically(stamp) as temporary:  # if it cannot be: check again
        temporary.write_text(state_sha256)
