"""The benchmark measures what it says: equal rollouts, the trainer's own step, weights put back."""

import json

import pandas
import pytest
import torch
import training_cases as cases
from benchmarks import benchmark as measured
from typer.testing import CliRunner

from finer1_lib.commands.cli import app
from finer1_lib.core.errors import UserError
from finer1_lib.models.log_probabilities import score_completions
from finer1_lib.training import rewards, tapo as tapo_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.prepare(tmp_path_factory.mktemp("benchmark"))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_both_methods_train_on_every_rollout_and_leave_no_trace(folder, monkeypatch):
    """Four of six triplets are never answered right: the filter would throw their groups away."""
    monkeypatch.setitem(
        rewards.ACCURACY, "strict", lambda text, label: float(label < "Wren 2" and len(text) % 2))
    scored = []
    score = score_completions

    def counting(model, prompts, *rest, **options):
        scored.append((len(prompts), torch.is_grad_enabled()))
        return score(model, prompts, *rest, **options)

    monkeypatch.setattr(tapo_trainer, "score_completions", counting)
    loaded = cases.start(folder)
    before = weights(loaded.model)
    found = measured.measure(loaded, cases.triplets(folder), cases.tapo_config(), repeats=1)
    assert torch.equal(weights(loaded.model), before)
    rows = {gradient: sum(n for n, g in scored if g is gradient) for gradient in (False, True)}
    # Two turns of two methods, a rollout batch of two updates of eight rollouts each: pi_old of sixteen; then
    # sixteen under their own picture for DAPO, and as many again under the negative for TAPO.
    assert rows == {False: 2 * (16 + 16), True: 2 * (16 + 32)}
    assert list(found["steps"]) == ["dapo", "tapo"]
    for parts in found["steps"].values():
        assert all(len(turns) == 1 and turns[0] > 0 for turns in parts.values())
        assert parts["step"][0] == pytest.approx(sum(parts[name][0] for name in measured.PARTS[:3]))
    for levels in found["sharing"].values():
        assert list(levels) == list(measured.LEVELS) and all(turns[0] > 0 for turns in levels.values())


def test_levels_of_sharing_differ_in_what_is_one_object(folder):
    from finer1_lib.core.prompts import user_message
    from finer1_lib.models.encoding import Encoder

    encode = Encoder(cases.start(folder).processor)
    a, b = (encode(user_message("x", image)) for image in cases.images(folder)[:2])
    rows = [a, a, b]
    for level, prompts, pictures in (("prompts", 2, 2), ("pictures", 3, 2), ("nothing", 3, 3)):
        found = measured.copies(rows, level)
        assert len({id(row) for row in found}) == prompts
        assert len({id(row.pixels) for row in found}) == pictures
        assert not {id(row.pixels) for row in found} & {id(a.pixels), id(b.pixels)}, "nothing from before"
        assert all(x.ids == y.ids and torch.equal(x.pixels, y.pixels) for x, y in zip(found, rows))


def test_tables_by_hand():
    turns = {"rollout": [2.0, 4.0, 3.0], "scoring": [0.0, 0.0, 0.0], "update": [1.0, 1.0, 2.0],
             "step": [3.0, 5.0, 5.0]}
    slower = {**turns, "update": [2.0, 3.0, 5.0], "step": [4.0, 7.0, 8.0]}
    told = measured.tables({
        "steps": {"dapo": turns, "tapo": slower},
        "sharing": {"sampling": {"nothing": [4.0], "pictures": [3.0], "prompts": [1.0]}}})
    (titles, steps), (_, saved) = told.values()
    assert titles == ["part of a step", "DAPO", "TAPO", "TAPO / DAPO"]
    assert steps[0] == ["rollout", "3.00 [2.00, 4.00]", "3.00 [2.00, 4.00]", "1.00 [1.00, 1.00]"]
    assert steps[1][3] == "-", "nothing to divide by"
    assert steps[3][3] == "1.40 [1.33, 1.60]", "ratios are taken turn by turn, then their median"
    assert saved == [["sampling", "4.00 [4.00, 4.00]", "3.00 [3.00, 3.00]", "1.00 [1.00, 1.00]",
                      "0.75 [0.75, 0.75]", "0.25 [0.25, 0.25]"]]


def test_mistakes_are_one_line(folder, tmp_path):
    loaded, rows, config = cases.start(folder), cases.triplets(folder), cases.tapo_config()
    for call, said in [
        (lambda: measured.measure(loaded, [], config), "no triplets"),
        (lambda: measured.measure(loaded, rows, config, repeats=0), "repeats"),
        (lambda: measured.measure_run("none", str(tmp_path)), "has not finished 03_tapo"),
    ]:
        with pytest.raises(UserError, match=said):
            call()


def test_the_command_reads_a_run_and_writes_every_turn(folder, tmp_path):
    run = tmp_path / "small"
    for stage in ("00_miniature_world", "01_data", "02_cot_sft", "03_tapo"):
        (run / stage).mkdir(parents=True)
    (run / "00_miniature_world/base.json").write_text(json.dumps({"checkpoint": str(folder / "base")}))
    (run / "01_data/data.json").write_text(json.dumps({"image_root": str(folder / "images")}))
    names = [f"bird/wren/{i}.png" for i in range(6)]
    pandas.DataFrame({
        "image_id": names, "positive_id": names[1:] + names[:1], "negative_id": names[2:] + names[:2],
        "super_category": "bird", "sub_category": "Wren"}).to_parquet(run / "01_data/triplets.parquet")
    (run / "02_cot_sft/cot_sft").symlink_to(folder / "start")
    parameters = dict(n_anchor=1, n_positive=1, prompts_per_step=2, micro_batch_size=4, steps=4,
                      max_new_tokens=3, learning_rate=1e-3, methods=["dapo"])
    (run / "03_tapo/stage.json").write_text(json.dumps({"parameters": parameters}))
    file = tmp_path / "cost.json"
    done = CliRunner().invoke(app, ["benchmark", "small", "--output-root", str(tmp_path), "--repeats", "1",
                                    "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "TAPO / DAPO" in done.output and "turn 1 of 1" in done.output
    found = json.loads(file.read_text())
    assert found["settings"]["n_anchor"] == 1 and len(found["steps"]["tapo"]["step"]) == 1
