"""The CPU kernel under AddressSanitizer and UndefinedBehaviorSanitizer: random shapes, layouts, precisions, and offsets
that are NaN, infinite or enormous. A read or write outside any buffer, or an undefined cast, ends the process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.ops import cpu

PROGRAM = """
import random, sys
from pathlib import Path
import torch
from repro.ops import cpu

cpu._build = lambda real: Path(sys.argv[1], f"{real}.so")
random.seed(0), torch.manual_seed(0)
done = 0
while done < 100:
    groups, per_group = random.choice([1, 2, 3, 8]), random.choice([1, 2, 3, 4, 5, 8, 12, 16])
    outputs, images = random.choice([1, 3, 8, 20, 33]), random.choice([1, 2, 3, 5])
    height, width, kernel = random.randint(1, 13), random.randint(1, 13), random.choice([1, 3])
    stride, dilation, padding = random.choice([1, 2]), random.choice([1, 2]), random.randint(0, 2)
    rows, columns = ((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (height, width))
    if rows < 1 or columns < 1:
        continue
    dtype = random.choice([torch.float32, torch.float64, torch.bfloat16])
    layout = random.choice([torch.channels_last, torch.contiguous_format])
    taps = groups * kernel**2
    offset = torch.randn(images, 2 * taps, rows, columns) * random.choice([0, 1, 30, 1e9, 1e30])
    for every, value in ((7, float("nan")), (11, float("inf")), (13, -float("inf")), (17, 3e9)):
        offset.view(-1)[::every] = value
    mask = torch.rand(images, taps, rows, columns) if random.random() < 0.7 else None
    x = torch.randn(images, groups * per_group, height, width)
    x, offset, mask = (t if t is None else t.to(dtype).contiguous(memory_format=layout) for t in (x, offset, mask))
    weight = torch.randn(outputs, groups * per_group, kernel, kernel).to(dtype)
    geometry = (stride, stride), (padding, padding), (dilation, dilation)
    out = cpu.forward(x, offset, mask, weight, None, *geometry)
    cpu.backward(torch.randn_like(out), x, offset, mask, weight, *geometry)
    done += 1
print("clean")
"""


def find_runtime(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_absolute() else ""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc and its sanitizer runtimes")
def test_kernel_stays_inside_its_buffers(tmp_path):
    runtimes = [find_runtime("libasan.so"), find_runtime("libubsan.so")]
    if not all(runtimes):
        pytest.skip("gcc has no sanitizer runtimes here")
    for real in ("float", "double"):
        optimised = cpu._flags(real)
        checked = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover"]
        target = ["-o", str(tmp_path / f"{real}.so"), "-lm", "-lpthread"]
        subprocess.run(["gcc", *optimised, *checked, str(cpu.SOURCE), *target], check=True)
    environment = os.environ | {
        "LD_PRELOAD": ":".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0 and "clean" in run.stdout, run.stderr[-2000:]
