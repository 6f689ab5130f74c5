"""Options of ``run`` and ``compare`` that decide when to stop, and how: what is refused, and when.

Nothing is trained: every mistake is found before.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cnnbench.cli.app import app
from cnnbench.cli.commands.run import _print_results
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import parse_effect
from tests.support.samples import make_run, save

NET = """\
name: {name}
title: {title}
task: classify
dataset: {{name: mnist_5k, train_examples: 100}}
model:
  layers:
    hidden: {{op: dense, units: {units}, activation: relu}}
    out: {{op: dense, units: 10}}
train: {{epochs: 1, batch_size: 50, optimizer: {{name: {optimizer}, learning_rate: 0.02}}}}
seeds: [0, 1]
"""
BY_SEED = ("dataset.split.validation=0.2", "dataset.split.by_seed=true")
ONLY = "add one of them, or write --seeds."


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    for name, units, optimizer in (("a", 4, "sgd"), ("b", 6, "sgd"), ("d", 6, "adam")):
        text = NET.format(name=name, title=name.upper(), units=units, optimizer=optimizer)
        Path(f"{name}.yaml").write_text(text)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


def refused(words: str) -> str:
    done = invoke("run", *words.split())
    assert done.exit_code == 2
    assert not Path("results").exists()
    return done.stderr.removesuffix("\n")


LOOKS = {
    "--looks 10,5 --until-decided": (
        "--looks: '10,5' is not a list of increasing numbers of seeds; write, for example,"
        " 5,8,13,20."
    ),
    "--looks 5,5 --until-decided": (
        "--looks: '5,5' is not a list of increasing numbers of seeds; write, for example,"
        " 5,8,13,20."
    ),
    "--looks five --until-decided --test paired": (
        "--looks: 'five' is not a list of increasing numbers of seeds; write, for example, 6,10,20."
    ),
    "--looks 2,5 --until-decided": (
        "--looks: with 2 seeds, p is at least 0.33, which decides nothing at alpha 0.05; start at 4"
        " seeds."
    ),
    "--looks 4,8 --until-decided --test paired": (
        "--looks: with 4 seeds, p is at least 0.12, which decides nothing at alpha 0.05; start at 6"
        " seeds."
    ),
    "d.yaml --looks 4,8 --until-decided": (
        "--looks: with 4 seeds, p is at least 0.029, which decides nothing at alpha 0.025; start"
        " at 5 seeds."
    ),
    "--looks 5,10": (f"--looks: has an effect with --until-decided or --anytime only; {ONLY}"),
    "--max-seeds 10": (
        f"--max-seeds: has an effect with --until-decided or --anytime only; {ONLY}"
    ),
    "--max-seeds 3 --until-decided": (
        "--max-seeds: with 3 seeds, p is at least 0.1, which decides nothing at alpha 0.05; start"
        " at 4 seeds."
    ),
    "--max-seeds 1 --until-decided": "--max-seeds: '1' is too small; write 2 or more.",
    "--max-seeds 12 --looks 5,10 --until-decided": (
        "--max-seeds: 12 is not the last of --looks 5,10; remove --max-seeds, or write 10."
    ),
    "--until-decided --anytime": (
        "--anytime: cannot be combined with --until-decided; remove one of them."
    ),
    "--until-decided --seeds 6": (
        "--seeds: --until-decided decides on the number of seeds; write --max-seeds N, or remove"
        " one of them."
    ),
    "--until-decided seeds=6": (
        "--until-decided: decides on the seeds, so 'seeds=6' cannot be set; write --max-seeds N"
        " instead."
    ),
    "--anytime seeds=6": (
        "--anytime: decides on the seeds, so 'seeds=6' cannot be set; write --seeds instead."
    ),
    "--anytime --seeds 6 --max-seeds 3": (
        "--max-seeds: cannot be combined with --seeds; remove one of them."
    ),
    "--anytime --looks 5": (
        "--looks: --anytime looks after every seed; remove --looks, or write --until-decided."
    ),
    "--anytime --test unpaired": (
        "--anytime: is a test of pairs of equal seeds; remove --test unpaired, or write"
        " --until-decided."
    ),
    "--test welch": "--test: 'welch' is not a valid choice; write unpaired or paired.",
    f"--until-decided {' '.join(BY_SEED)}": (
        "--until-decided: with 'split: {by_seed: true}' in a, the seeds share training images, and"
        " no number of them keeps alpha at several looks; remove that key, or train a fixed number"
        " of --seeds."
    ),
    f"--test paired {' '.join(BY_SEED)}": (
        "--test: with 'split: {by_seed: true}', seeds share training images, so verdicts use the"
        " corrected resampled t-test; omit --test."
    ),
    "--until-decided --metric acuracy": (
        "--metric: a has no 'acuracy' (did you mean 'accuracy'?); write accuracy, loss,"
        " test_accuracy or test_loss."
    ),
    "--metric acuracy": (
        "--metric: a has no 'acuracy' (did you mean 'accuracy'?); write accuracy, loss,"
        " test_accuracy or test_loss."
    ),
    "--min-effect 5": (
        "--min-effect: accuracy is between 0 and 1, so 5 means 500 points; write 5pp for 5 points."
    ),
    "--until-decided --min-effect 5": (
        "--min-effect: accuracy is between 0 and 1, so 5 means 500 points; write 5pp for 5 points."
    ),
    "--until-decided --min-effect much": (
        "--min-effect: 'much' is not an effect size; write, for example, 0.1pp (points), 2% (of the"
        " baseline) or 0.003 (in the metric's unit)."
    ),
    "--until-decided --alpha 2": "--alpha: '2' is too large; write 0.5 or less.",
}
TUNE = {
    "--until-decided --tune learning_rate": (
        "--until-decided: cannot be combined with --tune; remove one of them."
    ),
    "--anytime --tune learning_rate": (
        "--anytime: cannot be combined with --tune; remove one of them."
    ),
    "--looks 5,10 --tune learning_rate": (
        "--looks: cannot be combined with --tune; remove one of them."
    ),
    "--max-seeds 9 --tune learning_rate": (
        "--max-seeds: cannot be combined with --tune; remove one of them."
    ),
    "--metric loss --tune learning_rate": (
        "--metric: cannot be combined with --tune; trials and verdicts use the first of"
        " train.metrics."
    ),
    "--min-effect 5 --tune learning_rate": (
        "--min-effect: accuracy is between 0 and 1, so 5 means 500 points; write 5pp for 5 points."
    ),
    "--trials 3": "--trials: has no effect without --tune or several values of a key; add --tune"
    " learning_rate.",
    "--tune-seeds 3": "--tune-seeds: has no effect without --tune; add --tune learning_rate.",
    "--tune-seeds 0 --tune learning_rate": "--tune-seeds: '0' is too small; write 1 or more.",
    "--trials 9 --tune learning_rate": (
        "--trials: 9 is more than the 5 combinations; omit it to try all, or add values."
    ),
    "--tune epochs": (
        "--tune: epochs is part of the budget, which is equal for all; set it with --epochs."
    ),
    "--tune task": (
        "--tune: task is not a setting of the network or its training; tune a key of train, model"
        " or dataset.augment."
    ),
    "--tune dataset.name=mnist:svhn": (
        "--tune: dataset.name is not a setting of the network or its training; tune a key of train,"
        " model or dataset.augment."
    ),
    "--tune nesterov": (
        "--tune nesterov: in a.yaml train.optimizer.nesterov is not a number; write values, such as"
        " nesterov=1e-4:1e-3."
    ),
    "--tune weight_decay": (
        "--tune weight_decay: in a.yaml train.optimizer.weight_decay is 0, and so is every multiple"
        " of it; write values, such as weight_decay=1e-4:1e-3."
    ),
    "d.yaml --tune momentum=0.8:0.9": (
        "--tune: d.yaml has no 'momentum'; write, for example, train.optimizer.learning_rate,"
        " train.optimizer.b1, train.optimizer.b2 or train.optimizer.eps."
    ),
    "--tune =": ("--tune: a key is missing; write, for example, --tune learning_rate=x0.3:x1:x3."),
    "--tune learning_rate=0.1": (
        "--tune learning_rate: '0.1' is not a list of values; write at least two with colons, such"
        " as learning_rate=x0.3:x1:x3."
    ),
    "--tune learning_rate=x0:x1": (
        "--tune learning_rate: 'x0' is not a factor; write a positive number after the x, such as"
        " x0.3."
    ),
    "--tune learning_rate=x1:0.1": (
        "--tune learning_rate: x1 is a factor, and 0.1 is a value; write all with x, or all"
        " without."
    ),
    "--tune learning_rate=high:low": (
        "--tune learning_rate: high is not valid for a.yaml:\n"
        "command line: train.optimizer.learning_rate: expected a number, got 'high'; use a number."
    ),
    "--tune learning_rate,learning_rate": (
        "--tune: 'learning_rate' is given twice; remove one of them."
    ),
}
OVER = {
    "--over epochs=1,2 --match params": (
        "--match: cannot be combined with --over; remove one of them."
    ),
    "--over epochs=1,2 --tune learning_rate": (
        "--tune: cannot be combined with --over; remove one of them."
    ),
    "--over epochs=1,2 --until-decided": (
        "--until-decided: cannot be combined with --over; remove one of them."
    ),
    "--over epochs=1,2 --anytime": (
        "--anytime: cannot be combined with --over; remove one of them."
    ),
    "--over epochs=1,2 --looks 5,10": (
        f"--looks: has an effect with --until-decided or --anytime only; {ONLY}"
    ),
    "--over epochs=1,2 --epochs 3": (
        "--over epochs: 'train.epochs=3' sets the same key; remove one of them."
    ),
    "--over optimizer=sgd,adam train.optimizer=sgd": (
        "--over optimizer: 'train.optimizer=sgd' sets the same key; remove one of them."
    ),
    "--over dataset=mnist_5k,mnist --dataset mnist": (
        "--over dataset: 'dataset.name=mnist' sets the same key; remove one of them."
    ),
    "--over epochs": "--over epochs: no values; write epochs=VALUE,VALUE.",
    "--over epocs=1,2": (
        "--over: a.yaml has no key 'epocs' (did you mean 'epochs'?); write its dotted path, such as"
        " train.optimizer.learning_rate."
    ),
    "--over units=4,8": (
        "--over: a.yaml has several keys 'units'; write model.hidden.units or model.out.units."
    ),
    "d.yaml --over momentum=0.8,0.9": (
        "--over: d.yaml has no key 'momentum'; write its dotted path, such as"
        " train.optimizer.learning_rate."
    ),
    "--over epochs=one,two": (
        "command line: train.epochs: expected an integer, got 'one'; use an integer."
    ),
    "--over epochs=0,2": "command line: train.epochs: 0 is too small; use 1 or more.",
    "--over dataset=mnist_5k,nmist": (
        "command line: dataset.name: unknown dataset 'nmist' (did you mean 'mnist'?); see"
        " `cnnbench data list`."
    ),
    "--over seeds=1,2": "--over: seeds are what every verdict is over; name another key.",
    "--over epochs=1,1.0": "--over epochs: 1.0 is given twice; remove one of them.",
}


@pytest.mark.parametrize("words", [*LOOKS, *TUNE, *OVER])
def test_mistakes_are_found_before_training(words: str) -> None:
    assert refused(f"a.yaml b.yaml {words}") == (LOOKS | TUNE | OVER)[words]


@pytest.mark.parametrize("option", ["--until-decided", "--anytime"])
def test_one_experiment_is_no_comparison(option: str) -> None:
    message = (
        f"{option}: compares experiments, and there is only a.yaml; name another one after it."
    )
    assert refused(f"a.yaml {option}") == message


@pytest.mark.parametrize("option", ["--until-decided", "--over epochs=1,2", "--tune learning_rate"])
def test_an_experiment_has_to_be_named(option: str) -> None:
    message = "no experiment given; specify a file, or a built-in one such as standard."
    assert refused(option) == message


def test_a_resumed_run_keeps_its_rule() -> None:
    path = save(make_run(), Path("results"))
    (path / "resolved.yaml").write_text(Path("a.yaml").read_text())
    for words, message in (
        (
            "--until-decided",
            "--until-decided: cannot be combined with --resume; repeat the command of the runs with"
            " --needed.",
        ),
        ("--over epochs=1,2", "--resume: cannot be combined with --over; remove one of them."),
        (
            "--tune learning_rate",
            "--resume: cannot be combined with --tune; run the command of the tuning again, which"
            " continues where it stopped.",
        ),
    ):
        done = invoke("run", "--resume", str(path), "--epochs", "9", *words.split())
        assert (done.exit_code, done.stderr) == (2, f"{message}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--anytime", "--anytime: no run given; name the experiments to combine the runs of."),
        (
            "standard modified --anytime --test unpaired",
            "--anytime: is a test of pairs of equal seeds; remove --test unpaired.",
        ),
        (
            "standard standard --anytime",
            "--anytime: combines all runs of standard, which is named twice; name each experiment"
            " once.",
        ),
        (
            "standard modified --over epochs --anytime",
            "--anytime: cannot be combined with --over; remove one of them.",
        ),
        (
            "standard modified --over epochs --precision 0",
            "--precision: cannot be combined with --over; remove one of them.",
        ),
        (
            "standard modified --over epochs --only-changed",
            "--only-changed: cannot be combined with --over; remove one of them.",
        ),
    ],
)
def test_mistakes_of_compare(words: str, message: str) -> None:
    for name in ("standard", "modified"):
        save(make_run(name, seeds=range(6), run_id=f"20251123T063012Z-{name[0]}"), Path("results"))
    done = invoke("compare", *words.split())
    assert (done.exit_code, done.stderr) == (2, f"{message}\n")


def test_the_next_command_judges_as_the_run_did(capsys: pytest.CaptureFixture[str]) -> None:
    results = Path("results")
    runs = [make_run(name, name, seeds=range(6), run_id=name) for name in ("a", "b")]
    folders = [save(run, results) for run in runs]
    criteria = Criteria(metric="loss", test="paired", min_effect=parse_effect("2%"))
    _print_results(runs, folders, results, criteria, verbose=False)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "Next:  cnnbench compare a b --metric loss --min-effect 2% --test paired"
