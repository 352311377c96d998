from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import import_string
from environs import EnvError


class AtomConfig(AppConfig):
    name = "atom"
    verbose_name = "People and tenants"

    def ready(self) -> None:
        # Not while the settings are read: a backend's module may ask for them.
        try:
            found = import_string(settings.EMAIL_BACKEND)
        except ImportError:
            found = None
        if not isinstance(found, type):
            raise EnvError(
                "ATOM_EMAIL_BACKEND must be a class's full name, like django.core.mail.backends.smtp.EmailBackend"
            )
