from django.apps import AppConfig


class HistoricalSyncConfig(AppConfig):
    name = "historical_sync"
    verbose_name = "Historical sync"

    def ready(self) -> None:
        # `atom` and `integrations` may not import this package; they call what is registered here.
        from atom import workspace
        from historical_sync import actions, allowance, coverage, removing
        from integrations import connect, disconnecting, narrowing

        workspace.usage = allowance.usage_of
        connect.reconnected_hooks.append(actions.reconnected)
        disconnecting.disconnecting_hooks.append(actions.disconnecting)
        disconnecting.removing_hooks.append(removing.request)
        narrowing.widened_hooks.append(coverage.widened)
