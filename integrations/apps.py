from django.apps import AppConfig


class IntegrationsConfig(AppConfig):
    name = "integrations"
    verbose_name = "Integrations"

    def ready(self) -> None:
        # `atom` may not import this package; it calls what is registered here.
        from atom import members
        from integrations import disconnecting

        members.granted_by, members.give_up = disconnecting.granted_by, disconnecting.give_up
