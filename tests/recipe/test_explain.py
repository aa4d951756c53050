from pathlib import Path

import pytest

from ldkit.recipe.explain import dotted, recipe_error
from ldkit.recipe.load import load_recipe
from ldkit.recipe.nodes import Origin, Problem
from ldkit.recipe.schema import Recipe
from tests.recipe.documents import ALONE, TAUGHT, complaint, write


@pytest.mark.contract
def test_all_problems_are_told_at_once_with_lines_and_suggestions(tmp_path: Path) -> None:
    text = TAUGHT.replace("temperature", "temprature").replace("kind: sgd", "kind: sdg")
    path = write(tmp_path, "ld.yaml", text)
    assert (
        complaint(path, "train.batch_size=-6", "views.count=0")
        == """\
: 4 problems

  line 8    objective.localization.main.temprature
            Unknown key. Did you mean `temperature`?
  line 9    optim.kind = sdg
            Unknown kind. Known kinds: sgd, adamw. Did you mean `sgd`?
  --set     views.count = 0
            Must be at least 1.
  --set     train.batch_size = -6
            Must be greater than 0.

Nothing was started. See `ldkit recipe schema objective.localization`."""
    )


def one(path: str, *overrides: str) -> tuple[str, str]:
    """Return subject and text of the only problem."""
    lines = complaint(path, *overrides).splitlines()
    assert lines[0] == ": 1 problem", lines
    label, subject = lines[2].strip().split("   ", 1)
    text = " ".join(line.strip() for line in lines[3:-2]).strip()
    return f"{label}: {subject.strip()}", text


