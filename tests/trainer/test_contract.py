"""The contract: what a trainer's environment may hold, and that it agrees with the ultralytics that is installed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer.contract.exits import ADVICE, EXIT_CODE, REASON, ExitCode, FailureReason
from trainer.contract.hyperparameters import Hyperparameters, hyperparameter_problems
from trainer.contract.messages import EVENT_TYPE, Answer, AnyData, Command, Phase
from trainer.contract.tasks import MODELS, SIZES, ULTRALYTICS_TASK, TaskType, task_of
from trainer.contract.variables import (
    MASK,
    SECRET_NAMES,
    InvalidEnvironmentError,
    TrainerEnvironment,
    parse,
    without_password,
)
from trainer.store import LocalStoreSettings, S3StoreSettings

REPOSITORY = Path(__file__).parents[2]

MINIMAL = {
    "JOB_ID": "1",
    "PROJECT_ID": "abc123",
    "TASK_TYPE": "object_detection",
    "MODEL_NAME": "yolo11n",
    "EPOCHS": "3",
    "BATCH_SIZE": "4",
    "LEARNING_RATE": "0.01",
    "DATASET_ID": "6a4c1c1e-7a0e-4a58-9a55-2f0c8b1d9c11",
    "DATASET_SHA256": "a" * 64,
    "STORAGE_TYPE": "local",
    "LOCAL_STORAGE_ROOT": "/srv/store",
}
MINIO = {"MINIO_ACCESS_KEY": "minio-id-hush", "MINIO_SECRET_KEY": "minio-key-hush", "MINIO_BUCKET": "trainyard"}
R2 = {
    "R2_ENDPOINT": "https://account.r2.cloudflarestorage.com",
    "R2_ACCESS_KEY_ID": "r2-id-hush",
    "R2_SECRET_ACCESS_KEY": "r2-key-hush",
    "R2_BUCKET": "trainyard",
}
# Every variable, none at its default.
FULL = {
    **MINIMAL,
    **MINIO,
    **R2,
    "ATTEMPT": "7",
    "CALLBACK_URL": "http://me:callback-hush@backend:8000/internal/training/1",
    "INTERNAL_AUTH_TOKEN": "token-hush",
    "IMAGE_SIZE": "320",
    "SEED": "11",
    "PRETRAINED": "never",
    "CHECKPOINT_EVERY": "5",
    "WEIGHTS": "weights/mine.pt",
    "HYPERPARAMETERS": '{"cos_lr": true, "freeze": [0, 1], "mosaic": 0.5, "optimizer": "SGD"}',
    "DATASET_VERSION": "4",
    "STORAGE_TYPE": "r2",
    "ARTIFACT_PREFIX": "some/where",
    "MINIO_ENDPOINT": "http://minio-service:9000",
    "MLFLOW_TRACKING_URI": "https://me:mlflow-hush@mlflow.example.com",
    "MLFLOW_EXPERIMENT_NAME": "shelves",
    "MLFLOW_ARTIFACT_ROOT": "s3://bucket/mlflow",
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": "password-hush",
    "WORK_DIR": "/tmp/work",
    "CACHE_DIR": "/tmp/cache",
    "CACHE_MAX_GB": "20.5",
    "WEIGHTS_DIR": "/tmp/weights",
    "LINGER_SECONDS": "1.5",
    "LOG_FORMAT": "json",
}


def problems_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(InvalidEnvironmentError) as caught:
        parse(environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def named(problems: list[str]) -> list[str]:
    return sorted(problem.partition(":")[0] for problem in problems)


def python(code: str, *arguments: str, cwd: Path = REPOSITORY, **environ: str) -> Any:
    """Run `code` in a fresh interpreter and return the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- reading ----------------------------------------------------------------------------------------------------


def test_the_full_example_names_every_variable_there_is() -> None:
    assert FULL.keys() == TrainerEnvironment.model_fields.keys()


