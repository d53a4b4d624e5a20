"""The way of a task through the whole house, as its user sees it."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import matplotlib.cbook
import pytest
import skimage.data
from PIL import Image

from tests.acceptance.running import Up, shell


def test_a_posted_task_runs_and_shows_how(shared: Up) -> None:
    task_id = shared.submit("demo.echo", {"text": "hello", "n": 2**53 + 1})
    view = shared.ended(task_id)
    assert view["state"] == "succeeded"
    assert view["result"] == {"text": "hello", "n": 2**53 + 1}
    assert (view["attempt"], view["queue"], view["priority"]) == (1, "demo", "normal")
    assert view["run_s"] is not None
    assert [event["kind"] for event in shared.events(task_id)] == ["submitted", "started", "succeeded"]
    (attempt,) = shared.get(f"/api/tasks/{task_id}/attempts")["attempts"]
    assert attempt["outcome"] == "succeeded"
    assert shared.get(f"/api/tasks/{task_id}/result", wait=5)["result"] == view["result"]


def test_health_is_green_and_tells_strangers_one_word(shared: Up) -> None:
    assert shared.get("/health")["status"] == "ok"
    stranger = shared.http.build_request("GET", f"{shared.api}/health")
    del stranger.headers["Authorization"]
    assert shared.http.send(stranger).json() == {"status": "ok"}


def test_the_printed_line_works_as_pasted(shared: Up) -> None:
    done = shell(shared.card_line("try it"), shared.cwd)
    assert done.returncode == 0, done.stderr
    view = shared.ended(json.loads(done.stdout)["id"])
    assert view["state"] == "succeeded", view["error"]
    source = view["result"]["source"]
    for output, box in zip(view["result"]["outputs"], view["payload"]["sizes"], strict=True):
        assert output["width"] <= box[0]
        assert output["height"] <= box[1]
        assert abs(output["width"] / output["height"] - source["width"] / source["height"]) < 0.02
        picture = Image.open(shared.data / "files" / output["path"]) if _there(shared, output) else None
        assert picture is None or picture.size == (output["width"], output["height"])


def _there(up: Up, output: dict[str, str]) -> bool:
    return (up.data / "files" / output["path"]).is_file()


def test_the_card_has_only_lines_that_work(shared: Up) -> None:
    first, *lines = shared.card.splitlines()
    assert re.fullmatch(r"taskq is ready in \d+\.\d s · data \S.* · stop with Ctrl-C", first)
    assert [line.split("  ")[0].strip() for line in lines] == ["try it", "watch it", "your own", "life"]
    watch = shell(shared.card_line("watch it"), shared.cwd)
    assert watch.returncode == 0, watch.stderr
    assert "succeeded" in watch.stdout


@pytest.mark.parametrize("name", ["astronaut", "grace_hopper"])
def test_an_uploaded_photograph_comes_back_in_its_sizes(shared: Up, name: str) -> None:
    photograph = _photograph(name)
    reply = shared.http.post(
        f"{shared.api}/api/uploads", content=photograph, headers={"Content-Type": "application/octet-stream"}
    )
    assert reply.status_code in {200, 201}, reply.text
    source = reply.json().get("source") or f"upload:{reply.json()['sha256']}"
    task_id = shared.submit("image.resize", {"source": source, "sizes": [[128, 128], [9999, 9999]]})
    view = shared.ended(task_id, timeout=60)
    assert view["state"] == "succeeded", view["error"]
    size = Image.open(io.BytesIO(photograph)).size
    small, large = view["result"]["outputs"]
    assert (large["width"], large["height"]) == size, "never enlarged"
    assert max(small["width"], small["height"]) == 128
    for output in (small, large):
        got = shared.http.get(f"{shared.api}/api/files/{output['sha256']}")
        assert got.status_code == 200, got.text
        assert Image.open(io.BytesIO(got.content)).size == (output["width"], output["height"])


def _photograph(name: str) -> bytes:
    if name == "grace_hopper":
        return Path(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).read_bytes()
    out = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.mark.slow
def test_a_failed_attempt_waits_one_two_and_four_seconds(shared: Up) -> None:
    begun = time.monotonic()
    task_id = shared.submit("demo.flaky", {"fail_times": 3})
    view = shared.ended(task_id, timeout=30)
    assert view["state"] == "succeeded"
    assert view["result"] == {"succeeded_on_attempt": 4}
    events = shared.events(task_id)
    failed = [_ms(event["at"]) for event in events if event["kind"] == "retrying"]
    started = [_ms(event["at"]) for event in events if event["kind"] == "started"][1:]
    waits = [start - fail for fail, start in zip(failed, started, strict=True)]
    for wait, seconds in zip(waits, (1, 2, 4), strict=True):
        assert seconds * 1000 <= wait <= seconds * 1000 + 2000, waits
    assert time.monotonic() - begun >= 7


def _ms(time: str) -> int:
    from taskq_core.clock import parse_rfc3339

    return parse_rfc3339(time)


def test_what_was_accepted_is_in_the_list_at_once(shared: Up) -> None:
    for _ in range(30):
        task_id = shared.submit("demo.noop")
        assert task_id in [task["id"] for task in shared.get("/api/tasks", limit=50)["tasks"]]


def test_nothing_illegal_happened_so_far(shared: Up) -> None:
    ids = shared.submit_many([{"name": "demo.noop"} for _ in range(200)])
    shared.await_quiet()
    report = shared.audit(ids)
    assert {str(report.states[task_id]) for task_id in ids} == {"succeeded"}
