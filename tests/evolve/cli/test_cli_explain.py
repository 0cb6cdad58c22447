"""`evolve plans MODEL --explain` on plans that were built for real: tables, JSON, picture."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn

from evolve.cli import main
from evolve.cli.explaining.explain import Explanation, Story, select
from evolve.cli.explaining.explained import show
from profiler.fingerprint import DeviceFingerprint, Rate, fingerprint
from profiler.shapes import Shape
from profiler.units import FingerprintDatabase
from supernet.building.build import BuildLimits, build_plan
from supernet.cache import ArtifactCache
from supernet.capture.stored import StoredCapture, newest, store
from supernet.capture.subject import capture
from supernet.fusion.graph.regions import Regions
from supernet.fusion.kernels import onednn
from supernet.fusion.kernels.quantization import Rounding
from supernet.fusion.report.region_report import read
from supernet.plans import Plan, PlanSpec, PlanState
from tests.supernet.contract import make_spec

if (why := onednn.unavailable()) is not None:
    pytest.skip(why, allow_module_level=True)

LIMITS = BuildLimits(budget_s=120, measure_s=0.2)
GB_PER_S = 10.0


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(16, 64), nn.Linear(64, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(torch.relu(self.up(x))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlanSpec, PlanSpec]:
    """A cache with a model's fused plan, built, and an eager one, told of; and their specs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), Layer(), Layer(), nn.Linear(16, 4)).eval()
    learned = capture(model, [(torch.arange(n)[None],) for n in (6, 40)], max_rows=8)
    cache = ArtifactCache(tmp_path_factory.mktemp("explain") / "cache")
    folder = store(cache, learned)
    fused, eager = (make_spec(learned, name) for name in ("fused", "eager"))
    plan = build_plan(cache, folder, fused, LIMITS)
    assert plan.state is PlanState.VERIFIED, plan.reason
    put(cache, eager, costs_ms=[[s.rows, s.length, 2 * ms] for s, ms in plan.costs_ms.items()])
    return cache.root, fused, eager


def captured(cache: ArtifactCache, spec: PlanSpec) -> StoredCapture:
    folder = newest(cache, spec.graph_hash)
    assert folder is not None
    return StoredCapture.read(folder)


@pytest.fixture
def fused(built: tuple[Path, PlanSpec, PlanSpec]) -> PlanSpec:
    return built[1]


@pytest.fixture
def eager(built: tuple[Path, PlanSpec, PlanSpec]) -> PlanSpec:
    return built[2]


@pytest.fixture
def cache(built: tuple[Path, PlanSpec, PlanSpec], tmp_path: Path) -> ArtifactCache:
    """A copy that a test may spoil."""
    shutil.copytree(built[0], tmp_path / "cache", copy_function=shutil.copy2)
    return ArtifactCache(tmp_path / "cache")


class Measured:
    """A machine whose memory was measured."""

    kind = "cpu"

    def unavailable(self) -> str | None:
        return None

    def devices(self) -> tuple[DeviceFingerprint, ...]:
        return (fingerprint("cpu", measure=False),)

    def measured(self, device: DeviceFingerprint) -> DeviceFingerprint:
        rates = {"fp32": Rate(1.0, 1.0)}
        return replace(device, memory_bandwidth_gb_per_s=GB_PER_S, matrix_gflop_per_s=rates)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A plain wide terminal, and a file of fingerprints that is not there yet."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    path = tmp_path / "fingerprints.json"
    monkeypatch.setattr("profiler.units.host_database", lambda: FingerprintDatabase(path))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main(["plans", *(str(part) for part in argv)])
    out, err = capsys.readouterr()
    return status, out, " ".join(err.split())