def test_the_least_that_is_needed_is_enough_and_the_rest_has_the_documented_defaults() -> None:
    settings = parse(MINIMAL)
    assert (settings.IMAGE_SIZE, settings.SEED, settings.PRETRAINED, settings.ATTEMPT) == (640, 0, "auto", 1)
    assert settings.HYPERPARAMETERS == {}
    assert settings.CALLBACK_URL is None
    assert settings.MLFLOW_TRACKING_URI == ""
    assert settings.experiment_name == "project-abc123"
    assert settings.artifact_prefix == "projects/abc123/jobs/1/attempt-1"
    assert Path(".") == settings.WORK_DIR


def test_minio_is_the_default_store_at_its_usual_address() -> None:
    settings = parse({k: v for k, v in (MINIMAL | MINIO).items() if k not in ("STORAGE_TYPE", "LOCAL_STORAGE_ROOT")})
    assert settings.store_settings() == S3StoreSettings(
        "minio", "http://localhost:9000", "minio-id-hush", "minio-key-hush", "trainyard"
    )


def test_every_problem_is_listed_at_once_each_by_the_name_of_its_variable() -> None:
    bad = {
        **MINIMAL,
        "EPOCHS": "many",
        "BATCH_SIZE": "0",
        "LEARNING_RATE": "nan",
        "IMAGE_SIZE": "100",
        "SEED": "-1",
        "PRETRAINED": "maybe",
        "HYPERPARAMETERS": "{",
        "PROJECT_ID": "a/b",
        "ATTEMPT": "0",
        "CALLBACK_URL": "backend",
        "DATASET_ID": "7",
        "DATASET_SHA256": "xyz",
        "STORAGE_TYPE": "ftp",
        "LOG_FORMAT": "xml",
        "LINGER_SECONDS": "-1",
    }
    del bad["JOB_ID"], bad["MODEL_NAME"]
    wrong = bad.keys() - MINIMAL.keys() | {"EPOCHS", "BATCH_SIZE", "LEARNING_RATE", "PROJECT_ID", "DATASET_ID"}
    wrong |= {"DATASET_SHA256", "STORAGE_TYPE", "JOB_ID", "MODEL_NAME", "INTERNAL_AUTH_TOKEN"}
    assert named(problems_of(bad)) == sorted(wrong)


def test_a_missing_variable_is_explained() -> None:
    problems = problems_of({k: v for k, v in MINIMAL.items() if k != "DATASET_ID"})
    assert problems == ["DATASET_ID: is required and not set (The dataset)"]


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    settings = parse({**MINIMAL, "SEED": empty, "CALLBACK_URL": empty, "MLFLOW_TRACKING_URI": empty, "MODEL": "x"})
    assert settings == parse(MINIMAL)
    assert named(problems_of({**MINIMAL, "EPOCHS": empty, "LOCAL_STORAGE_ROOT": empty})) == [
        "EPOCHS",
        "LOCAL_STORAGE_ROOT",
    ]


@pytest.mark.parametrize("missing", ["MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET"])
def test_minio_needs_its_keys_and_a_bucket(missing: str) -> None:
    environ = {**MINIMAL, **MINIO, "STORAGE_TYPE": "minio"}
    assert parse(environ).STORAGE_TYPE == "minio"
    del environ[missing]
    assert problems_of(environ) == [f"{missing}: is required when STORAGE_TYPE is minio"]


@pytest.mark.parametrize("missing", ["R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET"])
def test_r2_needs_its_endpoint_keys_and_bucket(missing: str) -> None:
    environ = {**MINIMAL, **R2, "STORAGE_TYPE": "r2"}
    assert parse(environ).STORAGE_TYPE == "r2"
    del environ[missing]
    assert problems_of(environ) == [f"{missing}: is required when STORAGE_TYPE is r2"]


def test_a_local_store_needs_its_folder() -> None:
    assert parse(MINIMAL).store_settings() == LocalStoreSettings(Path("/srv/store"))
    environ = {k: v for k, v in MINIMAL.items() if k != "LOCAL_STORAGE_ROOT"}
    assert problems_of(environ) == ["LOCAL_STORAGE_ROOT: is required when STORAGE_TYPE is local"]


