"""One training loop for every network of the study.

>>> config = TrainConfig(model="sadnet", data="bsd400", sigma_255=50, steps=14_000)
>>> weights = train(config, "runs/sadnet-colour-50/seed0")     # trains, or goes on where it was interrupted

A run lives in a folder: ``config.json``, ``checkpoint.safetensors`` (and the one before it), ``curve.csv``,
and at the end ``weights.safetensors`` and ``summary.json``. It may be killed at any moment. With a budget
in steps, on the same machine and CPU with the same number of threads, the resumed run ends with the same
float32 weights, bit for bit: the data of a step depend on (seed, step) alone, every random number a network
or loss draws is re-seeded per step, and a checkpoint holds the rest. A budget in seconds cannot promise
that, since the clock decides where it stops.

Validation uses photographs that are kept out of training, never a test set: the last ``validation_images``
of the training set in the catalogue's order, the central 256 x 256 of each, in the training precision, with
fixed noise.

Real noise: ``pairs`` names a set of noisy and clean photographs, or a folder with ``noisy`` and ``clean``, from
which ``pairs_share`` of each batch is cut; the rest is ``data`` with the noise of the configuration or of the
objective. Validation then uses pairs, with their own noise, of scenes from which nothing is trained on.

>>> config = TrainConfig(model="sadnet", pairs="polyu", pairs_share=1.0, loss="l1", steps=1_000)
"""

import math
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from inspect import isfunction, signature
from itertools import chain
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from tqdm import tqdm

import repro
from repro import devices, run_folder
from repro.allocator import begin_peak, keep_freed_memory, measure_peak_mib
from repro.checkpoint import newest_checkpoint, write_checkpoint
from repro.data.patches import Patches
from repro.data.training import corruption, gather
from repro.errors import ReproError, warn
from repro.files import locked
from repro.metrics import psnr_db
from repro.models import model_class
from repro.models.ssdn import KEYWORDS, NoiseSizes
from repro.ops import DeformConv2d
from repro.parallel import choose_strategy, share_batch_norm
from repro.timing import name_processor
from repro.train_config import TrainConfig, learning_rate, position
from repro.weights import checksum, load, save


class Interrupted(ReproError):
    """The run was asked to stop (SIGINT, SIGTERM) and did, after writing a checkpoint."""


LOSSES = {
    "l2": lambda net, noisy, clean, step: mse_loss(net(noisy), clean),
    "l1": lambda net, noisy, clean, step: l1_loss(net(noisy), clean),
}


def train(
    config: TrainConfig, folder: str | Path, *, progress=None, device: str = "auto", results: Path | None = None
) -> Path:
    """Train in ``folder``, or resume what is there, and return the path of the final weights.

    A finished run is left as it is, whether its checkpoints are still there or not; only weights that are damaged are
    written anew, from the newest checkpoint. The final weights are the averaged ones where ``ema_decay`` is set.
    ``progress`` is called with each row of the curve (a dict); left out, there is a progress bar on a terminal and a
    line every half minute elsewhere. ``device`` is what :func:`repro.devices.choose` takes. Started by ``torchrun``,
    the processes share each batch (:mod:`repro.parallel`) and see the same ``folder``. ``results`` is a folder whose
    weights come before the study's where a part of the network is to start from published ones.

    Raises :class:`Interrupted` after SIGINT or SIGTERM, and :class:`ReproError` for a folder that holds
    another run or somebody else's files by the names of a run's, is in use or has damaged checkpoints alone, for a
    loss or gradient that is not finite, and for a disk that is full. Before settings and data have proved to be in
    order, nothing but the lock is written.
    """
    folder = Path(folder)
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    accelerator, _, index = devices.choose(device).partition(":")
    if index and local > 1:
        raise ReproError(f"{local} processes have a GPU each: choose cuda, not {device}.")
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else local,
        num_nodes=world // local,
        strategy=choose_strategy(world),
        precision={"32": "32-true", "bf16": "bf16-mixed"}[config.precision],
    )
    fabric.launch()
    with ExitStack() as stack:
        if fabric.global_rank == 0:
            run_folder.require_no_others_files(folder)
            stack.enter_context(locked(folder / ".lock", f"Another process is training in {folder}."))
            run_folder.require_same_settings(folder, config)
        fabric.barrier()
        if run_folder.is_finished(folder, speaks=fabric.global_rank == 0):
            if fabric.global_rank == 0:
                run_folder.sweep_up(folder)
            return folder / run_folder.WEIGHTS
        if fabric.device.type == "cpu":
            keep_freed_memory()
            begin_peak()
        else:
            torch.cuda.reset_peak_memory_stats(fabric.device)  # a campaign trains one after the other in a process
        stack.enter_context(_repeatable(fabric.device))
        stop = stack.enter_context(_signals(speaks=fabric.global_rank == 0))
        try:
            return _Run(config, folder, fabric, progress, results).finish(stop)
        except OSError as error:
            raise ReproError(f"Cannot write in {folder}: {error.strerror or error}.") from error


