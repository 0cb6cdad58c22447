"""A sub-network serves beside the original: by consent, under load alone, never below quality."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import evolve
from supernet.elastic.subnet import LayerSpec, SubnetSpec
from supernet.plans import ORIGINAL
from tests.evolve.tiered import (
    EXAMPLES,
    SLO,
    Make,
    all_resident,
    answers,
    config_for,
    flood,
    net,
    price,
    rare,
    rows_by,
    states,
    two_layers,
    until,
    usual,
    without,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def serve(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Runtimes of the two layers that hold all their plans."""
    all_resident(monkeypatch)
    made: list[evolve.Runtime] = []

    def make(
        slo: evolve.SLO = SLO, model: Any = None, root: Path = cache, **workers: Any
    ) -> evolve.Runtime:
        config = config_for(root, **workers)
        made.append(evolve.wrap(model or two_layers(), EXAMPLES, slo=slo, config=config))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()


def said(runtime: evolve.Runtime, name: str) -> list[tuple[str, str]]:
    """State and reason of each decision about a tier."""
    return [
        (str(d.after["state"]), d.reason)
        for d in runtime.decisions(1000)
        if d.kind == "tier" and d.subject == name
    ]


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_it_serves_under_load_alone_with_the_sub_networks_answers(
    serve: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    runtime = serve(kind=kind, count=1)
    assert runtime.adopt(without(1), name="half") == "half"
    assert runtime.wait_for_plans(300)
    assert states(runtime) == {"half": "shadow"}, runtime.tiers()
    (tier,) = runtime.tiers()
    assert 0.95 <= tier.quality < 1

    price(runtime, monkeypatch, exact_ms=10.0)
    flood(runtime, usual)
    assert rows_by(runtime, "half") == 0, "in shadow nobody is answered by it"
    until(runtime, "full")
    walked = [state for state, _ in said(runtime, "half")]
    assert walked == ["deriving", "building", "shadow", "canary", "full"]
    assert eventually(lambda: runtime.parts.serving.stats.window.arrival_per_s() < 1e-3)
    before = rows_by(runtime, "half")
    x = usual(2)
    exact, small = two_layers()(x), answers(without(1), x)
    assert not torch.allclose(exact, small, atol=1e-3)
    assert torch.allclose(runtime.submit(x).result(60), exact, atol=1e-4), "no load"
    for _ in range(20):
        assert torch.allclose(runtime(x), exact, atol=1e-4), "a direct call"
    assert rows_by(runtime, "half") == before

    futures = [runtime.submit(usual(2, seed)) for seed in range(100)]
    got = [future.result(60) for future in futures]
    assert rows_by(runtime, "half") > before
    subnets = set()
    for seed, (answer, future) in enumerate(zip(got, futures, strict=True)):
        assert future.served_by is not None
        small_too = future.served_by.subnet == "half"
        due = answers(without(1), usual(2, seed)) if small_too else two_layers()(usual(2, seed))
        assert torch.allclose(answer, due, atol=1e-4)
        assert future.served_by.quality == (tier.quality if small_too else 1.0)
        assert (future.served_by.tier >= 16) == small_too
        subnets.add(future.served_by.subnet)
    assert "half" in subnets


def test_without_consent_nothing_is_adopted(serve: Make) -> None:
    runtime = serve(evolve.SLO(1_000.0))
    with pytest.raises(ValueError, match=r"min_quality must be below 1 .* SLO\(min_quality=0.98\)"):
        runtime.adopt(without(1))
    assert runtime.tiers() == ()


def test_one_that_is_not_good_enough_is_refused_before_it_is_built(serve: Make) -> None:
    runtime = serve()
    name = runtime.adopt(without(0))
    assert name.startswith("subnet-")
    assert runtime.wait_for_plans(300)
    (tier,) = runtime.tiers()
    assert tier.state == "refused"
    assert tier.quality < SLO.min_quality
    assert "is below min_quality 0.95: it never serves" in tier.reason
    assert not any(plan.subnet for plan in runtime.plans())
    assert runtime.status()["tiers"][name]["plans"] == {}


def test_the_measure_is_the_users(serve: Make) -> None:
    runtime = serve(evolve.SLO(1_000.0, min_quality=0.5, agreement="top1"))
    runtime.adopt(without(0), name="first")
    assert runtime.wait_for_plans(300)
    assert "with the original (top1, " in dict(said(runtime, "first"))["building"]


def broken() -> dict[str, torch.Tensor]:
    weights = {name: weight.clone() for name, weight in net().original.items()}
    weights["head.bias"][0] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("spec", "weights", "words"),
    [
        (lambda: without(1), broken, "the weight 'head.bias' must be a number everywhere"),
        (lambda: SubnetSpec((LayerSpec("other"),)), lambda: None, "the layers of a spec must be"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_harms_nobody(
    serve: Make, spec: Any, weights: Any, words: str
) -> None:
    runtime = serve()
    runtime.adopt(spec(), weights(), name="bad")
    assert runtime.wait_for_plans(300)
    (tier,) = runtime.tiers()
    assert (tier.state, words in tier.reason) == ("refused", True), tier.reason
    x = usual(1)
    assert torch.allclose(runtime.submit(x).result(60), two_layers()(x), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"spec": "half"}, TypeError, "spec must be a SubnetSpec, got str"),
        ({"weights": "nowhere"}, ValueError, "weights must be tensors by name or a safetensors"),
        ({"weights": {"a": 1}}, TypeError, "weights must be tensors by name, got 1"),
        ({"weights": {}}, TypeError, "weights must be tensors by name, got none"),
        ({"name": "a b"}, ValueError, "name must be 1 to 40 letters"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    serve: Make, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    runtime = serve()
    with pytest.raises(error, match=words):
        runtime.adopt(**{"spec": without(1), **arguments})
    assert runtime.tiers() == ()


def test_a_tier_is_adopted_once(serve: Make) -> None:
    runtime = serve()
    runtime.adopt(without(1), name="half")
    with pytest.raises(ValueError, match="name must be a new one, got 'half'"):
        runtime.adopt(without(0), name="half")
    runtime.adopt(without(1), name="again")
    assert runtime.wait_for_plans(300)
    assert states(runtime) == {"half": "shadow", "again": "refused"}
    assert runtime.tiers()[1].reason == "the same sub-network is adopted as 'half'"


def test_one_that_is_dismissed_serves_no_more_and_can_come_back(
    serve: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = serve()
    runtime.adopt(without(1), name="half")
    assert runtime.wait_for_plans(300)
    keys = set(runtime.status()["tiers"]["half"]["plans"])
    runtime.dismiss("half")
    tables = runtime.parts.serving.scheduler.tables
    assert keys.isdisjoint(tables.plans)
    assert keys.isdisjoint(runtime.parts.pool.held())
    assert runtime.tiers() == ()
    with pytest.raises(ValueError, match=r"name must be that of a tier \(none\), got 'half'"):
        runtime.dismiss("half")
    futures = [runtime.submit(usual(2, seed)) for seed in range(20)]
    for seed, future in enumerate(futures):
        assert torch.allclose(future.result(60), two_layers()(usual(2, seed)), atol=1e-4)
    runtime.adopt(without(1), name="half")
    assert runtime.wait_for_plans(300)
    assert set(runtime.status()["tiers"]["half"]["plans"]) == keys


def test_a_restart_finds_its_plans_in_the_cache(
    serve: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = serve()
    trained = {name: weight * 1.001 for name, weight in net().original.items()}
    first.adopt(without(1), trained, name="half")
    assert first.wait_for_plans(300)
    keys = first.status()["tiers"]["half"]["plans"].keys()
    first.close()

    def runs(*_: object) -> None:
        raise AssertionError("nothing is to be made again")

    monkeypatch.setattr("supernet.elastic.derived.run_job", runs)
    monkeypatch.setattr("supernet.building.build.run_job", runs)
    second = serve()
    second.adopt(without(1), trained, name="half")
    assert second.wait_for_plans(300)
    assert states(second) == {"half": "shadow"}, second.tiers()
    assert second.status()["tiers"]["half"]["plans"].keys() == keys


def test_tiers_retire_with_the_weights_and_come_back_with_the_same(serve: Make) -> None:
    model = two_layers()
    runtime = serve(model=model)
    runtime.adopt(without(1), name="half")
    assert runtime.wait_for_plans(300)
    runtime.refresh()
    assert runtime.wait_for_plans(300)
    assert states(runtime) == {"half": "shadow"}, "the weights are the same"
    with torch.no_grad():
        model.head.weight.add_(0.5)  # type: ignore[operator, union-attr]
    assert eventually(lambda: bool(runtime.parts.pending))
    x = usual(2)
    assert torch.allclose(runtime(x), model(x), atol=1e-5)
    assert runtime.wait_for_plans(300)
    assert eventually(lambda: not runtime.tiers())
    assert said(runtime, "half")[-1][0] == "retired"
    assert not any(plan.subnet for plan in runtime.plans())


def test_closing_ends_an_adoption_under_way(serve: Make) -> None:
    runtime = serve()
    full = net().full
    runtime.adopt(full.replace(full.layers[0].name, widths=(16,)), name="narrow")
    assert eventually(lambda: states(runtime)["narrow"] != "waiting")
    runtime.close()
    assert runtime.parts.tiers._thread.is_alive() is False


def test_its_plans_go_by_its_name(serve: Make) -> None:
    runtime = serve()
    runtime.adopt(without(1), name="half")
    assert runtime.wait_for_plans(300)
    by_name = {plan.subnet for plan in runtime.plans()}
    assert by_name == {"", "half"}
    tables = runtime.parts.serving.scheduler.tables
    small = {plan.key for plan in runtime.plans() if plan.subnet}
    exact = {plan.key for plan in runtime.plans() if not plan.subnet} | {ORIGINAL}
    tier = dict(zip(tables.plans, tables.tier.tolist(), strict=True))
    assert min(tier[key] for key in small) > max(tier[key] for key in exact)


def test_inputs_on_which_it_is_bad_take_it_out_and_lose_no_request(
    serve: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slo = evolve.SLO(p99_ms=60_000.0, min_quality=0.95)
    root = shutil.copytree(cache, tmp_path / "cache")  # what is found is remembered there
    runtime = serve(slo, root=root)
    runtime.adopt(without(1), name="half")
    assert runtime.wait_for_plans(300)
    price(runtime, monkeypatch, exact_ms=4_000.0)

    until(runtime, "full")
    assert seen(runtime)["samples"] >= 16
    assert seen(runtime)["mean"] > 0.99
    until(runtime, "rolled back", rare)
    decision = next(d for d in reversed(runtime.decisions(1000)) if d.kind == "tier")
    assert (decision.before["state"], decision.after["state"]) == ("full", "rolled back")
    assert decision.seen["agreement"] < 0.95
    assert decision.seen["samples"] > 16
    assert "below min_quality 0.95 but for a chance of 0.001" in decision.reason
    assert {p.state.value for p in runtime.plans() if p.subnet} == {"quarantined"}
    price(runtime, monkeypatch, exact_ms=1.0)
    for index, answer in enumerate(flood(runtime, rare)):
        assert torch.allclose(answer, two_layers()(rare(2, index)), rtol=1e-3, atol=1e-3)
    counts = runtime.status()["counts"]
    assert (counts["refused"], counts["raised"]) == (0, 0)

    assert eventually(lambda: bool(list((root / "reports").glob("memo-tier-*"))))
    again = serve(slo, root=root)
    again.adopt(without(1), name="half")
    assert again.wait_for_plans(300)
    assert states(again) == {"half": "refused"}
    assert "found earlier: 'half' agrees" in again.tiers()[0].reason
    laxer = serve(evolve.SLO(p99_ms=60_000.0, min_quality=0.3), root=root)
    laxer.adopt(without(1), name="half")
    assert laxer.wait_for_plans(300)
    assert states(laxer) == {"half": "shadow"}


def seen(runtime: evolve.Runtime) -> dict[str, Any]:
    found: dict[str, Any] = runtime.status()["tiers"]["half"]["agreement"]
    return found


def test_inputs_on_which_it_is_bad_keep_it_in_shadow_from_answering_anybody(
    serve: Make, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(cache, tmp_path / "cache")
    runtime = serve(evolve.SLO(p99_ms=60_000.0, min_quality=0.95), root=root)
    runtime.adopt(without(1), name="half")
    assert runtime.wait_for_plans(300)
    price(runtime, monkeypatch, exact_ms=4_000.0)
    until(runtime, "rolled back", rare)
    assert rows_by(runtime, "half") == 0
    assert said(runtime, "half")[-1][0] == "rolled back"


def found(runtime: evolve.Runtime) -> list[str]:
    return [d.reason for d in runtime.decisions(1000) if d.kind == "generation"]


@pytest.mark.timeout(300)
def test_a_tier_of_its_own_finding_answers_and_no_request_is_lost(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_resident(monkeypatch)
    root = shutil.copytree(cache, tmp_path / "cache")  # with the model's plans, built before
    config = config_for(root, kind="thread", count=1).replace(
        evolution={"every_s": 1.0, "budget_s": 1.0, "min_inputs": 256}
    )
    with evolve.wrap(two_layers(), EXAMPLES, slo=SLO, config=config) as runtime:
        assert runtime.wait_for_plans(300)
        # As its twin has it, much more comes than the model can answer.
        price(runtime, monkeypatch, exact_ms=50.0)
        monkeypatch.setattr("evolve.monitoring.traffic.Traffic.record_batch", lambda *_: None)
        runtime.parts.serving.stats.traffic._ratios.clear()
        for seed in range(300):
            assert runtime(usual(1, seed)).shape == (1, 6)
        assert eventually(lambda: bool(runtime.tiers())), found(runtime)
        assert runtime.wait_for_plans(300)
        (name, *_) = [one.name for one in runtime.tiers()]
        price(runtime, monkeypatch, exact_ms=10.0)
        until(runtime, "full", name=name)
        got = torch.cat(flood(runtime, usual))
        exact = torch.cat([two_layers()(usual(2, seed)) for seed in range(40)])
        assert rows_by(runtime, name) > 0
        assert torch.cosine_similarity(got, exact).mean() > 0.9
        status = runtime.status()
        assert [status["counts"][lost] for lost in ("refused", "raised", "retried")] == [0, 0, 0]
        assert name in status["evolution"]["tiers"]
