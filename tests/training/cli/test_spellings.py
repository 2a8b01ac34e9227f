"""Options spelled as in other trainers are taken, or refused with the name that would do."""

import pytest
from cyclopts import CycloptsError

from convscope import VERBS, build_app
from training.cli.spellings import ALIASES, REFUSED, with_our_spellings


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            "train lenet --lr 0.1 --bs=64 --wd 0.01",
            "train lenet --learning-rate 0.1 --batch-size=64 --weight-decay 0.01",
        ),
        (
            "train lenet -b 64 -j 4 --opt sgd --imgsz 32",
            "train lenet --batch-size 64 --workers 4 --optimizer sgd --size 32",
        ),
        ("train lenet --img_size 32 --num_workers 0", "train lenet --size 32 --workers 0"),
        ("evaluate run --data-path photos -j 2", "evaluate run --data photos --workers 2"),
        ("classify a.png --topk 3", "classify a.png --top-k 3"),
        ("serve -p 3001", "serve --port 3001"),
        ("summary lenet --lr 1", "summary lenet --lr 1"),
        ("classify --artifact a -- --topk", "classify --artifact a -- --topk"),
        ("", ""),
    ],
)
def test_habitual_spellings_become_ours(given: str, wanted: str) -> None:
    assert with_our_spellings(given.split()) == wanted.split()


@pytest.mark.parametrize("word", ["--amp", "--pretrained", "--num-classes=5", "--test-only"])
def test_options_with_another_meaning_name_what_to_use(run, word: str) -> None:
    outcome = run("train", "lenet", "--data", "digits", word)
    name, use = word.split("=")[0], REFUSED["train"][word.split("=")[0]]
    assert outcome == (2, "", f"convscope: {name} is not an option of train; use {use}\n")


@pytest.mark.parametrize("verb", sorted(ALIASES))
def test_every_alias_is_of_an_option_that_the_verb_has_and_hides_none(verb: str) -> None:
    assert verb in VERBS
    own = {name for argument in build_app(verb)[verb].assemble_argument_collection() for name in argument.names}
    assert set(ALIASES[verb].values()) <= own | {f"--{name}" for name in ("model",)}
    assert not own & {*ALIASES[verb], *REFUSED.get(verb, ())}


def test_the_learning_rate_is_that_of_lr(run) -> None:
    outcome = run("train", "lenet", "--data", "digits", "--lr", "0.0123", "--bs", "33", "--print-recipe")
    assert '"learning_rate": 0.0123' in outcome.out and '"batch_size": 33' in outcome.out


def test_a_refusal_is_a_usage_error() -> None:
    with pytest.raises(CycloptsError, match="use --weights DEFAULT"):
        with_our_spellings(["train", "resnet18", "--pretrained"])