class _Run:
    """The state of a run and the few things done with it."""

    def __init__(self, config: TrainConfig, folder: Path, fabric: Fabric, progress, results: Path | None = None):
        self.config, self.folder, self.fabric = config, folder, fabric
        self.step, self.seconds, self.started = 0, 0.0, datetime.now(UTC).isoformat(timespec="seconds")
        self.tally = {"steps": 0, "loss": 0.0, "gradient_norm": 0.0}  # since the last row of the curve
        self.row: dict = {}  # the last of the curve
        self.validated: list[float] = []  # PSNR in dB of each validation so far
        self.saved = 0  # step of the last checkpoint
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.layout = layout
        channels = {"rgb": 3, "gray": 1}[config.colour]
        torch.manual_seed(config.seed)
        implied = getattr(sys.modules[model_class(config.model).__module__], "IMPLIED_SIZES", {}).get(config.loss, {})
        net = repro.build(config.model, **({"channels": channels} | implied | config.sizes))
        if net.sizes.channels != channels:
            raise ReproError(f"A network of {net.sizes.channels} channels cannot learn {config.colour} images.")
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise ReproError(f"{config.model} has nothing to be trained.")
        found = newest_checkpoint(folder)
        if found is None:
            _start_parts(net, results)
        self.net = net.to(fabric.device, memory_format=layout).train()
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        if fabric.world_size > 1:
            share_batch_norm(self.net)
        self.averaged = deepcopy(self.net) if config.ema_decay else self.net
        self.objective = _find_objective(config.loss, self.net)
        if check := getattr(sys.modules[type(self.net).__module__], "check_training", None):
            check(self.net.sizes, config.loss, config.sigma_range, config.clip or config.round_8bit, config.steps)
        module, takes = sys.modules[type(self.net).__module__], signature(self.objective).parameters
        self.tells_real = "real" in takes
        self.tally |= dict.fromkeys(module.TERMS if "terms" in takes else (), 0.0)
        self.estimate = getattr(module, "estimate_in_training", _estimate)
        if config.pairs is not None:
            self._require_pairs_to_be_of_use()
        keyword, level = _middle_level(config, self.net)
        self.told = {keyword: level / 255 if keyword == "sigma" else level} if _must_be_told(self.net) else {}
        self._resume(found)
        columns = chain.from_iterable(offset_columns(self.net).values())
        self.columns = ["step", "seconds", "loss", *self.terms, "lr", "gradient_norm", "psnr_db", *columns]
        self.wrapped, self.wrapped_optimiser = fabric.setup(self.net, self.optimiser)
        self.progress = progress

    def _require_pairs_to_be_of_use(self) -> None:
        config = self.config
        if config.loss not in LOSSES and not self.tells_real:
            raise ReproError(
                f"The loss {config.loss!r} of {config.model} takes no pairs: it draws its own noise, or learns without "
                f"clean images."
            )
        if self.net.needs_sigma:
            raise ReproError(
                f"This {config.model} must be told the noise level, and that of a real photograph is not known: it "
                f"takes no pairs."
            )

    # --- the loop ---------------------------------------------------------------------------------

    def finish(self, stop: list[int]) -> Path:
        images, pairs, self.validation = gather(self.config, *_middle_level(self.config, self.net))
        config, fabric, device = self.config, self.fabric, self.fabric.device
        on_gpu = device.type == "cuda"
        part = (fabric.global_rank, fabric.world_size)
        how = (config.patch, config.batch, config.seed, corruption(config), part)
        patches = Patches(images, *how, pairs, config.pairs_in_batch)
        if config.pairs is not None and self.tells_real:
            self.objective = partial(self.objective, real=patches.real.to(device))
        if fabric.global_rank == 0:  # settings and data can be trained with: from here on the folder is written to
            run_folder.claim(self.folder, config)
            run_folder.truncate(self.folder / "curve.csv", self.step)
        batches = patches.batches(self.step, workers=4 if on_gpu else 1, pin_memory=on_gpu)
        began = time.monotonic() - self.seconds
        with closing(batches), _progress(config, self.step, self.progress) as self.report:
            while not self.done:
                noisy, clean = (
                    tensor.to(device, non_blocking=True, memory_format=self.layout) for tensor in next(batches)
                )
                self._update(noisy, clean)
                self.seconds, stopped = self._agree(time.monotonic() - began, bool(stop))
                if self._due(config.log_every) or self._due(config.validate_every):
                    self._log()
                if self._due(config.checkpoint_every) or stopped:
                    self._save()
                if stopped and not self.done:
                    raise Interrupted(
                        f"Stopped after step {self.step} in {self.folder}; the same command goes on from it."
                    )
        if fabric.global_rank == 0:
            self._publish()
        fabric.barrier()
        return self.folder / run_folder.WEIGHTS

    @property
    def terms(self) -> list[str]:
        """Parts of the loss that the curve shows: a run that was begun without them goes on without them."""
        return [name for name in self.tally if name not in ("steps", "loss", "gradient_norm")]

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.done

    @property
    def done(self) -> bool:
        return position(self.config, self.step, self.seconds) >= 1

    def _update(self, noisy: Tensor, clean: Tensor) -> None:
        config = self.config
        rate = learning_rate(config, self.step, self.seconds, self.validated)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # What the network or its loss draws at random depends on (seed, step, process) alone as well.
        torch.manual_seed(hash((config.seed, self.step, self.fabric.global_rank)) % 2**63)
        noted: dict[str, Tensor] = {}
        told = {"terms": noted} if self.terms else {}
        loss = self.objective(self.wrapped, noisy, clean, self.step, **told)
        self.fabric.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.clip_norm or math.inf, foreach=True)
        means = [loss.detach().float(), *(noted[name].float() for name in self.terms)]
        means = [self.fabric.all_reduce(value) for value in means]  # over the processes
        norm, loss, *terms = torch.stack([norm.float(), *means]).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "gradient" if math.isfinite(loss) else "loss"
            kept = f"The checkpoint of step {self.saved} stays in {self.folder}" if self.saved else "None is saved yet"
            raise ReproError(
                f"Training stopped at step {self.step + 1}: the {what} is not finite. {kept}; a lower learning rate or"
                " float32 often helps."
            )
        self.wrapped_optimiser.step()
        self.wrapped_optimiser.zero_grad()
        self.step += 1
        self._average()
        self.tally["steps"] += 1
        for name, value in zip(("loss", "gradient_norm", *self.terms), (loss, norm, *terms), strict=True):
            self.tally[name] += value

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving average, whose decay grows from 0.1: the random start is soon forgotten."""
        if self.averaged is self.net:
            return
        decay = min(self.config.ema_decay, self.step / (self.step + 9))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.net.parameters()), 1 - decay)
        # The statistics of batch normalisation are a mean over the last ten batches: averaged like the weights, or
        # whatever these happened to show would decide the result.
        for average, buffer in zip(self.averaged.buffers(), self.net.buffers(), strict=True):
            if average.is_floating_point():
                average.lerp_(buffer, 1 - decay)
            else:
                average.copy_(buffer)

    def _agree(self, seconds: float, stopped: bool) -> tuple[float, bool]:
        """All processes go by the latest clock, and stop together."""
        if self.fabric.world_size == 1:
            return seconds, stopped
        both = torch.tensor([seconds, stopped], dtype=torch.float64, device=self.fabric.device)
        both = self.fabric.all_reduce(both, reduce_op="max")
        return float(both[0]), bool(both[1])

    # --- what is written --------------------------------------------------------------------------

    def _log(self) -> None:
        if self.fabric.global_rank == 0:
            self._write_row()
        if self._due(self.config.validate_every):
            psnr_db = self.row["psnr_db"] if self.fabric.global_rank == 0 else None
            self.validated.append(self.fabric.broadcast(psnr_db))

    def _write_row(self) -> None:
        count = self.tally["steps"]
        self.row = dict.fromkeys(self.columns, "") | {
            "step": self.step,
            "seconds": round(self.seconds, 2),
            "loss": self.tally["loss"] / count,
            "lr": learning_rate(self.config, self.step - 1, self.seconds, self.validated),
            "gradient_norm": self.tally["gradient_norm"] / count,
            **{name: self.tally[name] / count for name in self.terms},
        }
        if self._due(self.config.validate_every):
            self.row |= self.validate()
        self.tally = dict.fromkeys(self.tally, 0)
        run_folder.append(self.folder / "curve.csv", self.row)
        self.report(self.row)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean PSNR in dB of the averaged network over the validation crops; statistics of its offsets."""
        self.averaged.eval()
        psnr = []
        with watch_offsets(self.averaged) as offsets, self.fabric.autocast():
            for noisy, clean in self.validation:
                pair = (image[None].to(self.fabric.device, memory_format=self.layout) for image in (noisy, clean))
                estimate = self.estimate(self.averaged, *pair, **self.told)[0]
                psnr.append(psnr_db(clean, estimate.float().cpu().clamp(0, 1)))
        self.averaged.train()
        return {name: sum(values) / len(values) for name, values in {"psnr_db": psnr, **offsets}.items()}

    def _save(self) -> None:
        if self.fabric.global_rank != 0:
            return
        facts = {"step": self.step, "seconds": self.seconds, "started": self.started, "tally": self.tally}
        facts |= {"row": self.row, "validated": self.validated}
        facts |= {"device": str(self.fabric.device), "processes": self.fabric.world_size}
        facts |= {"threads": torch.get_num_threads()}
        write_checkpoint(self.folder, self._tensors(), facts)
        self.saved = self.step

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor that the future of the run depends on; restoring copies into these very tensors."""
        tensors = {f"net/{name}": tensor for name, tensor in self.net.state_dict().items()}
        if self.averaged is not self.net:
            tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            for key, tensor in self.optimiser.state[parameter].items():
                tensors[f"optimiser/{key}/{name}"] = tensor
        return tensors

    def _resume(self, found: tuple[dict[str, Tensor], dict] | None) -> None:
        """Go on from the checkpoint that was ``found``, or begin."""
        if found is None:
            return
        saved, facts = found
        for name, parameter in self.net.named_parameters():
            if f"optimiser/step/{name}" not in saved:  # idle: no gradient has ever reached it
                continue
            # What the optimiser's first step would create: moments in the layout of the parameter.
            self.optimiser.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        with torch.no_grad():
            tensors = self._tensors()
            if tensors.keys() != saved.keys():
                raise ReproError(f"The checkpoint in {self.folder} is of another network.")
            for name, tensor in tensors.items():
                tensor.copy_(saved[name])
        self.step = self.saved = facts["step"]
        self.seconds, self.started = facts["seconds"], facts["started"]
        self.tally, self.row = facts["tally"], facts["row"]
        self.validated = facts.get("validated", [])  # older checkpoints have none
        if self.fabric.global_rank == 0:
            self._compare_circumstances(facts)

    def _compare_circumstances(self, facts: dict) -> None:
        """Warn where the run goes on in other circumstances than those of the checkpoint with these ``facts``."""
        processes, threads = self.fabric.world_size, torch.get_num_threads()
        for preposition, now, then, what in (
            ("on", self.fabric.device.type, facts["device"].partition(":")[0], ""),
            ("with", processes, facts.get("processes", processes), " processes"),  # not known of older ones
            ("with", threads, facts["threads"], " threads"),
        ):
            if now != then:
                warn(
                    f"resuming {preposition} {now}{what} what ran {preposition} {then}: "
                    "the weights will not be bit-identical to those of an uninterrupted run"
                )

    def _publish(self) -> None:
        """Final weights and summary, when the budget is used up."""
        device = self.fabric.device
        summary = {
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "started": self.started,
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "validation_psnr_db": self.row["psnr_db"],
            "validation_psnr_noisy_db": sum(psnr_db(c, n) for n, c in self.validation) / len(self.validation),
            "validation_images": len(self.validation),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else name_processor(),
            "threads": torch.get_num_threads(),
            "processes": self.fabric.world_size,
            "peak_memory_mib": _peak_memory_mib(device),
            "versions": {name: version(name) for name in ("torch", "torchvision", "lightning-fabric", "numpy")},
            "hyperparameters": self.config.hyperparameters() | describe_parts(self.net),
        }
        save(self.averaged, self.folder / run_folder.WEIGHTS, {"steps": self.step, "config": asdict(self.config)})
        run_folder.write_json(self.folder / run_folder.SUMMARY, summary)


def _find_objective(name: str, net: nn.Module) -> Callable:
    """The loss of a name: one of :data:`LOSSES`, or a function of the network's own module that takes a network."""
    module = sys.modules[type(net).__module__]
    own = {
        word: function
        for word, function in vars(module).items()
        if isfunction(function) and list(signature(function).parameters)[:4] == ["net", "noisy", "clean", "step"]
    }
    if (objective := LOSSES.get(name) or own.get(name)) is None:
        raise ReproError(f"{net.name} has no loss {name!r}; there are {', '.join([*LOSSES, *own])}.")
    if name in LOSSES and _must_be_told(net):
        others = f"; {', '.join(own)} can" if own else ""
        raise ReproError(f"{net.name} must be told the level of the noise, which the loss {name!r} cannot do{others}.")
    return objective


