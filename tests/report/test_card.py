"""The card tells the truth: metadata that the Hub reads, and sentences that follow from the results alone."""

from __future__ import annotations

import copy
import math
import re

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hf_distill.report.card import address, model_card, shown_share, verdict
from hf_distill.report.figures import quality_against_speed, training_curves

RECIPE = "version: 1\nname: mini\ndata:\n  files: {train: /home/ada/secret/train.csv}\n"


def metrics(accuracy):
    return {
        "accuracy": {"value": accuracy, "low": accuracy - 0.0125, "high": accuracy + 0.0111},
        "f1_macro": {"value": accuracy - 0.01, "low": accuracy - 0.03, "high": accuracy + 0.01},
    }


def model(name, accuracy, **facts):
    defaults = {
        "model": name,
        "hub_id": None,
        "revision": None,
        "license": None,
        "origin": "layers 0, 2, 5 of 6 of the teacher",
        "parameters": 17_400_000,
        "disk_bytes": 69_600_000,
        "latency_ms": 3.21,
        "samples_per_second": 352.4,
        "metrics": metrics(accuracy),
    }
    return {**defaults, **facts}


RESULTS = {
    "name": "mini",
    "task": "text-classification",
    "pipeline_tag": "text-classification",
    "problem_type": "single_label_classification",
    "command": "hf-distill run /home/ada/recipes/mini.yaml",
    "created": "2026-01-02T03:04:05Z",
    "seed": 42,
    "recipe_sha256": "0123456789abcdef0123",
    "models": {
        "teacher": model(
            "big/teacher", 0.9252, hub_id="big/teacher", revision="abc123", license="mit", parameters=22_700_000
        ),
        "student": model("mini/student", 0.9162),
        "control": model("mini/control", 0.9052),
    },
    "comparison": {
        "primary_metric": "accuracy",
        "lower_is_better": False,
        "retention": 0.9903,
        "gap_closed": 0.55,
        "student_minus_control": {"value": 0.0110, "low": 0.0031, "high": 0.0189},
        "student_minus_teacher": {"value": -0.0090, "low": -0.0170, "high": -0.0010},
        "agreement": 0.951,
        "size_ratio": 0.767,
        "speedup": 1.96,
    },
    "speed": {"device": "cpu", "dtype": "float32", "threads": 2, "batch_size": 32, "rounds": 5},
    "data": {
        "source": "legacy/banking77/en@f00d",
        "dataset_id": "legacy/banking77",
        "fingerprint": "deadbeefdeadbeefdeadbeef",
        "rows": {"train": 10003, "test": 3080},
        "evaluated_split": "test",
        "labels": ["card_arrival", "card_lost"],
    },
    "objectives": [
        {"kind": "labels", "weight": 1.0, "options": {}, "paper": "the task's own loss on the labels"},
        {
            "kind": "logits",
            "weight": 2.0,
            "options": {"temperature": 4.0},
            "paper": "Hinton et al. 2015, arXiv:1503.02531",
        },
    ],
    "training": {"student": {"seconds": 321.4, "steps": 1252}, "control": {"seconds": None, "steps": 1252}},
    "versions": {"transformers": "5.23.0"},
    "machine": {"cpu": "AMD EPYC", "cores": 2, "accelerator": None},
}

ANALYSIS = {
    "summary": ["Of 3080 rows the student decides 91.6% right."],
    "measure": {"classes": "f1"},
    "classes": [
        {"label": "card_arrival", "support": 40, "teacher": 0.91, "student": 0.71, "difference": -0.2},
        {"label": "card_lost", "support": 40, "teacher": 0.88, "student": 0.93, "difference": 0.05},
    ],
    "confusions": [{"label": "card_arrival", "predicted": "card_lost", "count": 9, "teacher_count": 3, "examples": []}],
    "examples": [
        {
            "text": "where <b>is</b> | my\ncard?",
            "label": "card_arrival",
            "student": "card_lost",
            "teacher": "card_arrival",
        }
    ],
}


def changed(**comparison):
    results = copy.deepcopy(RESULTS)
    results["comparison"].update(comparison)
    return results


