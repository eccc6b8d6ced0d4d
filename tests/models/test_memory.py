"""All genes of a large vocabulary for many cells stay within a bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import pandas as pd, torch
from torch import nn
from pastpy.models import PAST, ModelCard, PASTConfig, context_grid

def peak_bytes():
    # not ru_maxrss: a process that was forked starts with its parent's
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

torch.manual_seed(0)
entries = {"dim": 64, "embedding_dim": 64, "heads": 1, "fusion_layers": 1}
regions = PASTConfig(name="x").regions + context_grid()
genes = pd.DataFrame({"gene": [f"G{i}" for i in range(20_000)]})
model = PAST(PASTConfig(name="large", regions=regions, **entries), ModelCard(genes, {})).eval()
nn.init.normal_(model.members[0].decoder.readout)
before = peak_bytes()
with torch.inference_mode():
    share = model.predict_expression(torch.randn(1000, 11, 64), torch.randn(1000, 4, 64))
peak = peak_bytes()
assert share.shape == (1000, 20_000) and abs(float(share.sum()) - 1000) < 1
print(before, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.slow
def test_twenty_thousand_genes_of_a_thousand_cells_stay_below_two_gigabytes():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=300)
    before, peak = map(int, done.stdout.split())
    assert peak < 2e9, f"peak {peak / 1e9:.2f} GB, {before / 1e9:.2f} GB before the call"