def _middle_level(config: TrainConfig, net: nn.Module) -> tuple[str, float]:
    """Keyword and level (sigma in gray levels) of the noise in validation: the middle of what is trained for."""
    family, span = "gaussian", config.sigma_range
    if isinstance(net.sizes, NoiseSizes):
        family = net.sizes.noise
        if family != "gaussian" or net.sizes.level is not None:  # which the objective goes by
            span = net.sizes.level_range
    if None in span:
        raise ReproError(f"Training for {family} noise needs its level among the sizes of the network.")
    return KEYWORDS[family], sum(span) / 2


def _estimate(net: nn.Module, noisy: Tensor, clean: Tensor, **told: float) -> Tensor:
    """What most networks make of a validation image: the clean one is nothing to them."""
    return net(noisy, **told)


def _must_be_told(net: nn.Module) -> bool:
    return net.needs_sigma or getattr(net, "is_told", False)


def describe_parts(net: nn.Module) -> dict[str, dict]:
    """The parts that a network was given trained, as hyper-parameters of a record: which weights, by checksum."""
    return {
        f"{part}_weights": {"value": checksum(net.get_submodule(part).state_dict()), "origin": f"tensors of {weights}"}
        for part, weights in getattr(net, "pretrained", {}).items()
    }


def _start_parts(net: nn.Module, results: Path | None) -> None:
    """Give the parts that a network wants trained beforehand, ``net.pretrained``, their published weights."""
    for part, weights in getattr(net, "pretrained", {}).items():
        try:
            net.get_submodule(part).load_state_dict(load(weights, results=results).state_dict())
        except RuntimeError as error:
            raise ReproError(f"{weights} does not fit the part {part!r} of this {net.name}.") from error