def without_control():
    results = changed(student_minus_control=None, gap_closed=None)
    del results["models"]["control"], results["training"]["control"]
    return results


def text_of(results, analysis=ANALYSIS, recipe=RECIPE):
    return model_card(results, analysis, recipe, ["figures/training.png"]).text


def metadata_of(results):
    return ModelCard(str(model_card(results, ANALYSIS, RECIPE, []))).data.to_dict()


def test_the_hub_reads_what_the_student_is_from_the_metadata():
    data = metadata_of(RESULTS)
    assert data["base_model"] == "big/teacher"
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["legacy/banking77"]
    assert data["license"] == "mit"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    assert data["metrics"] == ["accuracy", "f1"]
    assert data["tags"] == ["distillation", "knowledge-distillation", "hf_distill", "teacher:big/teacher"]
    assert data["distillation"]["teacher_revision"] == "abc123"
    assert data["distillation"]["objectives"][1] == {"kind": "logits", "weight": 2.0, "temperature": 4.0}


def test_the_model_index_holds_every_score_of_the_student_with_the_data_it_was_measured_on():
    scores = ModelCard(str(model_card(RESULTS, ANALYSIS, RECIPE, []))).data.eval_results
    assert [(score.metric_type, score.metric_name, score.metric_value) for score in scores] == [
        ("accuracy", "accuracy", 0.9162),
        ("f1", "f1_macro", 0.9062),
    ]
    first = scores[0]
    measured_on = (first.dataset_type, first.dataset_config, first.dataset_revision, first.dataset_split)
    assert measured_on == ("legacy/banking77", "en", "f00d", "test")


def test_a_student_of_fresh_weights_is_not_called_a_finetune_of_its_teacher():
    results = copy.deepcopy(RESULTS)
    results["models"]["student"]["origin"] = "fresh bert, 3 layers, hidden size 128"
    data = metadata_of(results)
    assert data["base_model"] == "big/teacher"
    assert "base_model_relation" not in data


def test_a_student_that_started_from_another_model_names_that_one_and_settles_no_licence():
    results = copy.deepcopy(RESULTS)
    results["models"]["student"].update(origin="small/base", hub_id="small/base", license="apache-2.0")
    data = metadata_of(results)
    assert (data["base_model"], data["base_model_relation"]) == ("small/base", "finetune")
    assert "license" not in data
    assert "apache-2.0 and mit" in text_of(results)


def test_another_licence_goes_along_with_its_name_and_a_link_that_works_elsewhere():
    results = copy.deepcopy(RESULTS)
    results["models"]["teacher"].update(license="other", license_name="open-x", license_link="LICENSE")
    data = metadata_of(results)
    assert (data["license"], data["license_name"]) == ("other", "open-x")
    assert data["license_link"] == "https://huggingface.co/big/teacher/blob/main/LICENSE"
    results["models"]["teacher"]["license_link"] = "https://example.org/terms"
    assert metadata_of(results)["license_link"] == "https://example.org/terms"
    results["models"]["student"].update(license="other", license_name="open-y")
    assert not {"license", "license_name", "license_link"} & metadata_of(results).keys()


def test_local_data_and_a_local_teacher_are_not_passed_off_as_hub_ids():
    results = copy.deepcopy(RESULTS)
    results["models"]["teacher"].update(model="quickstart-teacher", hub_id=None, revision=None, license=None)
    results["data"].update(dataset_id=None, source="train: train.csv, test: test.csv")
    data = metadata_of(results)
    assert not {"datasets", "base_model", "license"} & data.keys()
    assert data["distillation"]["teacher"] == "quickstart-teacher"
    assert not any(tag.startswith("teacher:") for tag in data["tags"])


