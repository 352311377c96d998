from django.apps import AppConfig


class HistoricalSyncConfig(AppConfig):
    name = "historical_sync"
    verbose_name = "Historical sync"