def row(out: str, *cells: str) -> list[str]:
    """The one row of a table that begins with these cells."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    fitting = [cells_ for cells_ in rows if cells_[: len(cells)] == list(cells)]
    assert len(fitting) == 1, out
    return fitting[0]


# -- the tables ---------------------------------------------------------------------------------


def test_the_table_tells_each_kind_of_region_once(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str], machine: Path
) -> None:
    status, out, err = run(
        capsys, fused.graph_hash[:8], "--explain", "--cache", cache.root, "--shape", "4x6"
    )
    assert (status, err) == (0, "")
    assert f"{fused.key} of graph {fused.graph_hash[:8]}" in out
    wide = f"{2 * 4 * 6 * 64 * 4 / 2**20:.2f}"
    assert row(out, "2", "activation") == [
        "2", "activation", "2", "linear, relu", "1–2", "evolve", wide, "–"
    ]  # fmt: skip
    norm = row(out, "4", "norm")
    assert norm[2:6] == ["2", "add, layer_norm", "1–2", "torch × 2"]
    assert norm[6].startswith("(")
    assert row(out, "–", "alone")[2:6] == ["1", "embedding", "0", "torch"]
    assert "A batch of 4 × 6 stores" in out
    assert "never measured" in out
    assert not machine.exists(), "looking must not create anything"


def test_what_was_measured_stands_beside_the_best_other_plan(
    cache: ArtifactCache, fused: PlanSpec, eager: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, fused.graph_hash, "--explain", "--cache", cache.root)[1]
    first = row(out, fused.key)
    assert first[1] == "verified"
    assert first[2].startswith("relative_l2 ")
    assert first[2].endswith(" of 0.005")
    assert first[5] == eager.key
    assert first[7] == "50% less"
    assert f"eager runs op by op, nothing is fused: {eager.key} (verified)" in out


def test_times_are_predicted_where_the_memory_was_measured(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str], machine: Path
) -> None:
    FingerprintDatabase(machine, profilers={"cpu": Measured()}).units()
    argv = [fused.key, "--explain", "--cache", cache.root]
    out = run(capsys, *argv)[1]
    assert f"at the {GB_PER_S:.3g} GB/s measured here" in out
    assert row(out, "2", "activation")[7] == "7"  # 2 * 4 * 32 * 64 * 4 bytes
    told = json.loads(run(capsys, *argv, "--json")[1])
    assert told["memory_gb_per_s"] == GB_PER_S
    regions = told["fused"][0]["regions"]
    for region in regions:
        assert region["us_saved"] == pytest.approx(region["bytes_saved"] / GB_PER_S / 1e3)
    assert any(region["us_kept"] > 0 for region in regions)


def test_the_json_leaves_no_region_out(
    cache: ArtifactCache, fused: PlanSpec, eager: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [fused.graph_hash[:4], "--explain", "--cache", cache.root, "--json"]
    told = json.loads(run(capsys, *argv)[1])
    grid = captured(cache, fused).grid
    assert told["shape"] == [4, min(max(32, grid.lengths[0]), grid.lengths[-1])]
    assert told["memory_gb_per_s"] is None
    assert told["plot"] is None
    assert [(o["plan"], o["state"]) for o in told["others"]] == [(eager.key, "verified")]
    (plan,) = told["fused"]
    assert (plan["plan"], plan["state"], plan["limit"]) == (fused.key, "verified", 0.005)
    assert 0 <= plan["error"] < 1e-5
    assert [m["other"] for m in plan["measured"]] == [eager.key] * len(plan["measured"])
    stored = json.loads((cache.root / "plans" / fused.artifact_key / "regions.json").read_text())
    assert [region["ops"] for region in plan["regions"]] == stored["regions"]
    assert [region["number"] for region in plan["regions"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert plan["regions"][1]["alike"] == plan["regions"][4]["alike"]
    assert plan["regions"][1]["bytes_kept"] == plan["regions"][1]["bytes_saved"] > 0
    assert all(region["us_saved"] is None for region in plan["regions"])


def test_a_plan_key_names_that_plan_alone(
    cache: ArtifactCache, fused: PlanSpec, eager: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, fused.key[:-2], "--explain", "--cache", cache.root)[1]
    assert "eager runs op by op" not in out
    assert row(out, fused.key)[5] == eager.key, "it is still compared with it"
    out = run(capsys, eager.key, "--explain", "--cache", cache.root)[1]
    assert "no fused plan among these" in out


def test_plans_that_share_their_files_share_a_table(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    two = replace(fused, threads=2)
    put(cache, two)
    out = run(capsys, fused.graph_hash, "--explain", "--cache", cache.root)[1]
    assert out.count("│ rule") + out.count("┃ rule") == 1
    assert f"{fused.key}, {two.key} of graph" in out
    assert row(out, two.key)[5] == "–", "nothing else was measured on two threads"


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products"
)
def test_bf16_is_marked(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = replace(fused, precision="mixed", limit="relative_l2<=0.005")
    with cache.adding("plans", mixed.artifact_key) as out_folder:
        source = cache.root / "plans" / fused.artifact_key
        how = json.loads((source / "regions.json").read_text())
        name = next(ops[0] for ops in how["regions"] if len(ops) == 2)
        how["rounded"] = {name: Rounding("bf16").to_json()}
        (out_folder / "regions.json").write_text(json.dumps(how))
    put(cache, mixed)
    out = run(capsys, mixed.key, "--explain", "--cache", cache.root)[1]
    assert row(out, "2", "activation")[2:6] == ["1", "linear, relu", "1", "oneDNN bf16"]
    assert row(out, "5", "activation")[2:6] == ["1", "linear, relu", "2", "evolve"]
    assert "1 of oneDNN bf16" in " ".join(out.split())


def put(cache: ArtifactCache, spec: PlanSpec, failure: str | None = None, **more: Any) -> None:
    """A report as a build leaves it."""
    found: dict[str, Any] = {
        "spec": spec.to_json(), "device": "", "failure": failure, "memory_mib": 1.0, "about": "",
        "errors": {"relative_l2": [1e-6, 1e-6]}, "costs_ms": [[1, 6, 0.5], [8, 6, 2.0]],
        "microbatches": None,
    }  # fmt: skip
    cache.put_report(f"{spec.artifact_key}-t{spec.threads}-here", found | more)


# -- what is not there --------------------------------------------------------------------------


def test_a_quarantined_plan_is_explained_as_long_as_its_files_are_there(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [fused.key, "--explain", "--cache", cache.root, "--max-error", "0"]
    out = run(capsys, *argv)[1]
    assert row(out, "2", "activation")[5] == "evolve"
    assert row(out, fused.key)[1] == "quarantined"
    refused = replace(fused, fusion="norm")
    put(cache, refused, failure="it crashed with \x1b[31m SIGSEGV")
    out = run(capsys, refused.key, "--explain", "--cache", cache.root)[1]
    assert f"{refused.key}: no files in the cache to explain; it crashed with \\x1b[31m SIG" in out
    assert row(out, refused.key)[1:3] == ["quarantined", "relative_l2 – of 0.005"]
    told = run(capsys, refused.key, "--explain", "--cache", cache.root, "--json")[1]
    assert json.loads(told)["fused"][0]["regions"] is None


def test_a_capture_that_is_gone_has_a_remedy(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.discard("captures", fused.graph_hash, "for the test")
    status, out, err = run(capsys, fused.key, "--explain", "--cache", cache.root)
    assert (status, out) == (1, "")
    assert f"capture of graph {fused.graph_hash[:8]} must be in the cache" in err
    assert "serve the model once more with this cache" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--explain"], "MODEL and --explain must be given together"),
        (["a73b"], "MODEL and --explain must be given together"),
        (["--plot", "x.mmd"], "--shape and --plot must be given with MODEL and --explain"),
        (["abc", "--explain"], "must be at least 4 characters of a graph or plan, got 'abc'"),
        (["nope", "--explain"], "must begin a graph ("),
        (["fused", "--explain", "--shape", "4"], "must be ROWSxLENGTH from 1x"),
        (["fused", "--explain", "--shape", "9x6"], "x256, which the model was captured for"),
        (["fused", "--explain", "--shape", "0x6"], "captured for, got '0x6'"),
    ],
)
def test_wrong_usage_is_told(
    argv: list[str], message: str, cache: ArtifactCache, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, *argv, "--cache", cache.root)
    assert status == 2
    assert message in err


def test_an_empty_cache_has_nothing_to_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "a73b", "--explain", "--cache", tmp_path / "none")
    assert status == 2
    assert "serve a model first" in err
    assert not (tmp_path / "none").exists()


def test_several_that_match_are_named_far_enough() -> None:
    spec = PlanSpec("a73b" * 16, "fused", "fp32", 1, "w", "2", "1", "x86_64", "norm")
    other = replace(spec, graph_hash="a73b" * 2 + "ffff" * 14)
    plans = [Plan(one, PlanState.VERIFIED) for one in (spec, replace(spec, threads=2), other)]
    assert select(plans, "a73ba73bff") == (plans[2],)
    assert select(plans, plans[0].key) == (plans[0],)
    with pytest.raises(typer.BadParameter, match="of a73ba73ba, a73ba73bf; give more of it"):
        select(plans, "a73b")
    with pytest.raises(typer.BadParameter, match="give more of it") as keys:
        select(plans, "fused")
    assert all(plan.key in str(keys.value) for plan in plans)


def test_what_a_model_calls_its_modules_cannot_harm_a_terminal(
    cache: ArtifactCache, fused: PlanSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = captured(cache, fused)
    folder = cache.root / "plans" / fused.artifact_key
    program = learned.program()
    regions, accounts = read(folder, program, learned.signature, fused.fusion, Shape(4, 6))
    odd = tuple(replace(account, layer="[red]\x1b[31m") for account in accounts)
    plan = Plan(fused, PlanState.VERIFIED, error=1e-6)
    assert isinstance(regions, Regions)
    show(Explanation((Story((plan,), regions, odd),), (), (), Shape(4, 6), None, 0.005))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]\\x1b[31m" in out


# -- the picture --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "begins"), [("layer.mmd", "flowchart"), ("x.dot", "digraph")])
def test_a_picture_is_drawn(
    name: str,
    begins: str,
    cache: ArtifactCache,
    fused: PlanSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    argv = [fused.graph_hash, "--explain", "--cache", cache.root, "--plot", path]
    status, out, _ = run(capsys, *argv)
    assert status == 0
    assert out.rstrip().endswith(f"drawn: {path}")
    told = path.read_text(encoding="utf-8")
    assert told.startswith(begins)
    assert "saves" in told
    assert json.loads(run(capsys, *argv, "--json")[1])["plot"] == str(path)


def test_a_picture_needs_a_fused_plan_and_what_draws_it(
    cache: ArtifactCache,
    fused: PlanSpec,
    eager: PlanSpec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ["--explain", "--cache", cache.root, "--plot", tmp_path / "x.png"]
    status, _, err = run(capsys, eager.key, *argv)
    assert status == 1
    assert "plot must have a fused plan whose files are in the cache, got none" in err
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run(capsys, fused.key, *argv)
    assert status == 1
    assert "install graphviz, or write a .mmd" in err
