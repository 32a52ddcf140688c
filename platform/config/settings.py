"""Settings of the platform. Every one comes from the environment; .env.example lists them all."""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import environ
from celery.schedules import crontab
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

from config.environment import Environment
from config.secret_files import kept_secret

BASE_DIR = Path(__file__).resolve().parents[2]

ENV = Environment()
ENV.load(str(BASE_DIR / ".env"))

# --- where things lie ---------------------------------------------------------------------------------------


def _folder(name: str, default: Path, about: str, shown: str = "") -> Path:
    """A relative one counts from the project's folder, from wherever a command is started."""
    return (BASE_DIR / ENV.text(name, str(default), shown=shown, about=about)).resolve()


DATA_DIR = _folder("DATA_DIR", BASE_DIR / "var", "Folder for everything the platform writes", shown="var")
DATA_DIR.mkdir(parents=True, exist_ok=True)


def _secret(name: str, about: str) -> str:
    given = ENV.text(name, about=f"{about}; made on first start and kept in DATA_DIR/secrets when empty")
    return given or kept_secret(DATA_DIR / "secrets", name)


# --- Django -------------------------------------------------------------------------------------------------
SECRET_KEY = _secret("DJANGO_SECRET_KEY", "Signs sessions")
DEBUG = ENV.flag("DEBUG", False, about="Show tracebacks in the browser; never in production")
ALLOWED_HOSTS = ENV.items("ALLOWED_HOSTS", ["localhost", "127.0.0.1"], about="Host names this platform answers to")
CSRF_TRUSTED_ORIGINS = ENV.items(
    "CSRF_TRUSTED_ORIGINS", [], about="Origins (https://host) that may post forms, behind a proxy"
)
BEHIND_HTTPS_PROXY = ENV.flag(
    "BEHIND_HTTPS_PROXY", False, about="A proxy in front ends HTTPS and sets X-Forwarded-Proto"
)
if BEHIND_HTTPS_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_filters",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "config.apps.ConfigConfig",
    "apps.projects.apps.ProjectsConfig",
    "apps.storage.apps.StorageConfig",
    "apps.executor.apps.ExecutorConfig",
    "apps.jobs.apps.JobsConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# --- database -----------------------------------------------------------------------------------------------
_SQLITE_URL = f"sqlite:///{quote(str(DATA_DIR / 'trainyard.sqlite3'))}"


_ENGINES = ("django.db.backends.sqlite3", "django.db.backends.postgresql")


def _database(url: str) -> dict[str, Any]:
    database: dict[str, Any] = environ.Env.db_url_config(url)
    if database.get("ENGINE") not in _ENGINES:
        raise ValueError("it names neither SQLite nor PostgreSQL")
    if database["ENGINE"] == "django.db.backends.sqlite3":
        # IMMEDIATE: a transaction that will write takes the lock at its start and waits for it, instead of failing
        # half-way. WAL: readers and the one writer do not block each other.
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
        }
    else:
        database["CONN_MAX_AGE"] = 60
        database["CONN_HEALTH_CHECKS"] = True
    return database


