"""Records made up for the tests of verdicts and tables: per-image values as given, the rest plausible."""

import pandas as pd
import pytest

from repro.study import records


@pytest.fixture
def make_record(tmp_path):
    """``make_record("sadnet-colour-50", psnr_db=[...])`` writes and reads a record in a temporary folder."""
    return _maker(tmp_path)


@pytest.fixture(scope="module")
def make_lasting_record(tmp_path_factory):
    """The same for all tests of a module."""
    return _maker(tmp_path_factory.mktemp("records"))


def _maker(parent):
    def make(
        experiment, psnr_db, *, method="sadnet", variant="full", budget="cpu", steps=10, seed=0,
        sigma_255=50.0, colour="rgb", dataset="kodak24", offsets=None, ssim=20.0, **hyperparameters,
    ):  # fmt: skip
        folder = parent / "runs" / experiment / f"seed{seed}"
        folder.mkdir(parents=True)
        metrics = pd.DataFrame({metric: 20.0 for metric in records.METRICS}, index=range(len(psnr_db)))
        metrics["psnr_db"] = psnr_db
        metrics["ssim"] = ssim
        metrics.insert(0, "image", [f"image{k}" for k in range(len(psnr_db))])
        name = dataset if sigma_255 is None else f"{dataset}-{sigma_255:g}"
        metrics["height"], metrics["width"] = 10, 20
        metrics["evaluation"] = name
        metrics.to_csv(folder / "metrics.csv", index=False)
        if offsets is not None:
            offsets.to_csv(folder / "offsets.csv", index=False)
        settings = {"model": method, "sizes": {}, "seed": seed, "steps": steps} | hyperparameters
        evaluation = {
            "name": name,
            "dataset": dataset,
            "sigma_255": sigma_255,
            "clip": False,
            "round_8bit": False,
        }
        content = {
            "experiment": experiment, "method": method, "variant": variant, "colour": colour,
            "sigma_255": sigma_255, "seed": seed, "budget": budget,
            "hyperparameters": {k: {"value": v, "origin": "the test"} for k, v in settings.items()},
            "commit": "none", "versions": {}, "device": "none, 1 cores", "threads": 1, "started": "now",
            "seconds": 1.0, "steps": steps, "peak_memory_mib": 1, "parameters": 1, "data": [],
            "evaluations": [evaluation | {"patch": None} | records.summarise(metrics)],
            "command": f"repro campaign --only {experiment}",
        }  # fmt: skip
        records.write(content, folder)
        return records.read(folder)

    return make
