"""What a fresh installation needs before its first job: a database, a place for MLflow, somebody who may log in."""

import secrets
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.management import call_command

ADMIN = "admin"


def prepare() -> None:
    """Migrate the database and make MLflow's, if it is a file of ours. Safe to repeat."""
    call_command("migrate", interactive=False, verbosity=0)
    prepare_tracking_database()


def prepare_tracking_database() -> None:
    """Create the schema of MLflow's SQLite file now: left to the first trainer, it would cost that run seconds."""
    uri = settings.MLFLOW_TRACKING_URI
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    from trainer.recorder import create_database

    create_database(uri, (settings.DATA_DIR / "mlflow" / "artifacts").as_uri())


def password_file() -> Path:
    return Path(settings.DATA_DIR / "secrets" / "admin-password")


def ensure_admin() -> tuple[AbstractUser, str | None]:
    """The superuser `admin`, made with a random password where there is none.

    Returns the user, and the password where it is known to be right: it is kept in a file that only its owner reads.
    """
    user, made = get_user_model().objects.get_or_create(
        username=ADMIN, defaults={"is_staff": True, "is_superuser": True}
    )
    path = password_file()
    if made:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(9))
        user.set_password(path.read_text())
        user.save()
    password = path.read_text() if path.exists() else None
    return user, password if password and user.check_password(password) else None