def test_missing_companions_stand_beside_all_other_problems() -> None:
    environ = {**MINIMAL, "STORAGE_TYPE": "r2", "EPOCHS": "0", "CALLBACK_URL": "http://backend/x"}
    assert named(problems_of(environ)) == [
        "EPOCHS",
        "INTERNAL_AUTH_TOKEN",
        "R2_ACCESS_KEY_ID",
        "R2_BUCKET",
        "R2_ENDPOINT",
        "R2_SECRET_ACCESS_KEY",
    ]


@pytest.mark.parametrize("text", ["{", "mosaic=0", "{'mosaic': 0}", "[" * 60_000])
def test_hyperparameters_that_are_no_json_are_one_problem_that_says_what_to_write(text: str) -> None:
    (problem,) = problems_of({**MINIMAL, "HYPERPARAMETERS": text})
    assert problem.startswith("HYPERPARAMETERS: is not JSON")
    assert '{"mosaic": 0}' in problem


@pytest.mark.parametrize("text", ["[]", "3", '"mosaic"', "null"])
def test_hyperparameters_that_are_no_object_are_refused(text: str) -> None:
    assert named(problems_of({**MINIMAL, "HYPERPARAMETERS": text})) == ["HYPERPARAMETERS"]


def test_a_model_for_another_task_is_refused_with_those_that_fit() -> None:
    (problem,) = problems_of({**MINIMAL, "MODEL_NAME": "yolo11n-seg"})
    assert problem.startswith("MODEL_NAME: 'yolo11n-seg' is not a model for object_detection; use one of yolo26n, ")


@pytest.mark.parametrize("forever", ["inf", "1e300", "nan"])
def test_nobody_lingers_for_ever(forever: str) -> None:
    """A wait that no clock can count would end the trainer with an error of its own."""
    assert named(problems_of({**MINIMAL, "LINGER_SECONDS": forever})) == ["LINGER_SECONDS"]


def test_variables_of_others_are_left_alone() -> None:
    assert parse({**MINIMAL, "PATH": "/bin", "EPOCH": "many"}) == parse(MINIMAL)


# --- and writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [MINIMAL, FULL], ids=["minimal", "full"])
def test_what_is_written_is_read_back_the_same(environ: dict[str, str]) -> None:
    settings = parse(environ)
    assert parse(settings.to_environ()) == settings
    assert settings.to_environ().items() >= {k: v for k, v in environ.items() if k != "HYPERPARAMETERS"}.items()
    assert all(settings.to_environ().values())


def test_the_platform_cannot_build_an_environment_that_a_trainer_would_refuse() -> None:
    values = {**MINIMAL, "STORAGE_TYPE": "minio", "HYPERPARAMETERS": {"mosaic": 0}}
    with pytest.raises(ValidationError, match="MINIO_ACCESS_KEY: is required") as caught:
        TrainerEnvironment.model_validate(values)
    assert "MINIO_BUCKET: is required" in str(caught.value)


# --- secrets ----------------------------------------------------------------------------------------------------


def test_the_secrets_are_these() -> None:
    assert (
        frozenset(
            {
                "INTERNAL_AUTH_TOKEN",
                "MINIO_ACCESS_KEY",
                "MINIO_SECRET_KEY",
                "R2_ACCESS_KEY_ID",
                "R2_SECRET_ACCESS_KEY",
                "MLFLOW_TRACKING_PASSWORD",
            }
        )
        == SECRET_NAMES
    )


def test_masked_shows_every_variable_and_no_secret() -> None:
    masked = parse(FULL).masked()
    assert masked.keys() == FULL.keys()
    assert "hush" not in str(masked)
    assert {name for name, value in masked.items() if value == MASK} == SECRET_NAMES
    assert masked["MLFLOW_TRACKING_URI"] == f"https://me:{MASK}@mlflow.example.com"
    assert masked["CALLBACK_URL"] == f"http://me:{MASK}@backend:8000/internal/training/1"