@pytest.mark.contract
@pytest.mark.parametrize(
    ("override", "subject", "text"),
    [
        ("optim.lr=abc", "optim.lr = abc", "Must be a number."),
        ("optim.lr=true", "optim.lr = true", "Must be a number."),
        ("optim.lr=", "optim.lr = null", "Must be a number."),
        ("optim.lr=0", "optim.lr = 0", "Must be greater than 0."),
        ("optim.lr=.nan", "optim.lr = .nan", "Must be a finite number."),
        ("optim.lr=1e999", "optim.lr = .inf", "Must be a finite number."),
        ("optim.lr=-.inf", "optim.lr = -.inf", "Must be a finite number."),
        ("optim.momentum=1.5", "optim.momentum = 1.5", "Must be at most 1."),
        ("optim.weight_decay=-1", "optim.weight_decay = -1", "Must be at least 0."),
        ("train.batch_size=2.5", "train.batch_size = 2.5", "Must be a whole number."),
        ("train.batch_size=6.0", "train.batch_size = 6.0", "Must be a whole number."),
        ("train.batch_size='6'", 'train.batch_size = "6"', "Must be a whole number."),
        ("train.channels_last=yes", "train.channels_last = yes", "Must be true or false."),
        ("train.channels_last=True", "train.channels_last = True", "Must be true or false."),
        ("name=5", "name = 5", "Must be text. Put it in quotes."),
        ("name=[a]", "name = [a]", "Must be text."),
        (
            "name=a/b",
            "name = a/b",
            "Names a folder: letters, digits and . _ - only, a letter or digit first.",
        ),
        ("seed=-1", "seed = -1", "Must be at least 0."),
        ("seed.x=1", "seed", "Must be a whole number, but is a section with `x` in it."),
        ("optim.lr.x=1", "optim.lr", "Must be a number, but is a section with `x` in it."),
        ("seed={}", "seed", "Must be a whole number, but is a section with nothing in it."),
        ("optim=5", "optim = 5", "Must be a section of keys and values."),
        ("views=[1]", "views = [1]", "Must be a section of keys and values."),
        ("model.backbone=r18", "model.backbone = r18", "Must be a section of keys and values."),
        ("views.short_side_px=x", "views.short_side_px = x", "Must be a whole number or a list."),
        ("views.short_side_px=-3", "views.short_side_px = -3", "Must be greater than 0."),
        ("views.short_side_px=[9]", "views.short_side_px = [9]", "Must have more entries than 1."),
        (
            "views.short_side_px=[1, 2, 3]",
            "views.short_side_px = [1, 2, 3]",
            "Must have 2 entries, not 3.",
        ),
        ("views.short_side_px=[9, 3]", "views.short_side_px = [9, 3]", "Must be [low, high]."),
        ("views.short_side_px=[9, -3]", "views.short_side_px[1] = -3", "Must be greater than 0."),
        ("views.count=2", "views.count = 2", "Must be null, unless short_side_px is a range."),
        ("schedule.milestones=8", "schedule.milestones = 8", "Must be a list."),
        ("schedule.milestones=[8, x]", "schedule.milestones[1] = x", "Must be a whole number."),
        ("schedule.milestones=[9, 8]", "schedule.milestones = [9, 8]", "Must rise."),
        (
            "schedule.milestones=[8, 12]",
            "schedule.milestones = [8, 12]",
            "Must lie before the end (epochs = 12).",
        ),
        ("model.fpn.levels=[3, 5]", "model.fpn.levels = [3, 5]",
         "Must be consecutive and start at 2, 3, 4 or 5, as [3, 4, 5]."),
        ("model.head.norm_groups=7", "model.head.norm_groups = 7",
         "Must divide fpn.channels = 256."),
        ("model.backbone.name=null", "model.backbone.name = null", "Must be text."),
        ("objective.box.kind=ciou", "objective.box.kind = ciou",
         "Unknown kind. Known kinds: giou. Did you mean `giou`?"),
        ("eval.topk=pair", "eval.topk = pair",
         "Must be pairs or locations. Did you mean `pairs`?"),
        ("eval.topk=7", "eval.topk = 7", "Must be pairs or locations."),
        ("lr=1", "lr", "Unknown key. Did you mean `optim.lr`?"),
        ("data.epochs=1", "data.epochs", "Unknown key. Did you mean `schedule.epochs`?"),
        ("data.name=x", "data.name",
         "Unknown key. Did you mean `name` or `model.backbone.name` or `student.backbone.name`?"),
        ("optim.nesterov=true", "optim.nesterov",
         "Unknown key. Known here: kind, lr, momentum, weight_decay, clip_norm."),
        ("model.backbone.pretrained=1", "model.backbone.pretrained",
         "Not a key of this kind. Known here: name, width, depth."),
        ("optim.kind=adamw", "optim.lr", "Required, but missing."),
        ("extends=coco/base_1x", "extends",
         f"Unknown key. Known here: {', '.join(Recipe.model_fields)}."),
        ("data.val=null", "eval.every_epochs",
         "Evaluates on data.val, which is null. Must be null too."),
        ("model=null", "model = null",
         "Required, but missing; or `student`, to train with a teacher."),
        ("objective.localization.main.weight=1", "objective.localization.main",
         "Needs a student and its teacher; must be null here."),
        ("data.train={images: a}", "data.train.annotations", "Required, but missing."),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told_in_words(
    override: str, subject: str, text: str, tmp_path: Path
) -> None:
    place, told = one(write(tmp_path, "a.yaml", ALONE), override)
    assert place.partition(": ")[2] == subject
    assert told == text


@pytest.mark.contract
@pytest.mark.parametrize(
    ("override", "subject", "text"),
    [
        ("objective.localization.vrl={}", "objective.localization.vrl",
         "Unknown key. Did you mean `vlr`?"),
        ("objective.localization.vlr.wieght=1", "objective.localization.vlr.wieght",
         "Unknown key. Did you mean `weight`?"),
        ("objective.localization.vlr.normalizer=rows",
         "objective.localization.vlr.normalizer = rows",
         "Must be paper or weights."),
        ("objective.localization.vlr.overlap=diou", "objective.localization.vlr.overlap",
         "Unknown key. Did you mean `objective.vlr.overlap`?"),
        ("objective.vlr.overlap=iou", "objective.vlr.overlap = iou",
         "Must be published or diou. Did you mean `diou`?"),
        ("objective.vlr.flor=0.2", "objective.vlr.flor", "Unknown key. Did you mean `floor`?"),
        ("objective.vlr.floor=1", "objective.vlr.floor = 1", "Must be less than 1."),
        ("objective.vlr.floor=-0.1", "objective.vlr.floor = -0.1", "Must be at least 0."),
        ("objective.score.floor=1.5", "objective.score.floor = 1.5", "Must be less than 1."),
        ("objective.classification_kd.main={}", "objective.classification_kd.main.kind",
         "Required, but missing. Known kinds: softmax, binary."),
        ("objective.classification_kd.vlr.weight=1", "objective.classification_kd.vlr.kind",
         "Required, but missing. Known kinds: softmax, binary."),
        ("objective.classification_kd.main.kind=sofmax",
         "objective.classification_kd.main.kind = sofmax",
         "Unknown kind. Known kinds: softmax, binary. Did you mean `softmax`?"),
        ("objective.classification_kd.main={kind: binary, clases: sum}",
         "objective.classification_kd.main.clases", "Unknown key. Did you mean `classes`?"),
        ("objective.classification_kd.main={kind: binary, classes: all}",
         "objective.classification_kd.main.classes = all", "Must be mean or sum."),
        ("objective.imitation={}", "objective.imitation.region", "Required, but missing."),
        ("objective.imitation.region=fine_graned", "objective.imitation.region = fine_graned",
         "Must be main or inside_gt or fine_grained or gi. Did you mean `fine_grained`?"),
        ("objective.score.box={}", "objective.score.box.weight", "Required, but missing."),
        ("objective.score.classifcation.weight=1", "objective.score.classifcation",
         "Unknown key. Did you mean `classification`?"),
        ("objective.cross.after=0", "objective.cross.after = 0", "Must be greater than 0."),
        ("objective.localization.main.stop_step=0", "objective.localization.main.stop_step = 0",
         "Must be greater than 0."),
        ("objective.localization.main.warmup_stps=5", "objective.localization.main.warmup_stps",
         "Unknown key. Did you mean `warmup_steps`?"),
        ("objective.localization.main={warmup_steps: 100, stop_step: 100}",
         "objective.localization.main.stop_step = 100",
         "Must be greater than warmup_steps = 100."),
        ("objective.classification_kd.vlr={kind: binary, warmup_steps: 9, stop_step: 5}",
         "objective.classification_kd.vlr.stop_step = 5", "Must be greater than warmup_steps = 9."),
        ("cache.vlr.bbox_logit=fp16", "cache.vlr.bbox_logit",
         "Unknown key. Did you mean `bbox_logits`?"),
        ("cache.vlr.bbox_logits=fp15", "cache.vlr.bbox_logits = fp15",
         "Must be fp32 or fp16 or u8. Did you mean `fp16`?"),
        ("cache.vlr.floor=0.1", "cache.vlr.floor",
         "Unknown key. Did you mean `objective.vlr.floor` or `objective.score.floor`?"),
        ("cache.imitation={}", "cache.imitation.region", "Required, but missing."),
        ("cache.imitation.region=gi", "cache.imitation.region = gi",
         "Must be main or inside_gt or fine_grained."),
        ("cache.score.cls_logits=null", "cache.score.cls_logits = null",
         "Must be fp32 or fp16."),
        ("cache.cros.after=3", "cache.cros", "Unknown key. Did you mean `cross`?"),
        ("student.head.kind=gflv", "student.head.kind = gflv",
         "Unknown kind. Known kinds: gfl, gflv2. Did you mean `gflv2`?"),
        ("student.head={kind: gflv2, topc: 4}", "student.head.topc",
         "Unknown key. Did you mean `topk`?"),
        ("student.head.quality_channels=8", "student.head.quality_channels",
         ("Not a key of this kind. Known here: convs, norm_groups, reg_max, bin_width, "
          "anchor_scale, kind.")),
        ("objective.cross={after: 5, box: {weight: 4}}", "objective.cross.after = 5",
         "Must be at most student.head.convs = 4."),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_term_or_its_cache_is_told_in_words(
    override: str, subject: str, text: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    place, told = one(path, override)
    assert place.partition(": ")[2] == subject
    assert told == text


@pytest.mark.contract
def test_rules_between_terms_and_their_cache_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    overrides = (
        "objective.imitation={region: main}",
        "cache.imitation={region: inside_gt}",
        "objective.cross={after: 3, classification: {weight: 1}}",
        "cache.cross={after: 2}",
        "student.head.convs=1",
    )
    assert (
        complaint(path, *overrides)
        == """\
: 3 problems

  --set     cache.imitation.region = inside_gt
            Must be main, as objective.imitation.region, which reads it.
  --set     objective.cross.after = 3
            Must be at most student.head.convs = 1.
  --set     cache.cross.after = 2
            Must be 3, as objective.cross.after.

Nothing was started. See `ldkit recipe schema cache.imitation`."""
    )


@pytest.mark.contract
def test_what_no_term_reads_is_nobody_s_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    for overrides in (
        ["objective.imitation.region=gi", "cache.imitation.region=main"],
        ["cache.imitation.region=main"],
        ["cache.cross.after=2"],
        ["objective.cross.after=7"],
        ["student.head.convs=2"],
        ["objective.cross={after: 2, box: {weight: 4}}", "cache.cross.after=2"],
        ["objective.cross={after: 2, box: {weight: 4}}"],
    ):
        assert load_recipe(path, overrides).recipe.cache is not None


@pytest.mark.contract
def test_every_term_needs_a_student(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", ALONE)
    terms = {
        "objective.localization.main": "{}",
        "objective.localization.vlr": "{}",
        "objective.classification_kd.main": "{kind: softmax}",
        "objective.classification_kd.vlr": "{kind: binary}",
        "objective.imitation": "{region: main}",
        "objective.score.classification": "{weight: 1}",
        "objective.score.box": "{weight: 4}",
        "objective.cross.classification": "{weight: 1}",
        "objective.cross.box": "{weight: 4}",
    }
    told = complaint(path, *(f"{key}={value}" for key, value in terms.items()))
    assert told.startswith(": 9 problems\n")
    for key in terms:
        assert f"  {key}\n" in told
    assert told.count("Needs a student and its teacher; must be null here.") == 9


@pytest.mark.contract
def test_a_kind_that_is_missing_is_asked_for_with_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", ALONE.replace("kind: sgd, ", ""))
    assert one(path) == (
        "line 4: optim.kind",
        "Required, but missing. Known kinds: sgd, adamw.",
    )


@pytest.mark.contract
def test_rules_between_sections_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", TAUGHT)
    text = complaint(path, "teacher=null", "model.backbone.name=small", "data.val=null")
    assert ": 3 problems" in text
    assert "teacher = null\n" in text
    assert "Required, since a student learns from it. Set teacher.checkpoint." in text
    assert "not both: set one to null." in text
    assert "line 1    eval.every_epochs\n" in text


@pytest.mark.contract
def test_required_keys_are_asked_for_where_their_section_stands(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "# title\n\nmodel:\n  fpn: {channels: 64}\n")
    assert (
        complaint(path)
        == """\
: 4 problems

  line 3    name
            Required, but missing.
  line 3    model.backbone
            Required, but missing.
  line 3    optim
            Required, but missing.
  line 3    schedule
            Required, but missing.

Nothing was started. See `ldkit recipe schema`."""
    )


@pytest.mark.contract
def test_a_key_that_is_called_like_its_kind_keeps_its_path(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", ALONE.replace("[8, 11]", "[11, 8]"))
    assert one(path) == ("line 8: schedule.milestones = [11, 8]", "Must rise.")


@pytest.mark.contract
def test_problems_stand_in_the_order_of_lines_then_parents_then_flags() -> None:
    problems = [
        Problem(Origin("--set"), "d", "D."),
        Problem(Origin("dir/base.yaml", 3), "c", "C."),
        Problem(Origin("dir/a.yaml", 20), "b", "B."),
        Problem(Origin("dir/a.yaml", 4), "a", "A."),
    ]
    error = recipe_error("dir/a.yaml", problems)
    assert [line.split()[-1] for line in error.message.splitlines()[2:] if line] == [
        *["a", "A.", "b", "B.", "c", "C.", "d", "D."]
    ]
    assert "  base.yaml:3   c\n" in error.message
    assert error.hint == "Nothing was started."
    assert error.exit_code == 2


@pytest.mark.contract
def test_a_long_value_and_a_long_text_are_fitted() -> None:
    path = dotted(("a", "b", 2, "c"))
    assert path == "a.b[2].c"
    error = recipe_error("a", [Problem(Origin("a", 1), "x", "word " * 60)])
    assert max(len(line) for line in error.message.splitlines()) <= 100