def test_the_first_sentence_tells_teacher_size_speed_and_what_is_kept():
    first = text_of(RESULTS).split("\n\n")[1]
    assert "student of **big/teacher**" in first
    for share in ("76.7% of its parameters", "2.0 times its speed", "99.0% of its accuracy", "0.9162", "0.9252"):
        assert share in first


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.011, 0.003, 0.019, "The teacher helped."),
        (0.004, -0.003, 0.011, "may be chance"),
        (-0.001, -0.008, 0.006, "does not beat its control"),
        (-0.011, -0.019, -0.003, "the control is the better model"),
    ],
)
def test_the_card_says_plainly_what_the_teacher_was_worth(value, low, high, said):
    results = changed(student_minus_control={"value": value, "low": low, "high": high})
    text = text_of(results)
    assert said in text
    assert f"{value:+.4f} accuracy (95%: {low:+.4f} to {high:+.4f})" in text
    assert ("The teacher helped." in text) == (low > 0)


def test_where_lower_is_better_a_negative_difference_is_a_gain():
    comparison = {"primary_metric": "mse", "lower_is_better": True}
    assert "helped" in verdict({**comparison, "student_minus_control": {"value": -0.02, "low": -0.03, "high": -0.01}})
    assert "harm" in verdict({**comparison, "student_minus_control": {"value": 0.02, "low": 0.01, "high": 0.03}})


def test_without_a_control_the_card_claims_no_gain():
    text = text_of(without_control())
    assert "No control was trained" in text
    assert "helped" not in text
    assert "| control |" not in text


def test_a_model_without_a_teacher_is_no_distillation():
    results = without_control()
    del results["models"]["teacher"], results["comparison"]
    results["primary_metric"] = "accuracy"
    results["models"]["student"]["origin"] = "fresh bert, 4 layers, hidden size 64"
    card = model_card(results, {}, RECIPE, [])
    assert card.data.tags == ["hf_distill"]
    assert "distillation" not in card.data.to_dict()
    assert "trained on legacy/banking77/en@f00d: accuracy 0.9162" in card.text
    assert "teacher" not in card.text.split("## How it was made")[0]


def test_every_model_stands_with_its_interval_size_and_speed():
    text = text_of(RESULTS)
    assert "| teacher | 0.9252 | 0.9127 to 0.9363 |" in text
    assert "| student | 0.9162 | 0.9037 to 0.9273 |" in text
    assert "| control | 0.9052 | 0.8927 to 0.9163 |" in text
    assert "| student | 17.4 M | 69.6 MB | 3.2 ms | 352 |" in text
    assert "float32 on cpu (AMD EPYC, threads: 2). rows/s: in batches of 32." in text
    assert "3,080 test rows" in text


def test_tables_are_narrow_and_paragraphs_short_enough_for_a_phone():
    text = text_of(RESULTS).split("<details><summary>The exact recipe")[0]
    assert max(line.count("|") for line in text.splitlines()) <= 6
    assert max(len(line) for line in text.splitlines()) < 320


def test_weak_classes_and_confusions_are_shown_and_classes_that_won_are_not():
    text = text_of(RESULTS)
    assert "| card_arrival | 40 | 0.91 | 0.71 |" in text
    assert "| card_lost | 40 |" not in text
    assert "| card_arrival | card_lost | 9 | 3 |" in text
    assert r"where \<b\>is\</b\> \| my card? (is card_arrival, taken for card_lost)" in text


def test_an_analysis_of_regression_without_classes_is_enough():
    results = changed(agreement=0.98)
    results["problem_type"] = "regression"
    analysis = {"summary": ["off by 0.3"], "classes": [], "confusions": [], "calibration": {}}
    analysis["examples"] = [{"text": "a pair", "label": 3.2, "student": 4.5, "teacher": 3.3}]
    text = text_of(results, analysis)
    assert "They correlate at 0.9800" in text
    assert "a pair (is 3.2, taken for 4.5)" in text
    assert "labels: " not in text


def test_no_absolute_path_of_the_machine_reaches_the_card():
    text = str(model_card(RESULTS, ANALYSIS, RECIPE, []))
    assert "/home" not in text
    assert "train: train.csv" in text
    assert "hf-distill run mini.yaml" in text
    assert "arXiv:1503.02531" in text
    assert "legacy/banking77" in text