@pytest.mark.parametrize("name", sorted(SECRET_NAMES))
def test_a_secret_shows_in_neither_repr_nor_str_of_an_environment(name: str) -> None:
    settings = parse(FULL)
    assert FULL[name] not in repr(settings)
    assert FULL[name] not in str(settings)


def test_errors_repeat_no_secret() -> None:
    bad = {**FULL, "EPOCHS": "many", "MLFLOW_TRACKING_URI": "ok", "CALLBACK_URL": "ftp://me:callback-hush@backend"}
    with pytest.raises(InvalidEnvironmentError) as caught:
        parse(bad)
    assert "hush" not in str(caught.value) + repr(caught.value) + repr(caught.value.__context__)
    with pytest.raises(ValidationError) as refused:
        TrainerEnvironment.model_validate({**bad, "HYPERPARAMETERS": {}})
    assert "hush" not in str(refused.value) + repr(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mlflow", "mlflow"),
        ("a@b", "a@b"),
        ("http://host/a@b", "http://host/a@b"),
        ("postgresql://me:hush@host/db", f"postgresql://me:{MASK}@host/db"),
        ("http://me:hu@sh@host:80/x?y=1", f"http://me:{MASK}@host:80/x?y=1"),
        ("redis://:hush@host", f"redis://:{MASK}@host"),
    ],
)
def test_passwords_in_urls_are_hidden(text: str, shown: str) -> None:
    assert without_password(text) == shown


# --- ends and messages ------------------------------------------------------------------------------------------


def test_every_failure_has_an_exit_code_of_its_own_and_advice() -> None:
    assert EXIT_CODE.keys() == ADVICE.keys() == set(FailureReason)
    assert len(set(EXIT_CODE.values())) == len(EXIT_CODE)
    assert {REASON[code]: code for code in REASON} == EXIT_CODE
    assert all(text.endswith(".") for text in ADVICE.values())


def test_exit_codes_of_the_shell_and_of_signals_are_left_free() -> None:
    """1 and 2 are Python's own, 126 and 127 the shell's, and above 128 are signals."""
    assert all(code == 0 or 64 <= code <= 78 for code in ExitCode)


def test_every_kind_of_message_has_its_name() -> None:
    assert set(AnyData.__args__) == EVENT_TYPE.keys()  # type: ignore[attr-defined]
    assert len(set(EVENT_TYPE.values())) == len(EVENT_TYPE)


def test_an_answer_that_says_more_than_we_know_is_read_all_the_same() -> None:
    assert Answer.model_validate_json('{"acked": 3, "command": "stop", "mood": "fine"}') == Answer(
        acked=3, command=Command.STOP
    )


def test_phases_fit_their_column() -> None:
    assert max(map(len, Phase)) <= 32


# --- models and hyper-parameters against ultralytics ------------------------------------------------------------

LOOK_AT_ULTRALYTICS = """
import json, sys
asked = json.load(open(sys.argv[1]))
from ultralytics import cfg
from ultralytics.nn.tasks import guess_model_task, yaml_model_load
refused = []
for name, values in asked["values"].items():
    for value in values:
        try:
            cfg.check_cfg({name: value}, hard=True)
        except (TypeError, ValueError) as error:
            refused.append(f"{name}={value!r}: {error}")
models = {}
for name in asked["models"]:
    try:
        found = yaml_model_load(f"{name}.yaml")
        models[name] = [guess_model_task(found), found["scale"], found["scale"] in found["scales"]]
    except FileNotFoundError as error:
        models[name] = str(error)
kinds = {kind: sorted(getattr(cfg, f"CFG_{kind}_KEYS")) for kind in ("FLOAT", "FRACTION", "INT", "BOOL")}
print(json.dumps({"kinds": kinds, "default": cfg.DEFAULT_CFG_DICT, "models": models, "refused": refused}))
"""
SOME_VALUES: list[Any] = [0, 1, 2, 5, 32, 64, 100, 180, 1000, 10_000, 0.0, 0.0005, 0.001, 0.5, 0.99, 1.0, 100.5]
SOME_VALUES += [-1, True, False, "0.5", "1", "true", "ram", "disk", "fp16", "bf16", "fp32", "flip", "mixup", [1, 2]]
SOME_VALUES += ["randaugment", "autoaugment", "augmix", "SGD", "AdamW", "MuSGD"]