def offset_columns(net: nn.Module) -> dict[str, tuple[str, str]]:
    """Columns of the curve by deformable convolution: ``{module: ("offset_<module>", "mask_<module>")}``."""
    layers = (name for name, module in net.named_modules() if isinstance(module, DeformConv2d))
    return {name: (f"offset_{name}", f"mask_{name}") for name in layers}


@contextmanager
def watch_offsets(net: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Within the block, note what every deformable convolution of ``net`` is given.

    Yields a dict that fills up, one value a call: ``offset_<module>`` is the mean absolute offset in pixels
    of that scale, ``mask_<module>`` the mean modulation (0 to 1).
    """
    seen: dict[str, list[float]] = defaultdict(list)

    def note(columns, _module, inputs):
        for column, tensor in zip(columns, inputs[1:], strict=False):  # a layer may do without a mask
            seen[column].append(tensor.float().abs().mean().item())

    hooks = [
        net.get_submodule(name).register_forward_pre_hook(partial(note, columns))
        for name, columns in offset_columns(net).items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


# --- the process ----------------------------------------------------------------------------------


@contextmanager
def _signals(speaks: bool = True) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one has its usual effect.

    The first is answered on stderr, by the one that ``speaks``: the step or validation under way may take minutes.
    One that did not end the block as :class:`Interrupted`, since the last step was done or something else went wrong,
    is sent on afterwards to a handler of the caller's: who trains one network after the other must hear of it.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may install handlers
        return

    def note(number, frame):
        caught.append(number)
        signal.signal(number, before[number])
        if speaks and len(caught) == 1:
            with suppress(OSError):  # print could meet itself half-way through another line
                os.write(2, b"Stopping after this step; the same signal again stops at once.\n")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = False
    try:
        yield caught
    except Interrupted:
        heeded = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught and not heeded and before[caught[-1]] not in (signal.SIG_DFL, signal.default_int_handler):
            signal.raise_signal(caught[-1])


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms on the CPU, where bits are promised; on a GPU products of float32 in float32, not TF32,
    for convolutions as for the operator's; the caller's random state is kept."""
    tf32 = torch.backends.cudnn.allow_tf32
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            torch.utils.deterministic.fill_uninitialized_memory = fill
            torch.backends.cudnn.allow_tf32 = tf32


@contextmanager
def _progress(config: TrainConfig, step: int, given: Callable[[dict], None] | None) -> Iterator[Callable]:
    """The function that is called with each row of the curve: the given one; a bar on a terminal; else a line
    every half minute."""
    if given is not None:
        yield given
        return
    with tqdm(total=config.steps, initial=step, unit="step", desc=config.model, disable=None) as bar:
        last = -math.inf

        def show(row: dict) -> None:
            nonlocal last
            shown = {name: row[name] for name in ("loss", "lr", "psnr_db") if row[name] != ""}
            if not bar.disable:
                bar.set_postfix(shown, refresh=False)
                bar.update(row["step"] - bar.n)
            elif time.monotonic() - last >= 30 or row["step"] == config.steps:
                last = time.monotonic()
                numbers = ", ".join(f"{name} {value:.5g}" for name, value in shown.items())
                of = f" of {config.steps}" if config.steps else ""
                print(f"step {row['step']}{of}, {row['seconds']:.0f} s: {numbers}", flush=True)

        yield show


def _peak_memory_mib(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return measure_peak_mib()