def test_how_it_was_made_can_be_followed():
    text = text_of(RESULTS)
    assert "* logits, weight 2, temperature 4.0: Hinton et al. 2015, arXiv:1503.02531" in text
    assert "Student: 1,252 steps in 321 s. Control: 1,252 steps." in text
    assert "fingerprint `deadbeefdeadbeef`" in text
    assert "transformers 5.23.0" in text
    assert re.search(r"<details>.*```yaml\nversion: 1\n.*```\n\n</details>", text, re.DOTALL)


def test_a_floor_is_named_with_its_own_metric():
    text = text_of({**RESULTS, "floor": {"name": "TF-IDF and logistic regression", "accuracy": 0.8312}})
    assert "TF-IDF and logistic regression, accuracy 0.8312" in text


def test_no_metric_is_shown_that_the_results_do_not_hold():
    results = copy.deepcopy(RESULTS)
    for each in results["models"].values():
        each["metrics"].pop("f1_macro")
    assert "Other metrics" not in text_of(results)


def test_the_example_names_the_repository_that_the_card_is_pushed_to():
    text = text_of(RESULTS)
    assert '"USER/mini"' in text
    assert 'pipeline("text-classification", "me/student")' in address(text, "me/student")
    assert "USER" not in address(text, "me/student")


def test_the_card_is_written_into_the_students_folder(tmp_path):
    model_card(RESULTS, ANALYSIS, RECIPE, ["figures/training.png"]).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "mini"
    assert "![training](figures/training.png)" in card.text


def history(terms, steps=600):
    logs = [
        {"step": step, **{f"weighted_loss_{term}": math.exp(-step / 300) + 0.1 for term in terms}}
        for step in range(10, steps, 10)
    ]
    return [*logs, *({"step": step, "eval_accuracy": 1 - math.exp(-step / 300)} for step in range(200, steps + 1, 200))]


def ink(path, box=None):
    """How many different colours a part of a picture has."""
    with Image.open(path) as image:
        return len(image.convert("RGB").crop(box or (0, 0, *image.size)).getcolors(100_000))


def test_training_curves_are_small_and_fit_a_phone(tmp_path):
    histories = {"student": history(("labels", "logits", "hidden")), "control": history(("labels",))}
    training_curves(histories, "accuracy", tmp_path / "training.png")
    with Image.open(tmp_path / "training.png") as image:
        assert image.width == 640
        assert image.height == 760
    assert (tmp_path / "training.png").stat().st_size < 60_000
    assert ink(tmp_path / "training.png") > 30


def test_a_panel_for_which_nothing_was_logged_is_left_out(tmp_path):
    logs = [entry for entry in history(("labels",)) if "eval_accuracy" not in entry]
    training_curves({"student": logs}, "accuracy", tmp_path / "training.png")
    with Image.open(tmp_path / "training.png") as image:
        assert image.height == 380


def test_quality_against_speed_is_small_and_shows_every_model(tmp_path):
    quality_against_speed(RESULTS, tmp_path / "three.png")
    quality_against_speed(without_control(), tmp_path / "two.png")
    for name in ("three.png", "two.png"):
        assert (tmp_path / name).stat().st_size < 60_000
        with Image.open(tmp_path / name) as image:
            assert image.width == 640
    orange = (217, 119, 6)

    def shows_the_control(path):
        with Image.open(path) as image:
            return any(
                max(abs(one - other) for one, other in zip(colour, orange, strict=True)) < 12
                for _, colour in image.convert("RGB").getcolors(100_000)
            )

    assert shows_the_control(tmp_path / "three.png")
    assert not shows_the_control(tmp_path / "two.png")


def test_a_control_that_training_made_worse_is_told_and_what_the_student_gained_since_its_start():
    def told(start: float) -> str:
        return str(model_card({**RESULTS, "start": {"accuracy": start}}, {}, RECIPE, []))

    assert "before it was trained: accuracy 0.9100. The control ended worse than that" in told(0.91)
    assert "Student minus start: +0.0062" in told(0.91)
    assert "ended worse" not in told(0.9)


@pytest.mark.parametrize(
    ("share", "shown"), [(0.9853, "98.5%"), (0.9995, "99.95%"), (1.0, "100.0%"), (1.012, "101.2%")]
)
def test_nearly_all_is_not_shown_as_all(share, shown):
    assert shown_share(share) == shown
