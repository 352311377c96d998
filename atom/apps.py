from django.apps import AppConfig


class AtomConfig(AppConfig):
    name = "atom"
    verbose_name = "People and tenants"