def accepted(name: str) -> list[Any]:
    return [value for value in SOME_VALUES if not hyperparameter_problems({name: value})]


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed ultralytics says, asked in another process."""
    folder = tmp_path_factory.mktemp("ultralytics")
    question = folder / "asked.json"
    models = [name for names in MODELS.values() for name in names]
    question.write_text(
        json.dumps({"values": {n: accepted(n) for n in Hyperparameters.model_fields}, "models": models})
    )
    offline = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    found: dict[str, Any] = python(LOOK_AT_ULTRALYTICS, str(question), cwd=folder, **offline)
    return found


def test_every_hyperparameter_is_one_of_ultralytics(ultralytics: dict[str, Any]) -> None:
    assert Hyperparameters.model_fields.keys() - ultralytics["default"].keys() == set()


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("FLOAT", [1.5], [True, "1.5"]),
        ("FRACTION", [0.0005], [1.5, -0.1, True]),
        ("INT", [2], [1.5, "x"]),
        ("BOOL", [True, False], [2, "maybe"]),
    ],
)
def test_types_agree_with_those_of_ultralytics(
    kind: str, right: list[Any], wrong: list[Any], ultralytics: dict[str, Any]
) -> None:
    ours = Hyperparameters.model_fields.keys() & set(ultralytics["kinds"][kind])
    assert ours
    for name in sorted(ours):
        assert all(hyperparameter_problems({name: value}) == [] for value in right), name
        assert all(hyperparameter_problems({name: value}) for value in wrong), name


def test_ultralytics_takes_every_value_that_we_take(ultralytics: dict[str, Any]) -> None:
    """Otherwise a job is accepted, queued and launched, and only then found to be wrong."""
    assert all(accepted(name) for name in Hyperparameters.model_fields)
    assert ultralytics["refused"] == []


def test_defaults_of_ultralytics_are_acceptable_values(ultralytics: dict[str, Any]) -> None:
    defaults = {name: ultralytics["default"][name] for name in Hyperparameters.model_fields if name != "optimizer"}
    assert hyperparameter_problems(defaults) == []


def test_ultralytics_knows_every_model_its_size_and_its_task(ultralytics: dict[str, Any]) -> None:
    expected = {
        name: [ULTRALYTICS_TASK[task], name.removesuffix("-" + name.partition("-")[2])[-1], True]
        for task, names in MODELS.items()
        for name in names
    }
    assert ultralytics["models"] == expected
    assert {size for _task, size, _known in expected.values()} == set(SIZES)


def test_every_model_belongs_to_one_task() -> None:
    names = [name for task in TaskType for name in MODELS[task]]
    assert len(names) == len(set(names))
    assert {name: task_of(name) for name in names} == {name: task for task in TaskType for name in MODELS[task]}
    assert task_of("resnet50") is None


def test_the_optimizer_that_ignores_the_rate_is_refused_and_told_why() -> None:
    (problem,) = hyperparameter_problems({"optimizer": "auto"})
    assert problem.startswith("optimizer: ")
    assert "ignore the learning rate" in problem


def test_a_misspelt_hyperparameter_gets_the_nearest_name() -> None:
    assert hyperparameter_problems({"mosiac": 0}) == ["mosiac: no such hyper-parameter; did you mean mosaic?"]
    assert hyperparameter_problems({"qqqqqqqq": 0}) == ["qqqqqqqq: no such hyper-parameter"]


def test_what_has_a_variable_of_its_own_is_sent_there() -> None:
    assert hyperparameter_problems({"lr0": 0.1}) == ["lr0: has a setting of its own, LEARNING_RATE; set that instead"]


def test_all_problems_of_hyperparameters_are_told_at_once() -> None:
    problems = hyperparameter_problems({"mosaic": 2, "mosiac": 0, "freeze": -1, "momentum": float("nan")})
    assert {problem.partition(":")[0] for problem in problems} == {"mosaic", "mosiac", "freeze", "momentum"}


# --- what loads what --------------------------------------------------------------------------------------------

LOADED = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} | set(sys.modules))))
"""
HEAVY = {"django", "torch", "torchvision", "ultralytics", "mlflow", "cv2", "numpy", "celery"}