DATABASES = {
    "default": ENV.url(
        "DATABASE_URL",
        _SQLITE_URL,
        _database,
        about="Database; empty keeps an SQLite file in DATA_DIR",
        example="postgresql://user:password@localhost:5432/trainyard",
    )
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- people -------------------------------------------------------------------------------------------------
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:jobs_job_changelist")

# --- language and time --------------------------------------------------------------------------------------
LANGUAGE_CODE = ENV.choice("LANGUAGE_CODE", "en", ("en", "ko"), about="Language where the browser asks for none")
LANGUAGES = [("en", _("English")), ("ko", _("Korean"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = ENV.time_zone("TIME_ZONE", "UTC", about="Time zone of the pages")
USE_TZ = True

# --- static files -------------------------------------------------------------------------------------------
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "templates" / "static"]
# Served straight from the packages: nothing to collect on a laptop, and no copy that could be stale.
WHITENOISE_USE_FINDERS = True

# --- API ----------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "EXCEPTION_HANDLER": "apps.jobs.api.problems.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Trainyard API",
    "DESCRIPTION": "Train computer-vision models: projects, datasets and jobs.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "StateEnum": "apps.jobs.states.State",
        "ImportStateEnum": "apps.storage.models.ImportState",
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# --- Celery -------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = ENV.text(
    "CELERY_BROKER_URL",
    f"sqla+sqlite:///{DATA_DIR / 'broker.sqlite3'}",
    shown="",
    about="Message broker (redis://localhost:6379/0); empty keeps an SQLite file in DATA_DIR, no server needed",
)
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = (
    {"connect_args": {"timeout": 30}} if CELERY_BROKER_URL.startswith("sqla+sqlite") else {}
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_TIME_LIMIT = 300
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
# Importing a dataset takes minutes to hours: a queue and a worker (`importer`) of its own, so that jobs never wait.
CELERY_TASK_ROUTES = {"storage.run_import": {"queue": "imports"}}
# A pass that the worker did not get to in time is dropped: the next one does all of its work.
CELERY_BEAT_SCHEDULE = {
    "dispatch": {"task": "jobs.dispatch", "schedule": 5.0, "options": {"expires": 5}},
    "reconcile": {"task": "jobs.reconcile", "schedule": 3.0, "options": {"expires": 3}},
    "sweep": {"task": "storage.sweep", "schedule": 60.0, "options": {"expires": 60}},
    "tidy-broker": {"task": "jobs.tidy_broker", "schedule": 600.0, "options": {"expires": 600}},
    # At an hour of CELERY_TIMEZONE, not so many seconds after the start: a platform restarted daily must get to it too.
    "retention": {"task": "jobs.retention", "schedule": crontab(hour=3, minute=20), "options": {"expires": 3600}},
}

# --- the platform as trainers see it ------------------------------------------------------------------------
INTERNAL_AUTH_TOKEN = _secret("INTERNAL_AUTH_TOKEN", "The platform's own token; each trainer's is derived from it")
PLATFORM_URL = ENV.text(
    "PLATFORM_URL", "http://127.0.0.1:8000", about="Address under which trainers reach this platform"
).rstrip("/")

# --- executor -----------------------------------------------------------------------------------------------
EXECUTOR = ENV.text("EXECUTOR", "subprocess", about="What starts trainers: subprocess, or a dotted path to your own")
ATTEMPTS_ROOT = DATA_DIR / "attempts"
TRAINER_COMMAND = [
    ENV.text("TRAINER_PYTHON", sys.executable, shown="", about="Python that runs trainers; empty: the platform's own"),
    "-m",
    "trainer",
]
TRAINER_DEVICES = (
    ENV.items("TRAINER_DEVICES", [], about="GPUs that jobs may lease (0,1); empty takes all that nvidia-smi lists")
    or None
)
CPU_SLOTS = ENV.integer("CPU_SLOTS", 1, about="Jobs at a time on a machine without a GPU", minimum=1)
STOP_GRACE_SECONDS = ENV.integer("STOP_GRACE_SECONDS", 30, about="Seconds a stopped trainer has before it is killed")
LINGER_SECONDS = ENV.integer(
    "LINGER_SECONDS", 300, about="Seconds an ended trainer waits for the platform to take its last messages"
)
ATTEMPTS_KEPT_DAYS = ENV.integer(
    "ATTEMPTS_KEPT_DAYS", 14, about="Days that working files and heartbeats of an ended attempt are kept; its log stays"
)
CACHE_DIR = _folder("CACHE_DIR", DATA_DIR / "cache", "Folder of the datasets that trainers fetched; empty: in DATA_DIR")
CACHE_MAX_GB = ENV.integer("CACHE_MAX_GB", 100, about="GB that CACHE_DIR may grow to", minimum=1)
WEIGHTS_DIR = _folder(
    "WEIGHTS_DIR", DATA_DIR / "weights", "Folder of published weights (yolo11n.pt …); empty: in DATA_DIR"
)

# --- object store -------------------------------------------------------------------------------------------
# Named as the trainer's variables (trainer/contract/variables.py), which is where they end up.
STORE_ENVIRONMENT = {
    "STORAGE_TYPE": ENV.choice(
        "STORAGE_TYPE", "local", ("local", "minio", "r2"), about="Object store for datasets and artifacts"
    ),
    "LOCAL_STORAGE_ROOT": str(
        _folder("LOCAL_STORAGE_ROOT", DATA_DIR / "store", "Folder of the local store; empty: in DATA_DIR")
    ),
    "MINIO_ENDPOINT": ENV.text("MINIO_ENDPOINT", "http://localhost:9000", about="MinIO, or any S3 endpoint"),
    "MINIO_ACCESS_KEY": ENV.text("MINIO_ACCESS_KEY", about="MinIO access key"),
    "MINIO_SECRET_KEY": ENV.text("MINIO_SECRET_KEY", about="MinIO secret key"),
    "MINIO_BUCKET": ENV.text("MINIO_BUCKET", "trainyard", about="MinIO bucket"),
    "R2_ENDPOINT": ENV.text("R2_ENDPOINT", about="Cloudflare R2 endpoint"),
    "R2_ACCESS_KEY_ID": ENV.text("R2_ACCESS_KEY_ID", about="R2 access key id"),
    "R2_SECRET_ACCESS_KEY": ENV.text("R2_SECRET_ACCESS_KEY", about="R2 secret access key"),
    "R2_BUCKET": ENV.text("R2_BUCKET", about="R2 bucket"),
}

# The platform's alone: trainers are not given it.
STORAGE_PUBLIC_ENDPOINT = ENV.text(
    "STORAGE_PUBLIC_ENDPOINT",
    about="Where browsers reach the S3 service, if elsewhere than trainers do (https://s3.example.org)",
).rstrip("/")

# --- MLflow -------------------------------------------------------------------------------------------------
MLFLOW_TRACKING_URI = ENV.text(
    "MLFLOW_TRACKING_URI",
    f"sqlite:///{DATA_DIR / 'mlflow' / 'mlflow.db'}",
    shown="",
    about="MLflow server (http://localhost:5000) or database; empty: an SQLite file in DATA_DIR; `off`: none",
)
MLFLOW_TRACKING_USERNAME = ENV.text("MLFLOW_TRACKING_USERNAME", about="User of the MLflow server")
MLFLOW_TRACKING_PASSWORD = ENV.text("MLFLOW_TRACKING_PASSWORD", about="Password of the MLflow server")
MLFLOW_UI_URL = ENV.text(
    "MLFLOW_UI_URL",
    MLFLOW_TRACKING_URI if MLFLOW_TRACKING_URI.startswith("http") else "http://localhost:5000",
    shown="http://localhost:5000",
    about="Where a browser opens MLflow",
).rstrip("/")

# --- logging ------------------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        # Two periodic tasks every few seconds: their routine is not news.
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "alembic": {"level": "WARNING"},
        "mlflow": {"level": "WARNING"},
    },
}

# --- the admin's face ---------------------------------------------------------------------------------------
UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Trainyard",
    "SITE_HEADER": "Trainyard",
    "SITE_SUBHEADER": _("Train computer vision models"),
    "SITE_SYMBOL": "train",
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("trainyard/favicon.svg")}
    ],
    "STYLES": [lambda request: static("trainyard/console.css")],
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {
                "title": _("Training"),
                "items": [
                    {
                        "title": _("Jobs"),
                        "icon": "model_training",
                        "link": reverse_lazy("admin:jobs_job_changelist"),
                    },
                    {
                        "title": _("Datasets"),
                        "icon": "photo_library",
                        "link": reverse_lazy("admin:storage_dataset_changelist"),
                        # Their versions have pages of their own.
                        "active": lambda request: request.path.startswith(
                            str(reverse_lazy("admin:app_list", args=["storage"]))
                        ),
                    },
                    {
                        "title": _("Projects"),
                        "icon": "folder",
                        "link": reverse_lazy("admin:projects_project_changelist"),
                    },
                ],
            },
            {
                "title": _("Elsewhere"),
                "items": [
                    {"title": _("MLflow"), "icon": "monitoring", "link": lambda request: MLFLOW_UI_URL},
                    {"title": _("API"), "icon": "api", "link": reverse_lazy("api-docs")},
                ],
            },
            {
                "title": _("People"),
                "items": [
                    {
                        "title": _("Users"),
                        "icon": "person",
                        "link": reverse_lazy("admin:auth_user_changelist"),
                        "permission": lambda request: request.user.is_superuser,
                    },
                    {
                        "title": _("API tokens"),
                        "icon": "key",
                        "link": reverse_lazy("admin:authtoken_tokenproxy_changelist"),
                        "permission": lambda request: request.user.is_superuser,
                    },
                ],
            },
        ],
    },
}
