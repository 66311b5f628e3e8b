"""The summary of a variant: its numbers are those of the published tables, and its rows add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from yolo_lite.models import build_model
from yolo_lite.models.summary import Summary, main, summarise, to_markdown
from yolo_lite.utils.profiling import peak_activations


def summary_of(variant: str, num_classes: int = 1, image_size: int = 640, depth: int = 2) -> Summary:
    """Of a detector without memory behind its weights."""
    with torch.device("meta"):
        return summarise(build_model(variant, num_classes), image_size, depth)


@pytest.mark.parametrize(
    ("variant", "num_classes", "parameters", "gflops"),
    [
        ("yolov8n", 1, 3_011_043, 8.08),
        ("yolov8n", 80, 3_157_200, 8.74),
        ("yolov8n-lite", 1, 1_436_977, 12.99),
        ("yolov8n-lite-adown", 1, 1_371_217, 12.83),
    ],
)
def test_counts_are_the_published_ones(variant: str, num_classes: int, parameters: int, gflops: float) -> None:
    whole = summary_of(variant, num_classes).whole
    assert whole.parameters == parameters
    assert whole.gflops == pytest.approx(gflops, abs=0.01)


@pytest.mark.parametrize("depth", [1, 2, 20])
@pytest.mark.parametrize("variant", ["yolov8n", "yolov8n-lite"])
def test_rows_and_parts_add_up(variant: str, depth: int) -> None:
    summary = summary_of(variant, 3, 128, depth)
    for rows in (summary.parts.values(), summary.layers):
        assert sum(row.parameters for row in rows) == summary.whole.parameters
        assert sum(row.gflops for row in rows) == pytest.approx(summary.whole.gflops)
    assert max(part.peak_activation_mib for part in summary.parts.values()) == summary.whole.peak_activation_mib


def test_shapes_are_those_of_one_image() -> None:
    shapes = {layer.name: layer.shapes for layer in summary_of("yolov8n", 2, 320, 1).layers}
    assert shapes["backbone"] == [(64, 40, 40), (128, 20, 20), (256, 10, 10)]
    assert shapes["head"] == [(66, 40, 40), (66, 20, 20), (66, 10, 10)]


def test_peak_is_what_exists_at_once() -> None:
    """Of a chain: the image, which the caller keeps, what a layer reads and what it writes."""
    model = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 4), (4, 1))))
    expected = {name: 4 * 32 * 32 * maps for name, maps in (("0", 3 + 8), ("1", 3 + 8 + 4), ("2", 3 + 4 + 1))}
    assert peak_activations(model, 32) == {"": max(expected.values()), **expected}


def test_the_model_stays_as_it_is() -> None:
    model = build_model("yolov8n-lite", 2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    summarise(model, 64, repeats=1)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "numbers.json"
    arguments = ["yolov8n-lite", "--num_classes", "1", "--image_size", "64", "--repeats", "2", "--json", str(target)]
    threads = torch.get_num_threads()
    assert main([*arguments, "--threads", "1"]) == 0
    assert torch.get_num_threads() == threads
    assert "1 CPU threads" in capsys.readouterr().out
    numbers = json.loads(target.read_text())
    assert numbers["parameters"] == 1_436_977
    assert list(numbers["parts"]) == ["backbone", "neck", "head"]
    assert numbers["threads"] == 1
    assert all(part["latency_ms"] > 0 for part in numbers["parts"].values())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["yolov8n-lit"], "did you mean yolov8n-lite"),
        (["tree"], "choose one of yolov8n"),
        (["yolov8n", "--image_size", "100"], "100 is not a multiple of 32"),
        (["yolov8n", "--num_classes", "0"], "--num_classes 0"),
        (["yolov8n", "--repeats", "-1"], "--repeats -1"),
        (["yolov8n", "--threads", "0"], "--threads 0"),
        (["yolov8n", "--depth", "0"], "--depth 0"),
        (["yolov8n", "--json", "nowhere/x.json"], "no folder"),
        ([], "variant"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert expected in message
    assert len(message.splitlines()) == 1


def test_markdown_has_a_row_for_each_layer() -> None:
    summary = summary_of("yolov8n", 2, 64)
    lines = to_markdown(summary).splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 2 * 2 + 4 + len(summary.layers)
    assert len({line.count("|") for line in lines if line.startswith("| ")}) == 2
