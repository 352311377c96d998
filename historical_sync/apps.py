from django.apps import AppConfig


class HistoricalSyncConfig(AppConfig):
    name = "historical_sync"
    verbose_name = "Historical sync"

    def ready(self) -> None:
        # `integrations` may not import this package; it calls what is registered here.
        from historical_sync import actions, removing
        from integrations import connect

        connect.reconnected_hooks.append(actions.reconnected)
        connect.disconnecting_hooks.append(actions.disconnecting)
        connect.removing_hooks.append(removing.request)