def modules_of(folder: Path, root: Path) -> list[str]:
    return sorted(
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for path in folder.rglob("*.py")
        if path.name != "__main__.py"
    )


def test_the_shared_modules_load_neither_django_nor_torch_nor_ultralytics() -> None:
    light = [*modules_of(REPOSITORY / "trainer" / "contract", REPOSITORY), "trainer.store", "trainer.dataset"]
    assert set(python(LOADED, *light)) & HEAVY == set()


def test_all_of_the_trainer_loads_nothing_of_the_platform_and_nothing_heavy_before_it_is_needed() -> None:
    """Whatever is wrong with the environment is told in a fraction of a second."""
    loaded = set(python(LOADED, *modules_of(REPOSITORY / "trainer", REPOSITORY)))
    assert loaded & {"django", "apps", "config", "celery", "rest_framework"} == set()
    assert loaded & {"torch", "ultralytics", "mlflow"} == set()


def test_the_platform_loads_neither_torch_nor_ultralytics(tmp_path: Path) -> None:
    code = (
        "import django, importlib; django.setup(); importlib.import_module('config.urls'); "
        "from config.celery import app; app.loader.import_default_modules()\n"
    )
    loaded = set(
        python(
            code + LOADED,
            PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "platform")]),
            DJANGO_SETTINGS_MODULE="config.settings",
            DATA_DIR=str(tmp_path),
        )
    )
    assert "apps.jobs.callback" in loaded
    assert loaded & {"torch", "torchvision", "ultralytics", "cv2", "mlflow"} == set()


def test_s3_and_mlflow_and_ultralytics_are_each_imported_in_one_module() -> None:
    users: dict[str, set[str]] = {"boto3": set(), "botocore": set(), "mlflow": set(), "ultralytics": set()}
    for path in (REPOSITORY / "trainer").rglob("*.py"):
        for name in imports_of(path):
            if (top := name.partition(".")[0]) in users:
                users[top].add(path.name)
    assert users["boto3"] == users["botocore"] == {"store_s3.py"}
    assert len(users["mlflow"]) == 1
    assert users["ultralytics"] == {"yolo.py"}


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


# Imports point one way: config -> jobs -> {storage, executor} -> projects; all may use the trainer's light modules.
MAY_IMPORT = {
    "config": {"apps.jobs", "apps.storage", "apps.executor", "apps.projects", "trainer"},
    "apps.jobs": {"apps.storage", "apps.executor", "apps.projects", "trainer"},
    "apps.storage": {"apps.projects", "trainer"},
    "apps.executor": {"apps.projects", "trainer"},
    "apps.projects": {"trainer"},
    "trainer": set(),
}
FOLDERS = {name: REPOSITORY / name.replace(".", "/") for name in MAY_IMPORT} | {
    "config": REPOSITORY / "platform" / "config"
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    allowed = {package, *MAY_IMPORT[package]}
    astray = set()
    for path in FOLDERS[package].rglob("*.py"):
        for name in imports_of(path):
            inside = name.partition(".")[0] in ("apps", "config", "trainer") and name not in ("apps", "trainer")
            if inside and not any(name == each or name.startswith(f"{each}.") for each in allowed):
                astray.add(f"{path.relative_to(REPOSITORY)} imports {name}")
    assert astray == set()
